"""A ServerApp drives nodes: it ends as with simulated clients, whatever is killed meanwhile."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from safetensors.numpy import load_file

from roundel.client import grpc_link
from roundel.client.grpc_node import Joining, run_node
from roundel.core.errors import ConfigError, RunDirectoryError, RunFailed
from roundel.core.runfiles import authority_of
from roundel.server import grpc_coordinator
from roundel.server.journal import Journal
from roundel.simulations.flowerapps.project import AppError, read_project
from roundel.simulations.flowerapps.run import View
from roundel.simulations.flowerapps.served.deployed import (
    Deployment,
    interrupting,
    resume_app,
    serve_app,
)
from roundel.simulations.flowerapps.served.hosting import Copy, hosting
from roundel.simulations.serving import Serving
from tests.commands import start
from tests.flowerapps.deployed import joining, listening, remembering, serving
from tests.flowerapps.running import APPS, CLIENT, SERVER, noting, run, write_app

ROUNDS = 6
SETTING = ("-s", f"num-server-rounds={ROUNDS}")


TWICE = SERVER.replace('["num-server-rounds"]', '["num-server-rounds"] * 2')


def model(directory):
    return (directory / "model.safetensors").read_bytes()


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


# ---- in one process


class Place:
    """Where a coordinator listens, once it does, and a node in a thread that waits for it.

    Attributes:
        said: What the coordinator said.
    """

    def __init__(self, here, state):
        self.here, self.state, self.said = here, state, []
        self._address = ""
        self._thread = threading.Thread(target=self._host, daemon=True)

    def serving(self, **changes):
        """Return how to serve: at any port at first, then at the same one."""
        return Serving(listen=self._address or "127.0.0.1:0", say=self._hear, **changes)

    def _hear(self, line):
        self.said.append(line)
        if line.startswith("listening on ") and not self._address:
            self._address = line.split()[2].rstrip(";")
            self._thread.start()

    def _host(self):
        state = self.here / self.state
        at = Joining(address=self._address, name="edge", state=state, wait_s=3.0)
        copy = Copy(app=self.here / "app", address=self._address, node_config={})
        with hosting(copy) as prepare, suppress(RunFailed):  # a test may leave it alone
            run_node(at, prepare, lambda _line: None)

    def wait(self):
        """Wait until the node has gone, as it must before its directory does."""
        if self._thread.ident is not None:
            self._thread.join(20.0)
            assert not self._thread.is_alive()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Makes a place with a node whose directory has that name."""
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.2)
    monkeypatch.setattr(grpc_link, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(grpc_link, "_LONGEST_PAUSE_S", 0.1)
    made = []

    def make(state):
        made.append(Place(tmp_path, state))
        return made[-1]

    yield make
    monkeypatch.setattr(grpc_link, "_AWAY", frozenset())  # nobody comes back
    for place in made:
        place.wait()


@pytest.fixture
def place(places):
    return places("node")


def deployment(app, **changes):
    how = {"project": read_project(app), "clients": 2, "seed": 1, "patience_s": 5.0, **changes}
    return Deployment(**how)


@contextmanager
def stopped_in(round):
    """Yield a view that interrupts the run once it is shown a round."""

    def show(line):
        if line["round"] == round:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yield View(show=show, warn=lambda text: None)


def test_an_app_whose_clients_remember_ends_over_a_node_as_it_does_here(tmp_path, place):
    run(APPS / "custom-strategy", tmp_path / "simulated")
    (tmp_path / "app").symlink_to(APPS / "custom-strategy")
    view, shown, _ = noting()
    how = deployment(tmp_path / "app", clients=4)
    outcome = serve_app(how, tmp_path / "run", place.serving(authority=tmp_path), view)
    assert (outcome.rounds, outcome.failures) == (4, 0)
    assert authority_of(tmp_path / "run") == tmp_path
    assert model(tmp_path / "run") == model(tmp_path / "simulated")
    for ours, theirs in zip(shown, lines(tmp_path / "simulated"), strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(tmp_path, place):
    app = write_app(tmp_path / "app", server=TWICE)
    with stopped_in(2) as view:
        serve_app(deployment(app), tmp_path / "run", place.serving(), view)
    assert [line["round"] for line in lines(tmp_path / "run")] == [1, 2]
    with pytest.raises(RunDirectoryError, match="is not an empty directory"):
        serve_app(deployment(app), tmp_path / "run", place.serving(), view)
    view, shown, _ = noting()
    outcome = resume_app(tmp_path / "run", place.serving(), view)
    assert outcome is not None
    assert (outcome.rounds, outcome.failures) == (4, 0)
    assert [line["round"] for line in shown] == [3, 4]
    assert [line["round"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert load_file(tmp_path / "run/model.safetensors")["0"].tolist() == [4.0, 4.0, 4.0]
    assert resume_app(tmp_path / "run", place.serving(), view) is None
    told = "the ServerApp starts anew and hears again what was answered: 3 waves of messages"
    assert told in place.said


def test_a_run_goes_on_with_a_node_that_lost_its_disk_if_its_clients_keep_nothing(
    tmp_path, place, places
):
    app = write_app(tmp_path / "app", server=TWICE)
    with stopped_in(2) as view:
        serve_app(deployment(app), tmp_path / "run", place.serving(), view)
    fresh = places("new")
    outcome = resume_app(tmp_path / "run", fresh.serving(), noting()[0])
    assert outcome is not None
    assert (outcome.rounds, outcome.failures) == (4, 0)
    assert load_file(tmp_path / "run/model.safetensors")["0"].tolist() == [4.0, 4.0, 4.0]


def test_a_server_app_that_asks_something_else_is_one_sentence(tmp_path, place):
    server = SERVER.replace("np.zeros(3)", "np.full(3, float(len(sys.argv)))").replace(
        "import numpy", "import sys\nimport numpy"
    )
    app = write_app(tmp_path / "app", server=server)
    with stopped_in(1) as view:
        serve_app(deployment(app), tmp_path / "run", place.serving(), view)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["one", "more"] * 40)
        with pytest.raises(RunFailed) as caught:
            resume_app(tmp_path / "run", place.serving(), noting()[0])
    sentence = "the ServerApp asks something else than before it was interrupted: message 1 to "
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run/failed.txt").read_text().startswith(sentence)


def test_a_run_goes_on_with_the_app_that_it_began_with_alone(tmp_path, place):
    app = write_app(tmp_path / "app")
    with stopped_in(1) as view:
        serve_app(deployment(app), tmp_path / "run", place.serving(), view)
    (app / "client_app.py").write_text(f"{CLIENT}\n# better\n")
    with pytest.raises(ConfigError, match=r"began: client_app\.py changed; put it back, or start"):
        resume_app(tmp_path / "run", place.serving(), view)
    run(app, tmp_path / "simulated")
    (tmp_path / "simulated/finished.txt").unlink()
    with pytest.raises(ConfigError, match="simulated clients, which cannot go on; run it again"):
        resume_app(tmp_path / "simulated", place.serving(), view)
    (tmp_path / "run/flower.toml").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"is damaged: its flower\.toml or"):
        resume_app(tmp_path / "run", place.serving(), view)


def test_a_round_without_replies_ends_the_run_with_the_client_s_line(tmp_path, place):
    client = CLIENT.replace("    metrics = ", "    1 / 0\n    metrics = ")
    app = write_app(tmp_path / "app", client=client)
    view, _, warnings = noting()
    with pytest.raises(AppError) as caught:
        serve_app(deployment(app), tmp_path / "run", place.serving(), view)
    assert "client 0 failed: ZeroDivisionError: division by zero" in str(caught.value)
    assert f"({app}/client_app.py:7)\n\nTraceback" in warnings[0]


def test_a_message_that_nodes_refuse_ends_with_the_line_of_the_app_that_sends_it(tmp_path, place):
    server = SERVER.replace(
        "    FedAvg(fraction", "    from flwr.app import ConfigRecord\n    FedAvg(fraction"
    )
    server = server.replace(
        "num_rounds=", 'train_config=ConfigRecord({"a\\nb": 1}),\n        num_rounds='
    )
    app = write_app(tmp_path / "app", server=server)
    with pytest.raises(AppError) as caught:
        serve_app(deployment(app), tmp_path / "run", place.serving(), noting()[0])
    first = str(caught.value).splitlines()[0]
    assert first.startswith(
        "the ServerApp server_app:app failed: ValueError: the message to client "
    )
    assert "'a\\nb' and no printable text of 1024 letters" in first
    assert first.endswith(f"({app}/server_app.py:11)")


def test_a_run_goes_on_without_a_node_that_never_comes_back(tmp_path, place):
    app = write_app(tmp_path / "app", server=TWICE)
    with stopped_in(1) as view:
        serve_app(deployment(app, patience_s=0.1), tmp_path / "run", place.serving(), view)
    elsewhere = Serving(listen="127.0.0.1:0", say=place.said.append)
    with pytest.raises(AppError, match=r"client 0 failed: no node hosts it"):
        resume_app(tmp_path / "run", elsewhere, noting()[0])
    assert "waiting for nodes: 0 of 2 clients are hosted" in place.said


def test_what_keeps_a_reply_from_being_kept_is_told_before_what_the_app_makes_of_it(
    tmp_path, place, monkeypatch
):
    def full(_journal, _kept):
        raise RunDirectoryError("the disk is full")

    monkeypatch.setattr(Journal, "accept", full)
    server = SERVER.replace("    FedAvg(", "    try:\n     FedAvg(")
    server += "    except BaseException:\n        raise ValueError('of the app') from None\n"
    app = write_app(tmp_path / "app", server=server)
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        serve_app(deployment(app), tmp_path / "run", place.serving(), noting()[0])


def test_an_interrupt_is_heard_although_threads_are_waited_for():
    stopped = threading.Event()

    def interrupted_while_a_thread_waits():
        with interrupting(stopped.set), ThreadPoolExecutor() as threads:
            threads.submit(stopped.wait, 10.0)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupted_while_a_thread_waits()
    assert stopped.is_set()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_unencrypted_wire_is_for_loopback_unless_it_is_meant(tmp_path):
    app = write_app(tmp_path / "app")
    there = Serving(listen="0.0.0.0:0", say=lambda line: None)
    with pytest.raises(ConfigError, match=r"--listen 0\.0\.0\.0:0 is not a loopback address"):
        serve_app(deployment(app), tmp_path / "run", there, noting()[0])
    assert not (tmp_path / "run").exists()


# ---- in processes of their own


@pytest.mark.slow
def test_an_app_whose_clients_draw_and_remember_ends_over_nodes_as_it_does_here(tmp_path):
    app = remembering(tmp_path / "app")
    run(app, tmp_path / "simulated", SETTING[1:])
    coordinator, address = serving(tmp_path, app, *SETTING)
    nodes = [joining(tmp_path, address, f"{i}/2", app) for i in (1, 2)]
    ended = coordinator.wait()
    assert (ended.code, [node.wait().code for node in nodes]) == (0, [0, 0])
    assert model(tmp_path / "run") == model(tmp_path / "simulated")
    assert [line["train"]["replies"] for line in lines(tmp_path / "run")] == [2] * ROUNDS
    assert f"run: {ROUNDS} rounds\n" in ended.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["custom-strategy", "secure-aggregation", "legacy-numpy"])
def test_the_apps_end_over_encrypted_nodes_as_they_do_here(name, tmp_path):
    run(APPS / name, tmp_path / "simulated")
    token = ("--authority", "authority", "--token-file", "token")
    command = ("serve", "--flower", APPS / name, "--clients", 4, "--out", "run", *token)
    coordinator, address = listening(start(*command, "--listen", "127.0.0.1:0", cwd=tmp_path))
    nodes = [
        start(
            *("join", address, "--flower", APPS / name, "--partition", f"{i}/2"),
            *("--state", f"node-{i}", "--token", f"@{tmp_path / 'token'}"),
            cwd=tmp_path,
        )
        for i in (1, 2)
    ]
    assert (coordinator.wait().code, [node.wait().code for node in nodes]) == (0, [0, 0])
    assert model(tmp_path / "run") == model(tmp_path / "simulated")


@pytest.mark.slow
def test_killing_the_coordinator_and_nodes_changes_no_bit(tmp_path):
    app = remembering(tmp_path / "app", pace_s=0.1)
    run(app, tmp_path / "simulated", SETTING[1:])
    coordinator, address = serving(tmp_path, app, *SETTING)
    first, second = (joining(tmp_path, address, f"{i}/2", app) for i in (1, 2))
    coordinator.wait_for("round 1 ")
    second.send(signal.SIGKILL)
    second.wait()
    second = joining(tmp_path, address, "2/2", app)
    shown = []
    for round in (2, 4):
        coordinator.wait_for(f"round {round} ")
        coordinator.send(signal.SIGKILL)
        shown.append(coordinator.wait().out)
        first.send(signal.SIGKILL)
        first.wait()
        first = joining(tmp_path, address, "1/2", app)
        again = ("serve", "--resume", "run", "--listen", address, "--insecure")
        coordinator, _ = listening(start(*again, cwd=tmp_path))
    ended = coordinator.wait()
    assert (ended.code, first.wait().code, second.wait().code) == (0, 0, 0)
    assert model(tmp_path / "run") == model(tmp_path / "simulated")
    assert [line["round"] for line in lines(tmp_path / "run")] == list(range(1, ROUNDS + 1))
    assert "round 2 " not in ended.out
