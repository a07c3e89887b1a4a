"""The tensors of a broadcast by name, whatever carries them."""

from collections.abc import Mapping

from torch import Tensor

PARAMS, INTEGERS = "params", "integers"
"""The names of what every broadcast has."""

_CHANNEL = "channel/"


def broadcast_tensors(
    params: Tensor, integers: Tensor, channels: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Name the tensors of a broadcast."""
    extra = {f"{_CHANNEL}{name}": value for name, value in channels.items()}
    return {PARAMS: params, INTEGERS: integers, **extra}


def channels_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the channels among the tensors of a broadcast, by their own names."""
    return {
        name.removeprefix(_CHANNEL): value
        for name, value in tensors.items()
        if name.startswith(_CHANNEL)
    }
