"""A node hosts clients of an app: messages in, replies and states out."""

import pytest
import torch

from roundel.client.journal import NodeDirectory
from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError
from roundel.core.messages import ClientFailure, ClientUpdate, EvaluateRequest, Ticket, TrainRequest
from roundel.simulations.flowerapps.export import export_app
from roundel.simulations.flowerapps.parcels import Parcel
from roundel.simulations.flowerapps.project import AppError
from roundel.simulations.flowerapps.served.hosting import Copy, hosting
from roundel.simulations.flowerapps.served.terms import AppTerms
from roundel.simulations.flowerapps.served.wired import reply_of, request_tensors
from tests.flowerapps.running import write_app

CLIENT = """
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg, context):
    known = context.state["seen"]["count"] if "seen" in context.state else 0
    context.state["seen"] = ConfigRecord({"count": known + 1})
    if msg.content["c"]["ask"] == "keep a line":
        context.state["odd"] = ConfigRecord({"a\\nb": 1})
    if msg.content["c"]["ask"] == "keep a date":
        context.state["odd"] = ArrayRecord([np.array(["2026-01-01"], "datetime64[D]")])
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

CHANGED = CLIENT.replace('"known": known', '"known": 10_000')
"""Of another length: what was compiled of a file within the same second would be taken for it."""

TERMS = AppTerms(app="app", seed=3, clients=5, config={"lr": 0.25}, reply_limit=20_000)


def written(root, client):
    """Write an app that has the settings of the terms."""
    app = write_app(root, client=client)
    file = app / "pyproject.toml"
    file.write_text(file.read_text().replace("num-server-rounds = 2", "lr = 0.5"))
    return app


@pytest.fixture
def journal(tmp_path):
    with NodeDirectory(tmp_path / "state") as directory:
        yield directory.journal("r", 0.0)


@pytest.fixture
def clients(tmp_path, journal):
    copy = Copy(
        app=written(tmp_path / "app", CLIENT),
        address="host:1",
        index=2,
        count=2,
        node_config={"data": "birds", "partition-id": 9},
    )
    with hosting(copy) as prepare:
        yield prepare(TERMS.text(), journal)


def request(client=1, number=1, ask="", size=0, more=(), **odd):
    config = [["ask", "", ask], ["size", "", size], *more]
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
        **odd,
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
    assert answer.location == f"{tmp_path}/app/client_app.py:17"
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


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        ("keep a line", "what it keeps in context.state cannot be kept: a name among the settings"),
        ("keep a date", "what it keeps in context.state cannot be kept: the array odd.0"),
    ],
)
def test_a_state_that_could_not_be_read_again_is_a_failure(clients, ask, sentence):
    answer, state = clients.train(request(ask=ask))
    assert isinstance(answer, ClientFailure)
    assert answer.error.startswith(sentence)
    assert state == {}


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        ({"more": [["a\nb", "", 1]]}, "a name among the settings of 'c'"),
        ({"message_type": "a\nb"}, "the message_type of a message"),
        ({"speed": 3}, "TypeError: Metadata.__init__() got an unexpected keyword"),
    ],
)
def test_a_message_that_is_refused_is_a_failure_and_the_node_goes_on(clients, odd, sentence):
    answer, state = clients.train(request(**odd))
    assert isinstance(answer, ClientFailure)
    assert answer.error.startswith(sentence)
    assert state == {}
    assert told(clients.train(request())[0])["known"] == 0


def test_a_state_that_cannot_be_read_is_a_failure(clients, monkeypatch):
    monkeypatch.setattr(clients, "_state_of", lambda client: {"head": torch.zeros(3)})
    assert isinstance(clients.train(request())[0], ClientFailure)


def test_settings_that_this_copy_has_not_are_refused_before_any_code_runs(tmp_path, journal):
    app = written(tmp_path / "app", "1 / 0\n")
    terms = TERMS.model_copy(update={"config": {"lr": 0.25, "task.name": "birds:run"}})
    copy = Copy(app=app, address="host:1", node_config={})
    with hosting(copy) as prepare, pytest.raises(ConfigError) as caught:
        prepare(terms.text(), journal)
    assert str(caught.value) == (
        f"the coordinator sets 'task.name', which is not a setting of the app in {app}; bring the "
        "same copy of the app as the coordinator has"
    )


def test_an_exported_app_calls_no_code_that_a_coordinator_names(tmp_path, journal):
    settings = ["partition.clients=5", "cohort.size=3"]
    export_app(load_experiment(None, settings), tmp_path / "app")
    file = tmp_path / "app" / "pyproject.toml"
    file.write_text(f'{file.read_text()}\n[tool.flwr.app.config.task]\nname = "digits"\n')
    terms = TERMS.model_copy(update={"config": {"task.name": "torch.utils.collect_env:run"}})
    with hosting(Copy(app=tmp_path / "app", address="host:1", node_config={})) as prepare:
        hosted = prepare(terms.text(), journal)
        answer, _ = hosted.train(request(message_type="query", more=[["roundel", "", 1]]))
    assert isinstance(answer, ClientUpdate)
    assert "which would run code or read files here" in str(reply_of(answer.channels).content)


def test_a_node_that_is_asked_again_runs_what_lies_there_by_then(tmp_path, journal):
    app = written(tmp_path / "app", CLIENT)
    with hosting(Copy(app=app, address="host:1", node_config={})) as prepare:
        before = prepare(TERMS.text(), journal).fingerprint
        (app / "client_app.py").write_text(CHANGED)
        hosted = prepare(TERMS.text(), journal)
        assert told(hosted.train(request())[0])["known"] == 10_000
        assert hosted.fingerprint != before


def test_so_it_does_with_what_lies_in_a_folder_without_an_init(tmp_path, journal):
    app = written(tmp_path / "app", CLIENT)
    (app / "parts").mkdir()
    part = app / "parts" / "client_app.py"
    part.write_text(CLIENT)
    (app / "client_app.py").write_text("from parts.client_app import app\n")
    with hosting(Copy(app=app, address="host:1", node_config={})) as prepare:
        prepare(TERMS.text(), journal)
        part.write_text(CHANGED)
        hosted = prepare(TERMS.text(), journal)
        assert told(hosted.train(request())[0])["known"] == 10_000


def test_no_client_is_evaluated_but_by_messages(clients):
    ask = EvaluateRequest(
        ticket=request().ticket, params=torch.empty(0), integers=torch.empty(0, dtype=torch.int64)
    )
    assert clients.evaluate(ask).error == "a Flower app is evaluated by its own messages"


def test_an_app_that_is_broken_or_not_asked_for_ends_the_node(tmp_path, journal):
    broken = written(tmp_path / "broken", "1 / 0\n")
    with hosting(Copy(app=broken, address="host:1", node_config={})) as prepare:
        with pytest.raises(AppError, match="ZeroDivisionError"):
            prepare(TERMS.text(), journal)
        with pytest.raises(ConfigError, match="has no place in this run"):
            prepare('{"rounds": 3}', journal)


def test_a_broken_server_app_is_nothing_to_a_node(tmp_path, journal):
    app = written(tmp_path / "app", CLIENT)
    (app / "server_app.py").write_text("1 / 0\n")
    with hosting(Copy(app=app, address="host:1", node_config={})) as prepare:
        assert prepare(TERMS.text(), journal).population == 5
