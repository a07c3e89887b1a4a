"""Normal numbers from a cipher: their distribution, and what they depend on."""

from math import pi

import numpy as np
import pytest
import torch
from scipy import stats

from roundel.core.noise import (
    KEY_BYTES,
    bound_key,
    draw_secret,
    key_of,
    standard_normal,
    subkey,
)

KEY = bytes(range(KEY_BYTES))


def test_the_numbers_are_standard_normal():
    drawn = standard_normal(KEY, 200_000).numpy()
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    assert abs(drawn.mean()) < 3 / len(drawn) ** 0.5
    assert abs(drawn.var() - 1) < 3 * (2 / len(drawn)) ** 0.5
    assert abs(stats.kurtosis(drawn)) < 3 * (24 / len(drawn)) ** 0.5


def test_the_two_numbers_of_a_pair_are_independent():
    drawn = standard_normal(KEY, 200_000).numpy()
    one, other = drawn[0::2], drawn[1::2]
    for power in (1, 2):
        assert abs(np.corrcoef(one**power, other**power)[0, 1]) < 3 / len(one) ** 0.5
    assert stats.kstest(np.arctan2(other, one), "uniform", args=(-pi, 2 * pi)).pvalue > 0.01


def test_they_are_finite_at_the_ends_of_what_the_cipher_gives(monkeypatch):
    class Extreme:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def encryptor(self) -> "Extreme":
            return self

        def update(self, zeros: bytes) -> bytes:
            words = [0, 2**64 - 1, 2**64 - 1, 0] * (len(zeros) // 32)
            return np.array(words, dtype="<u8").tobytes()

    monkeypatch.setattr("roundel.core.noise.Cipher", Extreme)
    drawn = standard_normal(KEY, 4)
    # u = 2**-53 gives a radius of sqrt(106 ln 2), u = 1 - 2**-53 one of almost 0.
    assert drawn[0].item() == pytest.approx((106 * np.log(2)) ** 0.5)
    assert 0 < drawn[2].item() < 1e-7


def test_chacha20_is_the_one_of_rfc_8439():
    # Its test vector 2.3.2 has counter 1; ours starts at 0 with a nonce of zeros (A.1, vector 1).
    words = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28")
    first, second = (int.from_bytes(words[i : i + 8], "little") >> 12 for i in (0, 8))
    u, v = (first + 0.5) / 2**52, (second + 0.5) / 2**52
    expected = (-2 * np.log(u)) ** 0.5 * np.array([np.cos(2 * pi * v), np.sin(2 * pi * v)])
    assert standard_normal(bytes(KEY_BYTES), 2).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 65_535, 65_536, 65_537, 200_001])
def test_more_numbers_begin_with_the_same(size):
    longest = standard_normal(KEY, 200_002)
    drawn = standard_normal(KEY, size)
    assert drawn.shape == (size,)
    assert drawn.dtype == torch.float64
    assert drawn.equal(longest[:size])


def test_other_keys_give_other_numbers():
    keys = [KEY, key_of(0), key_of(1), draw_secret(), draw_secret()]
    assert len({tuple(standard_normal(key, 3).tolist()) for key in keys}) == 5


@pytest.mark.parametrize("number", [0, 1, 2**63, 2**256 - 1])
def test_a_number_is_a_key(number):
    key = key_of(number)
    assert len(key) == KEY_BYTES
    assert int.from_bytes(key, "little") == number


def test_noise_is_bound_to_what_it_hides():
    one = {"params": torch.tensor([1.0, 2.0]), "within": torch.tensor([0.5])}
    same = {name: one[name].clone() for name in reversed(one)}
    bit = {**one, "within": torch.tensor([0.5 + 2**-24])}
    keys = {
        bound_key(KEY, "a", one),
        bound_key(KEY, "b", one),
        bound_key(KEY, "a", bit),
        bound_key(key_of(0), "a", one),
    }
    assert bound_key(KEY, "a", same) == bound_key(KEY, "a", one)
    assert len(keys) == 4
    assert {len(key) for key in keys} == {KEY_BYTES}


def test_keys_for_purposes_differ():
    assert len({KEY, subkey(KEY, "cohort"), subkey(KEY, "noise"), subkey(key_of(0), "noise")}) == 4
