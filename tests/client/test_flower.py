"""A node of Flower's does the work of our server, and keeps states as our nodes do."""

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from roundel.client import flower
from roundel.client.flower import client_app
from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError
from roundel.core.flower import (
    Work,
    broadcast_arrays,
    read_answers,
    read_hello,
    work_content,
)
from roundel.core.messages import ClientFailure, ClientUpdate, Ticket, TrainRequest
from roundel.simulations.prepare import prepare
from roundel.simulations.registration import hosted_by

SETTINGS = ("strategy.name=scaffold", "partition.clients=4", "cohort.size=2", "client.steps=1")


@pytest.fixture(scope="module")
def hosted():
    """Return what a node brings that plays clients 0 and 2."""
    return hosted_by(prepare(load_experiment(None, SETTINGS), load_test=False), (0, 2))


class Node:
    """A ClientApp, and the context that Flower keeps for it."""

    def __init__(self, prepared, **config):
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.context = Context(1, 7, config, RecordDict(), {})
        self._app = client_app(prepared)
        self._hosted = prepared

    def ask(self, content, kind):
        """Return the content of the reply."""
        message = Message(content, dst_node_id=7, message_type=kind)
        return self._app(message, self.context).content

    def train(self, round, client=0, state=0):
        """Train a client; return its answer."""
        learner = self._hosted(self.context).learner
        params = learner.initial[learner.spec.shared]
        channels = {"control": torch.zeros(learner.spec.shared_trainable.stop)}
        request = TrainRequest(
            ticket=Ticket(run="r", round=round, client_id=client),
            base_version=round - 1,
            params=params,
            integers=learner.initial_integers,
            channels=channels,
        )
        broadcast = broadcast_arrays(params, learner.initial_integers, channels)
        works = [Work(request=request, state=state)]
        content = work_content(works, broadcast, ConfigRecord())
        [answer] = read_answers(self.ask(content, "train"))
        return answer

    @property
    def kept(self):
        """The names of the states that it keeps."""
        return sorted(name for name in self.context.state if "state" in name)


def test_it_says_who_it_is(hosted):
    node = Node(lambda _: hosted, **{"partition-id": 0, "num-partitions": 2})
    hello = read_hello(node.ask(RecordDict(), "query"))
    assert (hello.partition, hello.partitions, hello.trouble) == (0, 2, "")
    assert hello.fingerprint == hosted.fingerprint


@pytest.mark.parametrize(
    "config", [{}, {"partition-id": 2, "num-partitions": 2}, {"partition-id": "a"}]
)
def test_a_node_without_a_share_says_how_to_give_it_one(config, hosted):
    hello = read_hello(Node(lambda _: hosted, **config).ask(RecordDict(), "query"))
    assert hello.trouble.startswith(f"its partition-id is {config.get('partition-id')!r} and its")
    assert "--node-config 'partition-id=0 num-partitions=2'" in hello.trouble


def test_a_node_that_cannot_prepare_says_why():
    def broken(_):
        raise ConfigError("there is no data")

    assert read_hello(Node(broken).ask(RecordDict(), "query")).trouble == "there is no data"


def test_it_keeps_the_state_that_counts_and_the_one_that_may(hosted):
    node = Node(lambda _: hosted)
    first = node.train(1)
    assert isinstance(first, ClientUpdate)
    assert node.kept == ["roundel.state.0.1"]
    node.train(2, state=1)
    assert node.kept == ["roundel.state.0.1", "roundel.state.0.2"]
    node.train(3, state=1)  # round 2 did not count
    assert node.kept == ["roundel.state.0.1", "roundel.state.0.3"]


def test_a_round_that_did_not_count_leaves_no_trace(hosted):
    first, other = Node(lambda _: hosted), Node(lambda _: hosted)
    first.train(1)
    again, fresh = first.train(2, state=0), other.train(2, state=0)
    assert isinstance(again, ClientUpdate)
    assert isinstance(fresh, ClientUpdate)
    assert torch.equal(again.channels["params"], fresh.channels["params"])
    assert first.kept == ["roundel.state.0.2"]


def test_clients_of_one_node_do_not_share_states(hosted):
    node = Node(lambda _: hosted)
    node.train(1, client=0)
    node.train(1, client=2)
    assert node.kept == ["roundel.state.0.1", "roundel.state.2.1"]


def test_a_state_that_is_gone_is_a_failure_and_not_a_fresh_start(hosted):
    failure = Node(lambda _: hosted).train(3, state=2)
    assert isinstance(failure, ClientFailure)
    assert failure.error.startswith("this node has lost the state that client 0 had after round 2")


def test_a_client_that_it_does_not_play_is_a_failure(hosted):
    failure = Node(lambda _: hosted).train(1, client=1)
    assert isinstance(failure, ClientFailure)
    assert failure.error == "this node does not play client 1"


def test_its_secret_is_drawn_once_and_kept():
    records = RecordDict()
    secret = flower._secret(records)
    assert flower._secret(records) == secret
    assert len(secret) == 32
