"""The authority of a federation, on disk: who may take part, and who has given that right away.

    ca.pem         the authority's certificate: what everybody trusts
    ca.key         its private key
    operator.pem   the operator's certificate
    operator.key   its private key
    authority.db   certificates by serial number, and join tokens (SQLite)
    audit.jsonl    what has happened, see `roundel.core.audit`

The directory is for its owner alone. Several coordinators may use one. Whatever changes is on disk,
and in the audit trail, before the answer leaves.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from secrets import token_bytes

from cryptography import x509

from roundel.core.audit import AuditLog, Fact
from roundel.core.certificates import (
    Key,
    PublicKey,
    Signer,
    Subject,
    check_node_name,
    fingerprint,
    from_pem,
    key_from_pem,
    key_id,
    key_to_pem,
    member_certificate,
    new_authority,
    new_key,
    public_key_of,
    requested_key,
    server_certificate,
    subject_of,
    to_pem,
)
from roundel.core.errors import ConfigError, ProtocolError, RunDirectoryError
from roundel.core.private import private_directory, read_private, write_private
from roundel.core.tokens import ID_BYTES, SECRET_BYTES, JoinToken, digest_of_secret, is_secret
from roundel.core.wire.channel import Identity
from roundel.server.callers import Caller

CA, CA_KEY = "ca.pem", "ca.key"
OPERATOR, OPERATOR_KEY = "operator.pem", "operator.key"
DATABASE, AUDIT = "authority.db", "audit.jsonl"

LONGEST_LIFE = timedelta(days=30)
"""Of a join token."""

MOST_USES = 100_000

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


class NotFree(ProtocolError):
    """The token is good, but the name or the key that was asked for belongs to somebody."""


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What a node says that wants a certificate.

    Attributes:
        token_id: Which token it was given.
        secret: The token's secret.
        node: What it wants to be called.
        request: A certificate signing request, in DER.
        peer: Where the call comes from, for the audit trail.
    """

    token_id: str
    secret: bytes
    node: str
    request: bytes
    peer: str


class Authority:
    """An open authority directory; its methods may be called from any thread.

    Attributes:
        certificate: The authority's own, in PEM.
        fingerprint: SHA-256 of it, 32 bytes.
    """

    def __init__(self, directory: Path, now: datetime) -> None:
        """Open a directory, or make one with a new authority in it.

        Args:
            directory: Where.
            now: In UTC.

        Raises:
            ConfigError: Others can read it, or something in it is damaged.
            RunDirectoryError: It cannot be written.
        """
        private_directory(directory)
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._audit = AuditLog(directory / AUDIT)
        with _alone(directory):
            _check_database_is_kept(directory)
            self._database = _database(directory / DATABASE)
            self._reader = _database(directory / DATABASE)  # never waits for the disk
            self._signer = _signer(directory, self._database, now)
            _keep_operator(directory, self._signer, now)
        self._operator = directory / OPERATOR
        self._rows: dict[int, tuple[str | None] | None] = {}
        self._seen_version = -1
        self.certificate = to_pem(self._signer.certificate)
        self.fingerprint = fingerprint(self._signer.certificate)

    def close(self) -> None:
        """Close the database."""
        self._database.close()
        self._reader.close()

    def record(self, event: str, now: datetime, **facts: Fact) -> None:
        """Add to the audit trail."""
        self._audit.append(event, now, **facts)

    def server_identity(self, name: str, now: datetime) -> Identity:
        """Make a key and a certificate for a server of this name."""
        key = new_key()
        signed = server_certificate(
            self._signer, key.public_key(), name=name, now=now, serial=x509.random_serial_number()
        )
        return Identity(key=key_to_pem(key), certificate=to_pem(signed), authority=self.certificate)

    def own_identity(self) -> Identity:
        """Return the authority's own key and certificate, for the listener where nodes enrol."""
        return Identity(
            key=key_to_pem(self._signer.key),
            certificate=self.certificate,
            authority=self.certificate,
        )

    def issue_token(self, *, port: int, life: timedelta, uses: int, now: datetime) -> JoinToken:
        """Make a join token.

        Args:
            port: Of the enrolment listener.
            life: How long it is good, 30 days at most.
            uses: For how many nodes.
            now: In UTC.

        Raises:
            ProtocolError: Its life or its uses are out of bounds.
        """
        if not timedelta(0) < life <= LONGEST_LIFE:
            raise ProtocolError(f"a token cannot be good for {life}; ask for 30 days at most")
        if not 1 <= uses <= MOST_USES:
            raise ProtocolError(f"a token cannot have {uses} uses; ask for 1 to {MOST_USES}")
        token = JoinToken(
            port=port,
            id=token_bytes(ID_BYTES).hex(),
            secret=token_bytes(SECRET_BYTES),
            fingerprint=self.fingerprint,
        )
        with self._changing() as database:
            database.execute(
                "INSERT INTO tokens (id, digest, expires, uses) VALUES (?, ?, ?, ?)",
                (token.id, digest_of_secret(token.secret), (now + life).timestamp(), uses),
            )
            expires = (now + life).isoformat(timespec="seconds")
            self.record("token issued", now, token=token.id, uses=uses, expires=expires)
        return token

    def revoke_token(self, token_id: str, now: datetime) -> None:
        """Let nobody enrol with a token any more.

        Raises:
            ProtocolError: There is no such token.
        """
        with self._changing() as database:
            changed = database.execute("UPDATE tokens SET revoked = 1 WHERE id = ?", (token_id,))
            if changed.rowcount != 1:
                raise ProtocolError(
                    f"there is no token {token_id[:80]!r}; `roundel nodes token` says the id of "
                    "each that it makes"
                )
            self.record("token revoked", now, token=token_id)

    def enrol(self, asked: Enrolment, now: datetime, *, audits_guesses: bool = True) -> bytes:
        """Give a node its certificate, in PEM.

        Args:
            asked: What the node says.
            now: In UTC.
            audits_guesses: Whether the refusal of somebody without a good token is written down.

        Raises:
            NotFree: The token is good, and the name or the key taken.
            ProtocolError: The token does not give it the right to, or the request is damaged.
        """
        try:
            check_node_name(asked.node)
            key = requested_key(asked.request)
            with self._changing() as database:
                left = _uses_left(database, asked, now)
                _check_name_is_free(database, asked.node, key)
                certificate = self._certify(database, asked.node, key, asked.token_id, now)
                database.execute(
                    "UPDATE tokens SET uses = ? WHERE id = ?", (left - 1, asked.token_id)
                )
                facts = {"node": asked.node, "token": asked.token_id, "peer": asked.peer}
                self.record("enrolled", now, **facts, serial=str(certificate.serial_number))
                if left == 1:
                    self.record("token used up", now, token=asked.token_id)
        except ProtocolError as refusal:
            if audits_guesses or isinstance(refusal, NotFree):
                self.record("refused", now, node=asked.node[:80], peer=asked.peer, why=str(refusal))
            raise
        return to_pem(certificate)

    def renew(self, caller: Caller | None, request: bytes, now: datetime) -> bytes:
        """Give a node a new certificate, in PEM, in place of one that is still good.

        Raises:
            ProtocolError: The request is damaged, or the old certificate no node's or revoked.
        """
        key = requested_key(request)
        with self._changing() as database:
            # Asked here and not before, so that no revocation comes in between.
            row = (
                database.execute(
                    "SELECT token FROM certificates "
                    "WHERE serial = ? AND node = ? AND revoked IS NULL",
                    (str(caller.serial), caller.name),
                ).fetchone()
                if caller is not None and caller.role == "node"
                else None
            )
            if caller is None or row is None:
                raise ProtocolError(
                    "this certificate cannot be renewed; enrol with a new join token"
                )
            certificate = self._certify(database, caller.name, key, row[0], now)
            serial = str(certificate.serial_number)
            self.record("renewed", now, node=caller.name, serial=serial)
        return to_pem(certificate)

    def revoke(self, node: str, reason: str, now: datetime) -> int:
        """Never again accept any certificate of a node; return how many these are.

        Raises:
            ProtocolError: There is no such node, or it is revoked already.
        """
        with self._changing() as database:
            changed = database.execute(
                "UPDATE certificates SET revoked = ? WHERE node = ? AND revoked IS NULL",
                (reason, node),
            )
            if changed.rowcount < 1:
                raise ProtocolError(
                    f"no node {node[:80]!r} has a certificate that is not revoked; "
                    "`roundel nodes` lists the nodes"
                )
            self.record("revoked", now, node=node, why=reason)
        return changed.rowcount

    def usable_tokens_of(self, node: str, now: datetime) -> dict[str, int]:
        """Return the tokens that a node has enrolled with and that are good still.

        Returns:
            How many uses each has left, by its id.
        """
        with self._reading, _sentences():
            rows = self._reader.execute(
                "SELECT DISTINCT tokens.id, tokens.uses FROM tokens "
                "JOIN certificates ON certificates.token = tokens.id "
                "WHERE certificates.node = ? AND tokens.revoked = 0 AND tokens.uses > 0 "
                "AND tokens.expires > ? ORDER BY tokens.id",
                (node, now.timestamp()),
            )
            return dict(rows.fetchall())

    def objection_to(self, subject: Subject) -> str:
        """Say why a certificate of this authority does not count now; empty if it does.

        It is asked of the disk, for another coordinator may have been told to revoke it.
        """
        if subject.role == "operator":
            if subject.serial == _serial_in(self._operator):
                return ""
            return (
                f"the certificate of {subject.role} {subject.name!r} was replaced; copy ca.pem, "
                "operator.pem and operator.key anew from the authority's directory"
            )
        row = self._row(subject.serial)
        if row is None:
            return (
                f"the certificate of node {subject.name!r} is not in the authority's database; to "
                "come back, remove the identity folder of its --state directory and join with a "
                "new token"
            )
        if row[0] is not None:
            return (
                f"the certificate of node {subject.name!r} was revoked; to come back, remove the "
                "identity folder of its --state directory and join with a new token"
            )
        return ""

    def _row(self, serial: int) -> tuple[str | None] | None:
        """Return why a node's certificate is revoked, in a tuple; None if there is no such one."""
        with self._reading, _sentences():
            (version,) = self._reader.execute("PRAGMA data_version").fetchone()
            if version != self._seen_version:
                self._rows.clear()
                self._seen_version = version
            if serial not in self._rows:
                self._rows[serial] = self._reader.execute(
                    "SELECT revoked FROM certificates WHERE serial = ?", (str(serial),)
                ).fetchone()
            return self._rows[serial]

    def _certify(
        self, database: sqlite3.Connection, node: str, key: PublicKey, token: str, now: datetime
    ) -> x509.Certificate:
        certificate = member_certificate(
            self._signer,
            key,
            role="node",
            name=node,
            now=now,
            serial=x509.random_serial_number(),
        )
        database.execute(
            "INSERT INTO certificates (serial, node, key, expires, token) VALUES (?, ?, ?, ?, ?)",
            (
                str(certificate.serial_number),
                node,
                key_id(key),
                certificate.not_valid_after_utc.timestamp(),
                token,
            ),
        )
        return certificate

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Make what is done in the block durable at its end, all or nothing."""
        with self._writing, _sentences():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()


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
    with _sentences():
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
    with _sentences():
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


def _serial_in(path: Path) -> int | None:
    """Return the serial number of the certificate in a file; None if there is no file."""
    try:
        return _serial_of(path.read_bytes())
    except OSError:
        return None


@lru_cache(maxsize=16)
def _serial_of(pem: bytes) -> int:
    return from_pem(pem).serial_number


def _database(path: Path) -> sqlite3.Connection:
    """Open the database, which is private from its first byte on."""
    with _sentences():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(
            path, timeout=10.0, isolation_level=None, check_same_thread=False
        )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_TABLES)
        return database


def _uses_left(database: sqlite3.Connection, asked: Enrolment, now: datetime) -> int:
    """Return how often a token can still be used, this time included.

    Whoever does not know the secret learns nothing about the token.
    """
    row = database.execute(
        "SELECT digest, expires, uses, revoked FROM tokens WHERE id = ?", (asked.token_id,)
    ).fetchone()
    digest, expires, uses, revoked = row or (bytes(32), 0.0, 0, 0)
    if not is_secret(asked.secret, digest):
        raise ProtocolError("this join token is not known here; ask the operator for a new one")
    if revoked:
        raise ProtocolError("this join token was revoked; ask the operator for a new one")
    if now.timestamp() >= expires:
        ended = datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds")
        raise ProtocolError(f"this join token expired at {ended}; ask the operator for a new one")
    if uses < 1:
        raise ProtocolError("this join token is used up; ask the operator for a new one")
    return int(uses)


def _check_name_is_free(database: sqlite3.Connection, node: str, key: PublicKey) -> None:
    mine = key_id(key)
    rows = database.execute("SELECT key, revoked FROM certificates WHERE node = ?", (node,))
    for other, revoked in rows:
        if revoked is None and other != mine:
            raise NotFree(
                f"another node is enrolled as {node!r}; choose another --name, or let the operator "
                f"`roundel nodes revoke {node}` first"
            )
    if database.execute(
        "SELECT 1 FROM certificates WHERE key = ? AND revoked IS NOT NULL", (mine,)
    ).fetchone():
        raise NotFree(
            f"the key of node {node!r} was revoked; remove the identity folder of its --state "
            "directory and join with a new token"
        )


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
def _sentences() -> Iterator[None]:
    """Turn SQLite's errors into a sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise RunDirectoryError(
            f"the authority's database cannot be used: {error}; free some space, or restore it"
        ) from error
