"""The authority of a federation: who may take part, and who has given that right away.

What lies in its directory `roundel.server.authority_files` says; it is for its owner alone, and
several coordinators may use one. Whatever changes is on disk, and in the audit trail, before the
answer leaves.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_bytes

from cryptography import x509

from roundel.core.audit import AuditLog, Fact
from roundel.core.certificates import (
    PublicKey,
    Subject,
    check_node_name,
    fingerprint,
    key_id,
    key_to_pem,
    member_certificate,
    new_key,
    requested_key,
    server_certificate,
    to_pem,
)
from roundel.core.errors import ProtocolError
from roundel.core.tokens import ID_BYTES, SECRET_BYTES, JoinToken, digest_of_secret, is_secret
from roundel.core.wire.channel import Identity
from roundel.server.authority_files import (
    AUDIT,
    OPERATOR,
    open_directory,
    sentences,
    serial_in,
)
from roundel.server.callers import Caller

LONGEST_LIFE = timedelta(days=30)
"""Of a join token."""

MOST_USES = 100_000


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
        opened = open_directory(directory, now)
        self._database, self._reader, self._signer = opened.database, opened.reader, opened.signer
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._audit = AuditLog(directory / AUDIT)
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
        with self._reading, sentences():
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
            if subject.serial == serial_in(self._operator):
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
        with self._reading, sentences():
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
        with self._writing, sentences():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.rollback()
                raise
            self._database.commit()


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
