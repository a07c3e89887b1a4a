"""Texts are read, numbered in one fixed way, and told apart by their speakers."""

from importlib.resources import files

import pytest

from roundel.core.errors import DataError
from roundel.simulations.tasks.texts import (
    ALPHABET,
    MOST_BYTES,
    VOCABULARY,
    decode,
    encode,
    read_text,
    speeches,
)

DATA = files("roundel.simulations.tasks") / "data"


# ---- numbers


def test_the_table_is_line_feed_and_printable_ascii_after_the_unknown():
    assert (ALPHABET[0], ALPHABET[1], ALPHABET[-1], VOCABULARY) == ("\n", " ", "~", 97)
    assert encode(ALPHABET).tolist() == list(range(1, 97))


@pytest.mark.parametrize("character", ["é", "\t", "\x7f", "\x80", "\N{PILE OF POO}"])
def test_every_other_character_is_unknown(character):
    assert encode(f"a{character}b").tolist() == [67, 0, 68]


def test_numbers_give_the_text_back_but_for_the_unknown():
    assert decode(encode("To be,\nor\tnot")) == "To be,\nor\N{REPLACEMENT CHARACTER}not"


def test_the_empty_text_has_no_numbers():
    assert encode("").tolist() == []


# ---- plays


def test_a_play_gives_what_each_speaker_says():
    assert speeches("A:\none\ntwo\n\nB:\nthree\n\n\nA:\nfour") == {
        "A": ["one\ntwo", "four"],
        "B": ["three"],
    }


def test_a_paragraph_without_a_name_goes_on_with_the_speech_before():
    text = "A title\n\nA:\none\n\ntwo\n\nB:\nthree\n \nB:\nfour"
    assert speeches(text) == {"A": ["one\ntwo"], "B": ["three", "four"]}


def test_a_line_within_a_speech_is_no_name_even_with_a_colon():
    assert speeches("A:\nhear this:\nB:\nyes") == {"A": ["hear this:\nB:\nyes"]}


@pytest.mark.parametrize(
    "text",
    [
        "plain text",
        "one\n\ntwo\n\nA:\nthree",
        ":\nno name",
        f"{'A' * 41}:\ntoo long for a name",
    ],
)
def test_a_text_with_few_names_is_no_play(text):
    assert speeches(text) is None


def test_a_name_may_have_forty_characters():
    assert speeches(f"{'A' * 40}:\nx") == {"A" * 40: ["x"]}


def test_half_of_the_paragraphs_are_enough():
    assert speeches("one\n\nA:\ntwo") == {"A": ["two"]}


# ---- the play that ships


def test_the_play_that_ships_has_27_speakers_and_811_speeches():
    play = speeches(read_text(None))
    assert play is not None
    assert (len(play), sum(map(len, play.values()))) == (27, 811)
    assert {name: len(play[name]) for name in ("ROSALIND", "ORLANDO", "A LORD")} == {
        "ROSALIND": 201,
        "ORLANDO": 120,
        "A LORD": 1,
    }
    assert play["ADAM"][0] == "Yonder comes my master, your brother."
    assert any("All the world's a stage," in speech for speech in play["JAQUES"])


def test_the_play_is_ascii_without_stage_directions():
    data = (DATA / "as-you-like-it.txt").read_bytes()
    assert data.isascii()
    assert set(b"[]\t\r|").isdisjoint(data)
    assert 0 not in encode(data.decode())


def test_where_the_play_comes_from_lies_beside_it():
    note = (DATA / "as-you-like-it.LICENSE.txt").read_text(encoding="utf-8")
    assert "public domain" in note
    assert "27 speakers, 811 speeches" in note


# ---- files


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_file_is_read_with_line_feeds_and_without_a_byte_order_mark(tmp_path, ends):
    file = tmp_path / "text"
    file.write_bytes(b"\xef\xbb\xbf" + f"one{ends}two".encode())
    assert read_text(file) == "one\ntwo"


def test_a_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(DataError) as caught:
        read_text(tmp_path / "nothing.txt")
    assert str(caught.value) == (
        f"the text {tmp_path}/nothing.txt cannot be read (No such file or directory); "
        "set task.path to a text file"
    )


def test_a_directory_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read_text(tmp_path)


def test_a_file_that_is_not_utf_8_is_an_error_that_shows_the_byte(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9 noir")
    with pytest.raises(DataError, match=r"latin is not UTF-8: byte 3 is 0xe9; convert it$"):
        read_text(tmp_path / "latin")


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_file_is_an_error(tmp_path, text):
    (tmp_path / "blank").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"blank is empty; give one with characters"):
        read_text(tmp_path / "blank")


def test_a_file_that_is_too_large_is_an_error(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(DataError, match=r"large is larger than 16 MiB; give a part of it$"):
        read_text(tmp_path / "large")
