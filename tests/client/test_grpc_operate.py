"""An operator is told in a sentence why nobody answers, or what the answer lacks."""

import pytest

from roundel.client.grpc_operate import operating
from roundel.core.errors import ProtocolError, RunFailed
from roundel.core.status import Snapshot
from roundel.server.authority_files import read_operator
from tests.server.grpc_secured import Time, secured


@pytest.fixture
def ports(tmp_path):
    with secured(tmp_path / "authority", Time()) as opened:
        yield opened


@pytest.fixture
def identity(ports, tmp_path):
    return read_operator(tmp_path / "authority")


def test_where_no_coordinator_is_nobody_answers(ports, identity):
    enrolment = f"127.0.0.1:{ports.tls.enrolment_port}"
    with (
        operating(enrolment, identity) as operator,
        pytest.raises(RunFailed, match=r"does not answer \(unavailable\); check that"),
    ):
        operator.status()


def test_a_refusal_is_told_as_the_coordinator_says_it(ports, identity):
    with (
        operating(ports.address, identity) as operator,
        pytest.raises(ProtocolError, match=f"the coordinator at {ports.address} refuses: there is"),
    ):
        operator.drain("nobody")


def test_an_answer_that_is_no_status_is_a_sentence(ports, identity, monkeypatch):
    monkeypatch.setattr(Snapshot, "to_json", lambda _self: "{}")
    with (
        operating(ports.address, identity) as operator,
        pytest.raises(ProtocolError, match="says this is not the status of a federation"),
    ):
        operator.status()
