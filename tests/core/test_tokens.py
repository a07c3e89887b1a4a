"""A join token is one word, and what is not one is refused without repeating it."""

import base64

import pytest

from roundel.core.errors import ConfigError
from roundel.core.tokens import JoinToken, digest_of_secret, is_secret, parse_token

TOKEN = JoinToken(port=8471, id="0a0b0c0d", secret=bytes(range(16)), fingerprint=b"\xff" * 32)
# 01, 2117, 0a0b0c0d, 000102030405060708090a0b0c0d0e0f, ff x 32
TEXT = "roundel-ASEXCgsMDQABAgMEBQYHCAkKCwwNDg__" + "_" * 41 + "w"


def text_of(packed: bytes) -> str:
    return "roundel-" + base64.urlsafe_b64encode(packed).decode()


def test_a_token_is_one_word():
    assert TOKEN.to_text() == TEXT
    assert parse_token(TEXT) == TOKEN


def test_white_space_around_a_token_and_padding_do_no_harm():
    assert parse_token(f" {TEXT}\n") == TOKEN
    assert parse_token(text_of(bytes([1]) + bytes(54))).port == 0


@pytest.mark.parametrize("text", ["", "hello", "ROUNDEL-x", TEXT[8:]])
def test_a_word_that_does_not_begin_like_one_is_no_token(text):
    with pytest.raises(ConfigError, match="no join token, for it does not begin with 'roundel-'"):
        parse_token(text)


@pytest.mark.parametrize("text", [TEXT[:-1], TEXT + "A", TEXT[:20] + "!" + TEXT[21:], "roundel-"])
def test_a_damaged_token_is_refused_and_not_repeated(text):
    with pytest.raises(ConfigError, match="the join token is damaged") as refused:
        parse_token(text)
    assert TEXT[10:18] not in str(refused.value)


def test_a_token_of_a_later_layout_asks_for_an_upgrade():
    with pytest.raises(ConfigError, match="of version 2; upgrade Roundel"):
        parse_token(text_of(bytes([2]) + bytes(54)))


def test_the_secret_is_not_in_its_repr():
    assert "secret" not in repr(TOKEN)


def test_a_secret_is_known_by_its_digest():
    digest = digest_of_secret(b"abc")
    assert digest.hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert is_secret(b"abc", digest)
    assert not is_secret(b"abd", digest)
    assert not is_secret(b"", bytes(32))
