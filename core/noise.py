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
from collections.abc import Mapping
from hashlib import blake2b
from math import pi

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor

from roundel.core.params import tensors_sha256

KEY_BYTES = 32

_NONCE = bytes(16)
_TILE = 1 << 16


def draw_secret() -> bytes:
    """Return a new key from the operating system's generator."""
    return secrets.token_bytes(KEY_BYTES)


def key_of(number: int) -> bytes:
    """Return the key that a number of at most 256 bits stands for."""
    return number.to_bytes(KEY_BYTES, "little")


def bound_key(key: bytes, about: str, tensors: Mapping[str, Tensor]) -> bytes:
    """Return the key of the noise that hides these tensors, and no others.

    Whoever sees the same noise on two things has their difference in the clear. So what is computed
    again gets the noise that it had, and whatever differs by a bit gets another one.

    Args:
        key: A secret key.
        about: What the noise is for.
        tensors: What it is added to, on the CPU.
    """
    return subkey(key, tensors_sha256(tensors, about))


def subkey(key: bytes, about: str) -> bytes:
    """Return a key for one purpose, from which neither the secret nor other ones can be found."""
    return blake2b(about.encode(), key=key, digest_size=KEY_BYTES).digest()


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
        words = np.frombuffer(stream.update(bytes(16 * pairs)), dtype="<u8") >> np.uint64(12)
        uniform = (words.astype(np.float64) + 0.5) * 2.0**-52  # exact, and never 0 or 1
        radius = np.sqrt(-2.0 * np.log(uniform[0::2]))
        angle = 2.0 * pi * uniform[1::2]
        out[start : start + 2 * pairs : 2] = radius * np.cos(angle)
        out[start + 1 : start + 2 * pairs : 2] = radius * np.sin(angle)
    return torch.from_numpy(out[:size])
