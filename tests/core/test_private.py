"""Files with secrets are readable by their owner alone, from their first byte on."""

import os

import pytest

from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.core.private import private_directory, read_private, write_private


@pytest.fixture(autouse=True)
def _lax_umask():
    """Let files be as open as their makers ask for."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_file_is_for_its_owner_alone_whatever_the_umask(tmp_path):
    write_private(tmp_path / "key", b"secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert read_private(tmp_path / "key") == b"secret"


def test_a_file_is_replaced_in_one_step_also_after_a_crash_left_half_of_one(tmp_path):
    (tmp_path / ".key.0a1b2c3d.partial").write_bytes(b"ha")
    write_private(tmp_path / "key", b"first")
    write_private(tmp_path / "key", b"second")
    assert read_private(tmp_path / "key") == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_file_that_others_can_read_is_not_used(tmp_path):
    (tmp_path / "key").write_bytes(b"secret")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"others can read .* \(mode 640\).*`chmod 600 "):
        read_private(tmp_path / "key")


def test_a_file_that_is_far_too_large_is_not_read_whole(tmp_path):
    write_private(tmp_path / "key", bytes(65537))
    with pytest.raises(ConfigError, match="more than 65536 bytes"):
        read_private(tmp_path / "key")


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*key: No such file or directory"):
        read_private(tmp_path / "key")


def test_a_file_where_there_is_no_directory_is_a_sentence(tmp_path):
    with pytest.raises(RunDirectoryError, match="cannot write"):
        write_private(tmp_path / "nowhere" / "key", b"secret")


def test_a_directory_is_made_for_its_owner_alone(tmp_path):
    private_directory(tmp_path / "a" / "b")
    private_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_can_look_into_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match=r"\(mode 755\), where secrets are kept; `chmod 700 "):
        private_directory(tmp_path / "open")
