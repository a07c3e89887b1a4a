"""NPZ files become tables; they are bounded and never unpickled."""

import io
import zipfile

import numpy as np
import pytest

from roundel.core.errors import ConfigError, DataError
from roundel.simulations.tasks import npztable
from roundel.simulations.tasks.npztable import read_npz
from roundel.simulations.tasks.tables import Columns

X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
Y = np.array([1, 0, 1])
ALL = Columns()


@pytest.fixture
def read(tmp_path):
    def write_and_read(columns=ALL, **arrays):
        np.savez(tmp_path / "f.npz", **arrays)
        return read_npz(tmp_path / "f.npz", columns)

    return write_and_read


@pytest.fixture
def complaint(read, tmp_path):
    def said(error=DataError, columns=ALL, **arrays):
        with pytest.raises(error) as caught:
            read(columns, **arrays)
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(str(tmp_path / "f.npz"), "F")

    return said


@pytest.mark.parametrize("names", [("x", "y"), ("inputs", "targets")])
def test_numbers_and_classes_are_two_arrays(read, names):
    table = read(**dict(zip(names, (X, Y), strict=True)))
    assert table.features == ["x0", "x1"]
    assert table.numbers.tolist() == X.tolist()
    assert (table.labels.values, table.labels.codes.tolist()) == (["0", "1"], [1, 0, 1])
    assert (table.target, table.users) == (None, None)
    assert table.place(2).endswith("f.npz, row 2")


def test_features_are_chosen_by_number(read):
    assert read(Columns(features=["x1"]), x=X, y=Y).numbers.tolist() == [[2.0], [4.0], [6.0]]


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (np.array(["b", "a", "b"]), ["a", "b"]),
        (np.array([True, False, True]), ["0", "1"]),
        (np.array([10, 9, 10], np.uint8), ["9", "10"]),
    ],
)
def test_classes_are_text_booleans_or_whole_numbers(read, labels, values):
    table = read(x=X, y=labels)
    assert (list(table.labels.values), table.labels.codes.tolist()) == (values, [1, 0, 1])


def test_users_are_read_if_they_are_there(read):
    users = read(x=X, y=Y, users=np.array(["u2", "u1", "u2"])).users
    assert users is not None
    assert users.codes.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"y": Y}, "F has neither of the arrays x and inputs; save one of them"),
        ({"x": X}, "F has neither of the arrays y and targets; save one of them"),
        (
            {"x": X, "inputs": X, "y": Y},
            ("F has x and inputs of the arrays x and inputs; save one of them"),
        ),
        (
            {"x": X[0], "y": Y},
            (
                "F: x has the shape (2,) and the dtype float32; make it numbers of shape (rows, "
                "features)"
            ),
        ),
        (
            {"x": X.astype(str), "y": Y},
            (
                "F: x has the shape (3, 2) and the dtype <U32; make it numbers of shape (rows, "
                "features)"
            ),
        ),
        (
            {"x": X, "y": Y[:2]},
            (
                "F: y has the shape (2,) and the dtype int64; make it whole numbers or text of "
                "shape (3,)"
            ),
        ),
        (
            {"x": X, "y": Y * 0.5},
            (
                "F: y has the shape (3,) and the dtype float64; make it whole numbers or text of "
                "shape (3,)"
            ),
        ),
        (
            {"x": X, "y": Y, "users": X},
            (
                "F: users has the shape (3, 2) and the dtype float32; make it whole numbers or "
                "text of shape (3,)"
            ),
        ),
        (
            {"x": np.where(X == 4, np.nan, X), "y": Y},
            (
                "F, row 1, column 'x1': nan is not a finite number of 32 bits; correct it or "
                "remove the row"
            ),
        ),
        (
            {"x": X[:0], "y": Y[:0]},
            "F: x has the shape (0, 2); there is nothing to learn from",
        ),
    ],
)
def test_what_is_wrong_is_said(complaint, arrays, sentence):
    assert complaint(**arrays) == sentence


def test_a_feature_that_does_not_exist_is_an_error(complaint):
    sentence = complaint(ConfigError, Columns(features=["x2"]), x=X, y=Y)
    assert sentence == "task.features: F has no column 'x2'; choose from x0, x1"


@pytest.mark.parametrize("knob", ["target", "user"])
def test_columns_of_csv_files_are_refused(complaint, knob):
    sentence = complaint(ConfigError, Columns(**{knob: "who"}), x=X, y=Y)
    assert sentence.startswith("task.target and task.user name columns of a CSV file, and F has")


def test_pickled_objects_are_refused(complaint):
    sentence = complaint(x=X, y=np.array([{}, {}, {}], dtype=object))
    assert "Object arrays cannot be loaded when allow_pickle=False" in sentence


@pytest.mark.parametrize("data", [b"", b"x,y\n1,2\n", b"PK\x03\x04", b"\x80\x04]\x94."])
def test_another_file_is_refused(tmp_path, data):
    (tmp_path / "f.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"f\.npz cannot be read \(.*\); save it with numpy\.savez"):
        read_npz(tmp_path / "f.npz", ALL)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    file = tmp_path / "f.npz"
    np.savez(file, x=X, y=Y)
    data = file.read_bytes()
    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        with pytest.raises(DataError):
            read_npz(file, ALL)


def test_an_array_that_promises_more_than_it_holds_is_refused(tmp_path):
    head = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (1 << 60, 2)}
    np.lib.format.write_array_header_1_0(head, shape)
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("x.npy", head.getvalue() + bytes(64))
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(tmp_path / "f.npz", ALL)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npztable, "MAX_BYTES", 10_000)
    np.savez_compressed(tmp_path / "f.npz", x=np.zeros((1000, 2)), y=np.zeros(1000, np.int64))
    with pytest.raises(DataError, match=r"unpacks to \d+ bytes, and at most 10000 are read"):
        read_npz(tmp_path / "f.npz", ALL)
