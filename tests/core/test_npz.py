"""NumPy archives are read within bounds, and never unpickled."""

import numpy as np
import pytest

from roundel.core.npz import TooLargeError, read_arrays


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.arange(3), y=np.zeros(4), z=np.ones(1))
    return tmp_path / "f.npz"


def test_the_arrays_that_are_wanted_and_there_are_read(file):
    arrays = read_arrays(file, ("x", "y", "users"), 10_000)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "x": [0, 1, 2],
        "y": [0, 0, 0, 0],
    }


def test_what_would_unpack_to_too_much_is_not_unpacked(file):
    with pytest.raises(TooLargeError) as caught:
        read_arrays(file, ("x",), 100)
    assert caught.value.size > 100


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_arrays(tmp_path / "f.npz", ("x",), 10_000)


def test_what_is_damaged_or_no_archive_is_a_value_error(file):
    whole = file.read_bytes()
    for data in (b"", b"PK", whole[: len(whole) // 2]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"."):
            read_arrays(file, ("x",), 10_000)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "gone.npz", ("x",), 10_000)
