"""Standard normal numbers from a cryptographic generator.

Noise that protects somebody must not be guessable: a seeded generator whose seed is written down,
or whose state can be found out from its output, gives noise that anyone can take off again. Here a
key of 256 bits is stretched by ChaCha20, which is as hard to predict as to break that cipher, and
turned into normal numbers by the method of Box and Muller. A key gives the same numbers for ever,
so a run that keeps its keys can be computed again.

The numbers are doubles, so they are normal up to rounding. I. Mironov ("On significance of the
least significant bits for differential privacy", CCS 2012) shows what an adversary who sees sums to
the last bit can make of that; models that are released are rounded once more, to single precision.
"""

import secrets
from math import pi

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor

KEY_BYTES = 32

_NONCE = bytes(16)
_TILE = 1 << 16


def draw_secret() -> bytes:
    """Return a new key from the operating system's generator."""
    return secrets.token_bytes(KEY_BYTES)


def key_of(number: int) -> bytes:
    """Return the key that a number of at most 256 bits stands for."""
    return number.to_bytes(KEY_BYTES, "little")


def standard_normal(key: bytes, size: int) -> Tensor:
    """Return the first `size` independent standard normal numbers of a key.

    Args:
        key: 32 bytes; use each for one purpose only.
        size: How many.

    Returns:
        Shape ``(size,)``, float64. A larger size begins with the same numbers.
    """
    stream = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()
    out = np.empty(size + size % 2, dtype=np.float64)
    for start in range(0, len(out), _TILE):
        pairs = (min(start + _TILE, len(out)) - start) // 2
        words = np.frombuffer(stream.update(bytes(16 * pairs)), dtype="<u8") >> np.uint64(11)
        uniform = (words.astype(np.float64) + 0.5) * 2.0**-53  # inside (0, 1), never at its ends
        radius = np.sqrt(-2.0 * np.log(uniform[0::2]))
        angle = 2.0 * pi * uniform[1::2]
        out[start : start + 2 * pairs : 2] = radius * np.cos(angle)
        out[start + 1 : start + 2 * pairs : 2] = radius * np.sin(angle)
    return torch.from_numpy(out[:size])
