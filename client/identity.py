"""A node's identity on its disk.

key.pem           its private key, which never leaves this directory
certificate.pem   what the authority has signed; written last
authority.pem     the authority's certificate
"""

from pathlib import Path

from roundel.core.certificates import Key, key_from_pem, key_to_pem, new_key
from roundel.core.errors import ConfigError
from roundel.core.files import write_atomic
from roundel.core.private import private_directory, read_private, write_private
from roundel.core.wire.channel import Identity

FOLDER = "identity"
"""In a node's state directory."""

KEY, CERTIFICATE, AUTHORITY = "key.pem", "certificate.pem", "authority.pem"


class IdentityDirectory:
    """Where a node keeps what it proves its name with.

    Attributes:
        path: The directory.
    """

    def __init__(self, state: Path) -> None:
        """Open it, after making it if it is not there.

        Args:
            state: The node's state directory.

        Raises:
            ConfigError: Others can look into it.
            RunDirectoryError: It cannot be made.
        """
        self.path = state / FOLDER
        private_directory(self.path)

    def key(self) -> Key:
        """Return the private key, drawn the first time.

        Raises:
            ConfigError: It is damaged, or others can read it.
        """
        path = self.path / KEY
        if not path.exists():
            write_private(path, key_to_pem(new_key()))
        return key_from_pem(read_private(path))

    def read(self) -> Identity | None:
        """Return the identity, or None before the node has enrolled.

        Raises:
            ConfigError: It is damaged, or others can read the key.
        """
        if not (self.path / CERTIFICATE).exists():
            return None
        try:
            certificate = (self.path / CERTIFICATE).read_bytes()
            authority = (self.path / AUTHORITY).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
        key = read_private(self.path / KEY)
        return Identity(key=key, certificate=certificate, authority=authority)

    def write(self, certificate: bytes, authority: bytes) -> Identity:
        """Keep what the authority has signed; return the identity.

        Args:
            certificate: Of the key here, in PEM.
            authority: The authority's own, in PEM.

        Raises:
            RunDirectoryError: It cannot be written.
        """
        write_atomic(self.path / AUTHORITY, authority)
        write_atomic(self.path / CERTIFICATE, certificate)
        return Identity(key=key_to_pem(self.key()), certificate=certificate, authority=authority)
