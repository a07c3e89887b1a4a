"""What a node keeps of its identity, and how."""

import pytest

from roundel.client.identity import IdentityDirectory
from roundel.core.certificates import key_id
from roundel.core.errors import ConfigError


@pytest.fixture
def directory(tmp_path):
    return IdentityDirectory(tmp_path / "state")


def test_a_key_is_drawn_once(directory, tmp_path):
    first = key_id(directory.key().public_key())
    assert key_id(IdentityDirectory(tmp_path / "state").key().public_key()) == first


def test_before_a_node_has_enrolled_it_has_no_identity(directory):
    directory.key()
    assert directory.read() is None


def test_what_the_authority_signed_is_found_again(directory):
    written = directory.write(b"certificate", b"authority")
    assert directory.read() == written
    assert (written.certificate, written.authority) == (b"certificate", b"authority")


def test_key_and_directory_are_for_their_owner_alone(directory):
    directory.key()
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert (directory.path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_not_used(directory):
    directory.write(b"certificate", b"authority")
    (directory.path / "key.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        directory.read()


def test_an_identity_of_which_a_part_is_missing_is_a_sentence(directory):
    directory.write(b"certificate", b"authority")
    (directory.path / "authority.pem").unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*authority.pem: No such file"):
        directory.read()


def test_the_key_is_not_in_the_repr_of_an_identity(directory):
    assert "key" not in repr(directory.write(b"certificate", b"authority"))
