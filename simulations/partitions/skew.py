"""Feature skew: inputs that look different at each client, on top of any division of examples.

Noise grows with the client's number, as in the "noise-based feature imbalance" of Li et al.,
"Federated Learning on Non-IID Data Silos" (ICDE 2022, arXiv:2102.02079). Rotations make
groups of clients, as in the rotated MNIST of Ghosh et al., "An Efficient Framework for Clustered
Federated Learning" (NeurIPS 2020, arXiv:2006.04088).
"""

from dataclasses import dataclass
from math import cos, isqrt, radians, sin

import torch
from torch import Tensor
from torch.nn import functional

from roundel.core.config import PartitionConfig
from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.core.seeds import derive, torch_generator

_RIGHT_ANGLE = 90.0


@dataclass(frozen=True, kw_only=True)
class FeatureSkew:
    """What is done to a client's inputs, to those of all its parts alike.

    Attributes:
        noise: Client k of N gets Gaussian noise of standard deviation ``noise * k / (N - 1)``, the
            same whenever it is asked for.
        rotations: R; client k's images are turned counter-clockwise by ``(k mod R) * 360 / R``
            degrees.
        seed: The experiment's data seed; decides the noise.
    """

    noise: float = 0.0
    rotations: int = 1
    seed: int = 0

    @classmethod
    def of(cls, config: PartitionConfig, seed: int) -> "FeatureSkew":
        """Return the skew that an experiment says."""
        return cls(noise=config.noise, rotations=config.rotations, seed=seed)

    @property
    def is_none(self) -> bool:
        """Whether inputs stay as they are."""
        return self.noise == 0.0 and self.rotations == 1

    def check(self, pool: Examples) -> None:
        """Check that this can be done to a pool's inputs.

        Raises:
            DataError: It cannot.
        """
        if self.is_none:
            return
        key = "partition.noise" if self.rotations == 1 else "partition.rotations"
        if not pool.inputs.is_floating_point():
            raise DataError(
                f"{key} changes inputs that are real numbers, and these are {pool.inputs.dtype}; "
                "leave it out"
            )
        if self.rotations > 1:
            _as_images(pool.inputs)

    def apply(self, inputs: Tensor, client: int, clients: int) -> Tensor:
        """Return one client's inputs as it sees them.

        Args:
            inputs: All inputs of the client, in the order of the pool, shape ``(n, ...)``.
            client: Its number.
            clients: How many clients there are.
        """
        turned = rotated(inputs, client % self.rotations * 360 / self.rotations)
        spread = self.noise * client / max(clients - 1, 1)
        if spread == 0.0:
            return turned
        generator = torch_generator(derive(self.seed, "feature noise", client=client))
        noise = torch.randn(turned.shape, generator=generator, dtype=turned.dtype)
        return turned + spread * noise


def rotated(inputs: Tensor, degrees: float) -> Tensor:
    """Turn images counter-clockwise around their centre.

    Multiples of 90 degrees move pixels and change none. Others interpolate between four pixels;
    what comes in from outside is 0.

    Args:
        inputs: Square images: floats of shape ``(n, C, S, S)``, ``(n, S, S)`` or ``(n, S * S)``.
        degrees: By how much.

    Raises:
        DataError: The inputs are not of such a shape.
    """
    if degrees == 0.0 or len(inputs) == 0:
        return inputs
    images = _as_images(inputs)
    quarters = degrees / _RIGHT_ANGLE
    if quarters.is_integer():
        return images.rot90(int(quarters), dims=(2, 3)).reshape(inputs.shape)
    return interpolated(images, degrees).to(inputs.dtype).reshape(inputs.shape)


def interpolated(images: Tensor, degrees: float) -> Tensor:
    """Turn images by any angle, by bilinear interpolation, shape ``(n, C, S, S)``."""
    angle = radians(degrees)
    turn = [[cos(angle), -sin(angle), 0.0], [sin(angle), cos(angle), 0.0]]
    wide = images if images.dtype == torch.float64 else images.float()
    theta = torch.tensor(turn, dtype=wide.dtype).expand(len(wide), 2, 3)
    grid = functional.affine_grid(theta, list(wide.shape), align_corners=False)
    return functional.grid_sample(wide, grid, mode="bilinear", align_corners=False)


def _as_images(inputs: Tensor) -> Tensor:
    """Return inputs in the shape ``(n, C, S, S)``."""
    match inputs.shape[1:]:
        case (_, height, width) if height == width:
            return inputs
        case (height, width) if height == width:
            return inputs.unsqueeze(1)
        case (pixels,) if isqrt(pixels) ** 2 == pixels:
            return inputs.reshape(-1, 1, isqrt(pixels), isqrt(pixels))
        case shape:
            raise DataError(
                "partition.rotations turns square images, of shape (S, S), (C, S, S) or (S * S,), "
                f"and an input has the shape {tuple(shape)}; leave it out"
            )
