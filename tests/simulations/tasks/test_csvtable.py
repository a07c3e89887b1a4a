"""CSV files become tables; what is wrong with one is said with its line and column."""

import random

import numpy as np
import pytest

from roundel.core.errors import ConfigError, DataError
from roundel.simulations.tasks import csvtable
from roundel.simulations.tasks.csvtable import read_csv
from roundel.simulations.tasks.tables import Columns, Table

FLOWERS = """\
length,width,who,species
5.1,3.5,ann,setosa
7,3.2e0,bob,virginica
 4.9 ,-3,ann,setosa
"""


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, encoding="utf-8", **columns):
        file = tmp_path / "f.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return read_csv(file, Columns(**columns))

    return write_and_read


@pytest.fixture
def complaint(read, tmp_path):
    def said(text, error=DataError, **columns):
        with pytest.raises(error) as caught:
            read(text, **columns)
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(str(tmp_path / "f.csv"), "F")

    return said


def test_the_last_column_is_the_target_and_all_others_features(read):
    table = read(FLOWERS.replace("who,", "age,").replace("ann", "30").replace("bob", "40"))
    assert table.target == "species"
    assert table.features == ["length", "width", "age"]
    assert table.numbers.tolist() == [[5.1, 3.5, 30], [7.0, 3.2, 40], [4.9, -3.0, 30]]
    assert (table.labels.values, table.labels.codes.tolist()) == (
        ["setosa", "virginica"],
        [0, 1, 0],
    )
    assert table.users is None


def test_columns_are_chosen_by_name_in_the_order_asked_for(read):
    table = read(FLOWERS, target="who", features=["width", "length"])
    assert table.features == ["width", "length"]
    assert table.numbers.tolist() == [[3.5, 5.1], [3.2, 7.0], [-3.0, 4.9]]
    assert list(table.labels.values) == ["ann", "bob"]


def test_a_user_column_says_whose_each_row_is_and_is_no_feature(read):
    table = read(FLOWERS, user="who")
    assert table.features == ["length", "width"]
    assert table.users is not None
    assert table.users.codes.tolist() == [0, 1, 0]


def test_the_last_column_but_the_user_is_the_target(read):
    assert read("x,y,who\n1,a,ann\n", user="who").target == "y"


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_commas_semicolons_and_tabs_separate_cells(read, mark):
    table = read(FLOWERS.replace(",", mark), user="who")
    assert table.numbers.tolist() == [[5.1, 3.5], [7.0, 3.2], [4.9, -3.0]]


def test_quotes_may_hold_the_separator_and_line_ends(read):
    table = read('"length, cm","note\nof two lines",y\n1,2,"a,b"\n3,4,c\n')
    assert table.features == ["length, cm", "note\nof two lines"]
    assert list(table.labels.values) == ["a,b", "c"]
    assert table.place(1).endswith("f.csv, line 4")


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_do_not_matter(read):
    plain = read(FLOWERS, user="who")
    table = read(FLOWERS.replace("\n", "\r\n") + "\r\n\r\n", encoding="utf-8-sig", user="who")
    assert table.features == plain.features
    assert table.numbers.tolist() == plain.numbers.tolist()


def test_a_long_file_is_read_piece_by_piece_to_the_same_table(read, monkeypatch):
    text = "a,b,y\n" + "".join(f"{i},{-i},{'pq'[i % 2]}\n" for i in range(10))
    whole = read(text)
    monkeypatch.setattr(csvtable, "_CHUNK", 3)
    pieces = read(text)
    assert pieces.numbers.tolist() == whole.numbers.tolist() == [[i, -i] for i in range(10)]
    assert pieces.labels.codes.tolist() == [0, 1] * 5
    assert pieces.lines.tolist() == list(range(2, 12))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "F is empty; its first line must name the columns"),
        ("a,b,y\n", "F has no rows below its header; there is nothing to learn from"),
        (
            "1,2,3\n4,5,6\n",
            "F begins with numbers; its first line must name the columns: add one",
        ),
        (
            "y\n1\n",
            (
                "F has only the columns y; it takes a target and a feature at least, separated "
                "by commas, semicolons or tabs"
            ),
        ),
        ("a,,y\n1,2,3\n", "F: column 2 is called ''; give every column a name of its own"),
        ("a,a ,y\n1,2,3\n", "F: column 2 is called 'a'; give every column a name of its own"),
        (
            "a,b,y\n1,2,p\n3,q\n",
            "F, line 3 has 2 cells and the header names 3; make them as many",
        ),
        (
            "a,b,y\n1,2,p\n\n3,4,q,5\n",
            "F, line 4 has 4 cells and the header names 3; make them as many",
        ),
        (
            "a,b,y\n1,2,p\n3,four,q\n",
            (
                "F, line 3, column 'b': 'four' is not a number; correct it, or leave the column "
                "out of task.features"
            ),
        ),
        (
            "a,b,y\n1,2_0,p\n",
            (
                "F, line 2, column 'b': '2_0' is not a number; correct it, or leave the column "
                "out of task.features"
            ),
        ),
        (
            "a,b,y\n1,,p\n",
            (
                "F, line 2, column 'b': '' is not a number; correct it, or leave the column "
                "out of task.features"
            ),
        ),
        (
            "a,b,y\n1,2,p\nnan,4,q\n",
            (
                "F, line 3, column 'a': 'nan' is not a finite number of 32 bits; correct it or "
                "remove the row"
            ),
        ),
        (
            "a,b,y\n1,2,p\n3,-inf,q\n",
            (
                "F, line 3, column 'b': '-inf' is not a finite number of 32 bits; correct it or "
                "remove the row"
            ),
        ),
        (
            "a,b,y\n1,1e39,p\n",
            (
                "F, line 2, column 'b': '1e39' is not a finite number of 32 bits; "
                "correct it or remove the row"
            ),
        ),
        (
            "a,b,y\n1,2,p\n3,4, \n",
            "F, line 3, column 'y' is empty; fill it or remove the row",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(complaint, text, sentence):
    assert complaint(text) == sentence


def test_an_empty_user_is_said_with_its_place(complaint):
    assert complaint("who,b,y\n,2,p\n", user="who") == (
        "F, line 2, column 'who' is empty; fill it or remove the row"
    )


@pytest.mark.parametrize("knob", ["target", "user"])
def test_a_column_that_does_not_exist_is_an_error_with_a_suggestion(complaint, knob):
    sentence = complaint(FLOWERS, ConfigError, **{knob: "specie"})
    assert sentence == f"task.{knob}: F has no column 'specie'; did you mean 'species'?"


def test_a_feature_that_does_not_exist_is_an_error_with_a_suggestion(complaint):
    sentence = complaint(FLOWERS, ConfigError, features=["length", "with"])
    assert sentence == "task.features: F has no column 'with'; did you mean 'width'?"


def test_the_target_is_no_feature(complaint):
    assert "names 'species', which is the target" in complaint(
        FLOWERS, ConfigError, features=["length", "species"]
    )


def test_text_in_another_encoding_and_bytes_are_refused(complaint):
    assert complaint("größe,y\n1,2\n".encode("latin-1")) == (
        "F is not text in UTF-8; save it as CSV in that encoding"
    )
    assert "is not text in UTF-8" in complaint(b"PK\x03\x04\xff\xfe")


def test_quotes_that_do_not_end_and_huge_cells_are_refused(complaint):
    assert complaint('a,b,y\n1,2,"p\n').startswith("F, line 2: unexpected end of data;")
    assert "field larger than field limit" in complaint("a,b,y\n1,2," + "p" * 200_000 + "\n")


def test_random_damage_is_read_or_refused_and_nothing_else(read):
    draw = random.Random(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(FLOWERS.encode())
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.choice(b'\n\r\0",;\t\xff9ax ')
        try:
            table = read(bytes(data), user="who")
        except (DataError, ConfigError) as error:
            outcomes.add(type(error))
        else:
            outcomes.add(Table)
            assert np.isfinite(table.numbers).all()
            assert len(table.numbers) == len(table.labels.codes) == len(table.lines)
    assert outcomes == {DataError, ConfigError, Table}
