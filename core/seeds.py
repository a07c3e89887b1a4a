"""The only source of randomness: numbers derived from (seed, purpose, round, client).

Nothing in Roundel draws from a generator that somebody else may have advanced. A draw is named by
what it is for, so it is the same in any order, in any process, and after a crash. `derive` is a
keyed hash whose output never changes between versions; a test pins its values.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_U64 = 1 << 64


def derive(seed: int, purpose: str, round: int = 0, client: int = 0) -> int:
    """Derive an independent seed for one purpose.

    Args:
        seed: The seed that the user chose, any integer in [-2**63, 2**63).
        purpose: What the draw is for, such as ``"batches"``.
        round: The round it belongs to; 0 for draws that happen once.
        client: The client it belongs to; 0 for draws of the whole federation.

    Returns:
        An integer in [0, 2**63), which torch, numpy and Python all take as a seed.
    """
    key = b"".join(n.to_bytes(8, "little", signed=True) for n in (seed, round, client))
    digest = blake2b(purpose.encode(), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(seed: int) -> torch.Generator:
    """Return a new CPU generator that starts at `seed`."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    return generator


def integers_below(bounds: Iterator[int], seed: int) -> Iterator[int]:
    """Yield one unbiased integer in [0, bound) for each bound.

    Args:
        bounds: Positive bounds, each below 2**63.
        seed: Any value that `derive` returned.
    """
    counter = 0
    key = seed.to_bytes(8, "little")
    for bound in bounds:
        limit = _U64 - _U64 % bound  # draws at or above it would favour small results
        while True:
            digest = blake2b(counter.to_bytes(8, "little"), key=key, digest_size=8).digest()
            counter += 1
            draw = int.from_bytes(digest, "little")
            if draw < limit:
                yield draw % bound
                break


def sample(population: int, size: int, seed: int) -> list[int]:
    """Draw `size` distinct integers from range(population), uniformly, sorted.

    The cost grows with `size` alone: a shuffle of the whole range in which only the places that
    were touched are stored.

    Args:
        population: How many there are to choose from.
        size: How many to choose, at most `population`.
        seed: Any value that `derive` returned.
    """
    if not 0 <= size <= population:
        raise ValueError(f"cannot draw {size} distinct integers from {population}")
    moved: dict[int, int] = {}
    chosen = []
    for place, step in enumerate(integers_below((population - i for i in range(size)), seed)):
        target = place + step
        chosen.append(moved.get(target, target))
        moved[target] = moved.get(place, place)
    return sorted(chosen)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed the global generators around user code and put them back afterwards.

    Dropout and data augmentation draw from the global generators of torch, numpy and Python, on a
    GPU from that GPU's. Within this context they start at `seed`; outside it nothing has moved.
    """
    with undisturbed_rng():
        seed_generators(seed)
        yield


@contextmanager
def undisturbed_rng() -> Iterator[None]:
    """Put the global generators back afterwards to where they are."""
    states = generator_states()
    try:
        yield
    finally:
        put_back(states)


def seed_generators(seed: int) -> None:
    """Let the global generators of torch, numpy and Python start anew.

    Args:
        seed: Any value that `derive` returned.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 - user code draws from it
    random.seed(seed)


class GeneratorStates(NamedTuple):
    """Where the global generators are.

    Attributes:
        torch: The CPU's, and the GPU's if one is in use.
        numpy: Its name, its key and the rest.
        python: The standard library's.
    """

    torch: Sequence[Tensor]
    numpy: tuple[Any, ...]
    python: tuple[Any, ...]


def generator_states() -> GeneratorStates:
    """Return where the global generators are that `isolated_rng` seeds and puts back."""
    return GeneratorStates(
        torch=torch_rng_states(),
        numpy=tuple(np.random.get_state()),  # noqa: NPY002 - user code draws from it
        python=random.getstate(),
    )


def put_back(states: GeneratorStates) -> None:
    """Put the global generators back to where `generator_states` found them."""
    set_torch_rng_states(states.torch)
    np.random.set_state(states.numpy)  # noqa: NPY002 - see above
    random.setstate(states.python)


def same_states(a: GeneratorStates, b: GeneratorStates) -> bool:
    """Tell whether nothing was drawn from any global generator between two looks."""
    return all(map(torch.equal, a.torch, b.torch)) and same_host_states(a, b)


def same_host_states(a: GeneratorStates, b: GeneratorStates) -> bool:
    """Tell whether nothing was drawn from those of numpy and Python between two looks."""
    (kind, key, *rest), (other_kind, other_key, *other_rest) = a.numpy, b.numpy
    same_numpy = (kind, rest) == (other_kind, other_rest) and np.array_equal(key, other_key)
    return same_numpy and a.python == b.python


def torch_rng_states() -> list[Tensor]:
    """Return the states of torch's global generators: the CPU's, and the GPU's if one is in use."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def set_torch_rng_states(states: Sequence[Tensor]) -> None:
    """Put torch's global generators back to where `torch_rng_states` found them."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)
