"""Named tensors as bytes in memory, in the safetensors layout, without copying them.

    8 bytes    length of the header, unsigned, little-endian
    header     {"name": {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...}
    data       the tensors, one behind the other, without gaps, those of wide dtypes first

That order and spaces behind the header keep every tensor aligned to its dtype.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from roundel.core.params import bytes_of

WORD = 8
"""Bytes of the length field; data starts on a multiple of it."""

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The names of dtypes in headers."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def lay_out(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> list[memoryview]:
    """Return the bytes of tensors in pieces: the length and the header, then each tensor.

    Args:
        tensors: On the CPU. The pieces of those that are contiguous share their memory.
        metadata: Goes into the header, if given.

    Raises:
        ValueError: A dtype has no name.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    pieces: list[memoryview] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        if tensor.dtype not in _NAMES:
            raise ValueError(f"tensor {name!r} is of dtype {tensor.dtype}")
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        pieces.append(bytes_of(tensor))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % WORD)
    return [memoryview(len(text).to_bytes(WORD, "little") + text), *pieces]
