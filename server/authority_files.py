"""The directory of an authority.

ca.pem         the authority's certificate: what everybody trusts
ca.key         its private key
operator.pem   the operator's certificate
operator.key   its private key
authority.db   certificates by serial number, and join tokens (SQLite)
audit.jsonl    what has happened, see `roundel.core.audit`
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from cryptography import x509

from roundel.core.certificates import (
    Key,
    Signer,
    from_pem,
    key_from_pem,
    key_id,
    key_to_pem,
    member_certificate,
    new_authority,
    new_key,
    public_key_of,
    subject_of,
    to_pem,
)
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.core.private import (
    make_private,
    private_directory,
    read_private,
    write_private,
)
from roundel.core.wire.channel import Identity

CA, CA_KEY = "ca.pem", "ca.key"
OPERATOR, OPERATOR_KEY = "operator.pem", "operator.key"
DATABASE, AUDIT = "authority.db", "audit.jsonl"

_TABLES = """
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY,   -- decimal: it has up to 160 bits
    node TEXT NOT NULL,
    key TEXT NOT NULL,         -- SHA-256 of the public key
    expires REAL NOT NULL,     -- seconds since 1970
    token TEXT NOT NULL,       -- what its node has enrolled with
    revoked TEXT               -- why; NULL if it is not
) STRICT;
CREATE INDEX IF NOT EXISTS certificates_of ON certificates (node);
CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,      -- SHA-256 of the secret
    expires REAL NOT NULL,
    uses INTEGER NOT NULL,     -- that are left
    revoked INTEGER NOT NULL DEFAULT 0
) STRICT;
"""


_COMPLETE = 1
"""`user_version` of a database whose authority has its key: if that is gone, it was lost."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What an authority works with.

    Attributes:
        database: To change.
        reader: The same database, for what must never wait for the disk.
        signer: Signs certificates.
    """

    database: sqlite3.Connection
    reader: sqlite3.Connection
    signer: Signer


def open_directory(directory: Path, now: datetime) -> Opened:
    """Open a directory, or make one with a new authority in it.

    Args:
        directory: Where.
        now: In UTC.

    Raises:
        ConfigError: Others can read it, or something in it is damaged.
        RunDirectoryError: It cannot be written.
    """
    private_directory(directory)
    with _alone(directory):
        _check_database_is_kept(directory)
        make_private(directory / DATABASE)
        database = _database(directory / DATABASE)
        reader = _database(directory / DATABASE)
        signer = _signer(directory, database, now)
        _keep_operator(directory, signer, now)
    return Opened(database=database, reader=reader, signer=signer)


def read_operator(directory: Path) -> Identity:
    """Return what the operator proves its role with.

    Args:
        directory: The authority's, or one with a copy of three of its files.

    Raises:
        ConfigError: It is not there, or others can read it.
    """
    if not (directory / OPERATOR_KEY).exists():
        raise ConfigError(
            f"there is no {OPERATOR_KEY} in {directory}; name the directory of the coordinator's "
            "authority with --authority, or a copy of its ca.pem, operator.pem and operator.key"
        )
    try:
        certificate = (directory / OPERATOR).read_bytes()
        authority = (directory / CA).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the operator's certificate in {directory}: {error.strerror}"
        ) from error
    return Identity(
        key=read_private(directory / OPERATOR_KEY), certificate=certificate, authority=authority
    )


def _check_database_is_kept(directory: Path) -> None:
    """Refuse an authority without its database: what it had revoked would be valid again."""
    path = directory / DATABASE
    if (directory / CA_KEY).exists() and not (path.exists() and path.stat().st_size):
        raise ConfigError(
            f"{DATABASE} is missing or empty in {directory}, beside {CA_KEY}; put the backup back, "
            "or move the directory away to make a new authority"
        )


def _signer(directory: Path, database: sqlite3.Connection, now: datetime) -> Signer:
    """Return the authority that a directory holds, after making it if it is new.

    The database is there before the key is, and marked as complete after it.
    """
    key_path, path = directory / CA_KEY, directory / CA
    with sentences():
        (version,) = database.execute("PRAGMA user_version").fetchone()
    if not key_path.exists():
        if version == _COMPLETE:
            raise ConfigError(
                f"{CA_KEY} is missing in {directory}; bring it back, or name a new directory"
            )
        made = new_authority(now, x509.random_serial_number())
        write_private(path, to_pem(made.certificate))  # the key last: once it is there, both are
        write_private(key_path, key_to_pem(made.key))
        _mark_complete(database)
        return made
    if version != _COMPLETE:
        _mark_complete(database)
    key, certificate = key_from_pem(read_private(key_path)), from_pem(path.read_bytes())
    if key_id(key.public_key()) != key_id(public_key_of(certificate)):
        raise ConfigError(f"{CA_KEY} in {directory} is not the key of {CA}; bring the right one")
    return Signer(key=key, certificate=certificate)


def _mark_complete(database: sqlite3.Connection) -> None:
    with sentences():
        database.execute(f"PRAGMA user_version = {_COMPLETE}")


def _keep_operator(directory: Path, signer: Signer, now: datetime) -> None:
    """Make the operator's certificate, or renew it when that is due."""
    path, key_path = directory / OPERATOR, directory / OPERATOR_KEY
    if (
        path.exists()
        and key_path.exists()
        and not subject_of(from_pem(path.read_bytes())).is_due(now)
    ):
        return
    key: Key = new_key()
    certificate = member_certificate(
        signer,
        key.public_key(),
        role="operator",
        name="operator",
        now=now,
        serial=x509.random_serial_number(),
    )
    path.unlink(missing_ok=True)  # so that a crash between the two does not leave a wrong pair
    write_private(key_path, key_to_pem(key))
    write_private(path, to_pem(certificate))


def serial_in(path: Path) -> int | None:
    """Return the serial number of the certificate in a file; None if there is no file."""
    try:
        return _serial_of(path.read_bytes())
    except OSError:
        return None


@lru_cache(maxsize=16)
def _serial_of(pem: bytes) -> int:
    return from_pem(pem).serial_number


def _database(path: Path) -> sqlite3.Connection:
    """Open the database."""
    with sentences():
        database = sqlite3.connect(
            path, timeout=10.0, isolation_level=None, check_same_thread=False
        )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_TABLES)
        return database


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let only one process at a time make what is missing."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def sentences() -> Iterator[None]:
    """Turn SQLite's errors into a sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise RunDirectoryError(
            f"the authority's database cannot be used: {error}; free some space, or restore it"
        ) from error
