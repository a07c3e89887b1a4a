"""A node hosts clients of an app: messages in, replies and states out."""

import pytest
import torch

from roundel.client.journal import NodeDirectory
from roundel.core.errors import ConfigError
from roundel.core.messages import ClientFailure, ClientUpdate, EvaluateRequest, Ticket, TrainRequest
from roundel.simulations.flowerapps.parcels import Parcel
from roundel.simulations.flowerapps.project import AppError
from roundel.simulations.flowerapps.served.hosting import Copy, hosting
from roundel.simulations.flowerapps.served.terms import AppTerms
from roundel.simulations.flowerapps.served.wired import reply_of, request_tensors
from tests.flowerapps.running import write_app

CLIENT = """
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg, context):
    known = context.state["seen"]["count"] if "seen" in context.state else 0
    context.state["seen"] = ConfigRecord({"count": known + 1})
    if msg.content["c"]["ask"] == "fail":
        raise ValueError("no \\udc80 data")
    if msg.content["c"]["ask"] == "refuse":
        return Message(Error(207, "not now"), reply_to=msg)
    about = {
        **context.node_config,
        "lr": context.run_config["lr"],
        "known": known,
        "to": msg.metadata.dst_node_id,
        "id": msg.metadata.message_id,
        "blob": b"x" * msg.content["c"]["size"],
        "huge": [1 << 80] if msg.content["c"]["ask"] == "huge" else [],
    }
    return Message(RecordDict({"about": ConfigRecord(about)}), reply_to=msg)
"""

TERMS = AppTerms(app="app", seed=3, clients=5, config={"lr": 0.25}, reply_limit=20_000)


@pytest.fixture
def journal(tmp_path):
    with NodeDirectory(tmp_path / "state") as directory:
        yield directory.journal("r", 0.0)


@pytest.fixture
def clients(tmp_path, journal):
    copy = Copy(
        app=write_app(tmp_path / "app", client=CLIENT),
        address="host:1",
        index=2,
        count=2,
        node_config={"data": "birds", "partition-id": 9},
    )
    with hosting(copy) as prepare:
        yield prepare(TERMS.text(), journal)


def request(client=1, number=1, ask="", size=0):
    config = [["ask", "", ask], ["size", "", size]]
    metadata = {
        "run_id": 1,
        "src_node_id": 1,
        "reply_to_message_id": "",
        "group_id": "",
        "created_at": 5.0,
        "ttl": 60.0,
        "message_type": "train",
        "src_task_id": 1,
        "dst_task_id": None,
    }
    return TrainRequest(
        ticket=Ticket(run="r", round=7, client_id=client),
        base_version=number,
        params=torch.empty(0),
        integers=torch.empty(0, dtype=torch.int64),
        channels=request_tensors(Parcel(records=[["c", "config", config]]), metadata),
    )


def told(answer):
    """What a reply says about its client."""
    assert isinstance(answer, ClientUpdate)
    content = reply_of(answer.channels).content
    assert content is not None
    ((_, _, settings),) = content.records
    return {key: value for key, form, value in settings if not form}


def test_a_node_hosts_every_nth_client(clients):
    assert list(clients.client_ids) == [1, 3]
    assert (clients.population, clients.own_data, clients.stateful) == (5, False, True)


def test_a_client_finds_its_number_its_settings_and_what_the_node_says_of_itself(clients):
    one, other = (told(clients.train(request(client))[0]) for client in (1, 3))
    assert (one["partition-id"], other["partition-id"]) == (1, 3)
    assert (one["num-partitions"], one["data"], one["lr"]) == (5, "birds", 0.25)
    assert one["to"] != other["to"]
    assert one["id"] != other["id"]


def test_what_a_client_keeps_is_its_state_and_counts_once_the_node_says_so(clients, monkeypatch):
    answer, state = clients.train(request())
    assert isinstance(answer, ClientUpdate)
    assert (answer.ticket, answer.base_version) == (request().ticket, 1)
    assert told(clients.train(request(number=2))[0])["known"] == 0
    monkeypatch.setattr(clients, "_state_of", lambda client: state if client == 1 else {})
    assert told(clients.train(request(number=2))[0])["known"] == 1
    assert told(clients.train(request(3))[0])["known"] == 0


def test_an_exception_is_a_failure_that_leaves_the_state_as_it_was(clients, tmp_path):
    answer, state = clients.train(request(ask="fail"))
    assert isinstance(answer, ClientFailure)
    assert answer.error == "ValueError: no \\udc80 data"
    assert answer.location == f"{tmp_path}/app/client_app.py:12"
    assert "Traceback" in answer.traceback
    assert answer.traceback.encode()
    assert state == {}


def test_an_error_that_the_app_replies_with_is_a_reply(clients):
    answer, state = clients.train(request(ask="refuse"))
    assert isinstance(answer, ClientUpdate)
    trouble = reply_of(answer.channels).trouble
    assert trouble is not None
    assert (trouble.code, trouble.reason) == (207, "not now")
    assert state != {}


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"size": 30_000}, "more than the 20000 that the coordinator takes; serve with a larger"),
        ({"ask": "huge"}, "the setting about.huge is a list of 1"),
    ],
)
def test_a_reply_that_cannot_travel_is_a_failure(clients, what, sentence):
    answer, state = clients.train(request(**what))
    assert isinstance(answer, ClientFailure)
    assert sentence in answer.error
    assert state == {}


def test_no_client_is_evaluated_but_by_messages(clients):
    ask = EvaluateRequest(
        ticket=request().ticket, params=torch.empty(0), integers=torch.empty(0, dtype=torch.int64)
    )
    assert clients.evaluate(ask).error == "a Flower app is evaluated by its own messages"


def test_an_app_that_is_broken_or_not_asked_for_ends_the_node(tmp_path, journal):
    broken = write_app(tmp_path / "broken", client="1 / 0\n")
    with hosting(Copy(app=broken, address="host:1", node_config={})) as prepare:
        with pytest.raises(AppError, match="ZeroDivisionError"):
            prepare(TERMS.text(), journal)
        with pytest.raises(ConfigError, match="has no place in this run"):
            prepare('{"rounds": 3}', journal)


def test_a_broken_server_app_is_nothing_to_a_node(tmp_path, journal):
    app = write_app(tmp_path / "app", server="1 / 0\n", client=CLIENT)
    with hosting(Copy(app=app, address="host:1", node_config={})) as prepare:
        assert prepare(TERMS.text(), journal).population == 5
