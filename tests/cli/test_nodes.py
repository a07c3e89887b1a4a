"""`roundel nodes` operates a federation."""

import json

import pytest

from roundel.client.grpc_enrol import identity_of
from roundel.core.tokens import parse_token
from tests.commands import Ended, call
from tests.server.grpc_secured import Time, enrolled, secured, token


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def ports(tmp_path, time):
    with secured(tmp_path / "authority", time) as opened:
        yield opened


@pytest.fixture
def nodes(ports, tmp_path):
    """Calls the command."""

    def run(*words: object) -> Ended:
        there = ("--coordinator", ports.address, "--authority", tmp_path / "authority")
        return call("nodes", *words, *there)

    return run


@pytest.mark.parametrize("words", [[], ["list"]])
def test_without_another_word_the_nodes_are_listed(nodes, words):
    ended = nodes(*words)
    assert (ended.code, ended.err) == (0, "")
    assert "1 of 3" in ended.out


def test_the_list_is_one_json_object_if_asked_for(nodes):
    assert json.loads(nodes("--json").out)["hosted"] == 2


def test_a_token_is_all_of_stdout_and_its_name_is_on_stderr(nodes, ports):
    ended = nodes("token", "--hours", "2", "--uses", "3")
    made = parse_token(ended.out)
    assert ended.out.count("\n") == 1
    assert ended.err == (
        f"token {made.id}: take it back by `roundel nodes revoke-token {made.id}`\n"
    )
    assert made.port == ports.tls.enrolment_port


def test_a_token_is_taken_back(nodes):
    made = parse_token(nodes("token").out)
    assert nodes("revoke-token", made.id).out == f"token {made.id} revoked\n"


def test_a_node_is_drained(nodes):
    assert nodes("drain", "edge").out == "node 'edge' leaves when it has done what it has\n"


def test_a_node_is_revoked(nodes, ports, time, tmp_path):
    enrolled(ports, time, tmp_path / "edge")
    ended = nodes("revoke", "edge", "--reason", "lost")
    assert ended.out == "1 certificate of node 'edge' revoked\n"


def test_a_token_of_a_revoked_node_with_uses_left_is_named(nodes, ports, time, tmp_path):
    text = token(ports, time, uses=3)
    identity_of(ports.address, tmp_path / "edge", "edge", text, lambda: time.now)
    named = parse_token(text).id
    assert nodes("revoke", "edge").out == (
        f"1 certificate of node 'edge' revoked; its token {named} has 2 uses left: revoke it too "
        f"with `roundel nodes revoke-token {named}`\n"
    )


def test_what_is_refused_is_one_sentence(nodes, ports):
    ended = nodes("drain", "edgy")
    assert ended.code == 2
    assert ended.err == (
        f"roundel: the coordinator at {ports.address} refuses: there is no node 'edgy'; `roundel "
        "nodes` lists them\n"
    )


def test_without_the_operator_s_certificate_there_is_one_sentence(ports, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nothing"))
    ended = call("nodes", "--coordinator", ports.address)
    assert ended.code == 2
    assert ended.err.startswith(
        f"roundel: there is no operator.key in {tmp_path}/nothing/roundel/authority; name the"
    )


def test_where_nobody_listens_there_is_one_sentence(tmp_path):
    ended = call("nodes", "--coordinator", "127.0.0.1:1", "--insecure")
    assert ended.code == 1
    assert ended.err.startswith("roundel: the coordinator at 127.0.0.1:1 does not answer")
    assert ended.err.count("\n") == 1


def test_an_odd_address_is_one_sentence():
    ended = call("nodes", "--coordinator", "localhost")
    assert ended.code == 2
    assert ended.err.startswith("roundel: 'localhost' is not an address; write HOST:PORT")
