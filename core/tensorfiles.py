"""Named tensors as the bytes of a file, in the safetensors format.

That format has no digest of its own, so a sealed file carries one among its metadata: of all names,
dtypes, shapes and bytes, and of the other metadata.
"""

import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from roundel.core.params import tensors_blake3
from roundel.core.tensorbytes import lay_out

_DIGEST = "digest"


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file; views of one tensor become tensors of their own."""
    return b"".join(lay_out(tensors, metadata))


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of the bytes of a file.

    Raises:
        ValueError: They are not those of one.
    """
    try:
        tensors: dict[str, Tensor] = load(data)
        return tensors, _metadata(data)
    except SafetensorError as error:
        raise ValueError("these bytes are no safetensors file") from error


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[memoryview]:
    """Return a file that tells whether it is whole, in pieces that share the tensors' memory."""
    return lay_out(tensors, {**metadata, _DIGEST: _digest(tensors, metadata)})


def seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file that tells whether it is whole."""
    return b"".join(sealed(tensors, metadata))


def unseal(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a sealed file.

    Raises:
        ValueError: It is not one, or not whole.
    """
    tensors, metadata = unpack(data)
    if metadata.pop(_DIGEST, None) != _digest(tensors, metadata):
        raise ValueError("the digest is not that of the tensors")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    return tensors_blake3(tensors, repr(sorted(metadata.items())))


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata
