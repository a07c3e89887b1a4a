"""Who plays which clients is what nodes say of themselves."""

import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from roundel.core.errors import RunFailed
from roundel.core.fingerprint import Fingerprint
from roundel.core.flower import Hello, answers_content, hello_content
from roundel.core.messages import ClientUpdate, Ticket
from roundel.core.metrics import Metrics
from roundel.server.flower_nodes import Replies, Roster
from tests.flowerapps.grids import PlainGrid

OURS = Fingerprint(task="digits", knobs={}, code={}, layout="a", tensors=("w 2x3",)).text()
OTHER = Fingerprint(task="digits", knobs={}, code={}, layout="b", tensors=("w 2x4",)).text()


def greeting(fingerprint=OURS, trouble=""):
    """Return a ClientApp that says hello."""
    app = ClientApp()

    def hello(message, context):
        partition = context.node_config["partition-id"]
        said = Hello(
            fingerprint=fingerprint,
            partition=partition,
            partitions=context.node_config["num-partitions"],
            trouble=trouble,
        )
        return Message(hello_content(said), reply_to=message)

    app.query()(hello)
    return app


class Time:
    """A clock that goes on when somebody sleeps, and what happens meanwhile."""

    def __init__(self):
        self.now, self.events = 0.0, {}

    def sleep(self, seconds):
        self.now += seconds
        for at in [at for at in self.events if at <= self.now]:
            self.events.pop(at)()


def roster(population=4, time=None, wait_s=10.0):
    time = time or Time()
    return Roster(
        population=population,
        fingerprint=OURS,
        wait_s=wait_s,
        clock=lambda: time.now,
        sleep=time.sleep,
    )


def test_each_client_has_the_node_that_plays_its_share():
    met = roster(population=5)
    met.meet(PlainGrid(greeting(), 2))
    assert [met.node_of(client) for client in range(5)] == [100, 101, 100, 101, 100]


def test_it_waits_for_a_node_that_comes_late():
    time = Time()
    grid, met = PlainGrid(greeting(), 2), roster(time=time)
    grid.gone = {101}
    time.events[3.0] = grid.gone.clear
    met.meet(grid)
    assert (met.node_of(3), time.now) == (101, 3.0)
    assert len(grid.sent) == 2


def test_clients_without_a_node_in_time_end_the_run():
    grid = PlainGrid(greeting(), 2)
    grid.gone = {101}
    with pytest.raises(RunFailed, match=r"2 of 4 clients have no node after 10 s; start a Super"):
        roster().meet(grid)


def test_nodes_that_play_nobody_are_asked_once():
    grid, met = PlainGrid(greeting(), 5), roster(population=2)
    met.meet(grid)
    met.meet(grid)
    assert [message.metadata.dst_node_id for message in grid.sent] == [100, 101, 102, 103, 104]


def test_later_a_new_node_takes_over_what_one_played_that_is_gone():
    grid, met = PlainGrid(greeting(), 2, shares=[0, 1, 1]), roster()
    grid.gone = {102}
    met.meet(grid)
    grid.gone = {101}
    met.meet(grid)
    assert [met.node_of(client) for client in range(4)] == [100, 102, 100, 102]


def test_later_nobody_waits_for_a_node_that_is_gone():
    time = Time()
    grid, met = PlainGrid(greeting(), 2), roster(time=time)
    met.meet(grid)
    grid.gone = {101}
    met.meet(grid)
    assert (met.node_of(1), time.now) == (None, 0.0)


def test_two_nodes_with_the_same_share_are_told_apart():
    time = Time()
    both = "nodes 100 and 101 both play client 0, so node 101 waits until the other is gone; give e"
    with pytest.warns(RuntimeWarning, match=both), pytest.raises(RunFailed, match=both):
        roster(time=time).meet(PlainGrid(greeting(), 1, shares=[0, 0]))
    assert time.now == 10.0


def test_the_first_round_waits_until_what_a_node_has_left_of_itself_is_gone():
    time = Time()
    grid, met = PlainGrid(greeting(), 2, shares=[0, 1, 1]), roster(time=time)
    time.events[3.0] = lambda: grid.gone.add(101)
    with pytest.warns(RuntimeWarning, match="nodes 101 and 102 both play client 1"):
        met.meet(grid)
    assert (met.node_of(1), met.node_of(3), time.now) == (102, 102, 3.0)


def test_a_node_that_does_not_fit_is_told_what_differs():
    with pytest.raises(RunFailed, match=r"node '100' does not fit the run; it differs in the mode"):
        roster().meet(PlainGrid(greeting(OTHER), 1))


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        (greeting(trouble="no data"), "node 100 cannot take part: no data"),
        (ClientApp(), "node 100 cannot take part: ValueError: No query function registered"),
    ],
)
def test_a_node_that_cannot_take_part_says_why(app, sentence):
    with pytest.raises(RunFailed, match=sentence):
        roster().meet(PlainGrid(app, 1))


def test_an_app_that_is_not_ours_is_told_so():
    app = ClientApp()
    app.query()(lambda message, context: Message(RecordDict(), reply_to=message))
    with pytest.raises(RunFailed, match="cannot take part: a message lacks the ConfigRecord 'roun"):
        roster().meet(PlainGrid(app, 1))


def test_a_node_that_comes_back_plays_its_clients_again():
    grid, met = PlainGrid(greeting(), 2), roster()
    met.meet(grid)
    grid.gone = {101}
    met.meet(grid)
    grid.gone = set()
    met.meet(grid)
    assert met.node_of(1) == 101


def test_later_a_node_whose_share_is_taken_gets_it_once_the_other_is_gone():
    grid, met = PlainGrid(greeting(), 2, shares=[0, 1, 1]), roster()
    grid.gone = {102}
    met.meet(grid)
    grid.gone = set()
    with pytest.warns(RuntimeWarning, match="nodes 101 and 102 both play client 1, .* 102 waits"):
        met.meet(grid)
    assert met.node_of(1) == 101
    grid.gone = {101}
    met.meet(grid)
    assert (met.node_of(1), met.node_of(3)) == (102, 102)
    assert len(grid.sent) == 3


def test_later_a_node_that_does_not_fit_is_left_out_for_good_and_the_run_goes_on():
    grid, met = PlainGrid(greeting(), 2, shares=[0, 1, 1]), roster()
    grid.gone = {102}
    met.meet(grid)
    grid.gone, grid.app = {101}, greeting(OTHER)
    with pytest.warns(RuntimeWarning, match="node '102' does not fit the run; .* it is left out$"):
        met.meet(grid)
    met.meet(grid)
    assert met.node_of(1) is None
    assert len(grid.sent) == 3


def test_later_a_node_that_replied_with_an_error_is_asked_again_in_the_next_round():
    time = Time()
    grid, met = PlainGrid(greeting(), 2, shares=[0, 1, 1]), roster(time=time)
    grid.gone = {102}
    met.meet(grid)
    grid.gone, works, grid.app = {101}, grid.app, ClientApp()
    with pytest.warns(RuntimeWarning, match="left out; it is asked again before the next round"):
        met.meet(grid)
    assert (met.node_of(1), time.now) == (None, 0.0)
    grid.app = works
    met.meet(grid)
    assert met.node_of(1) == 102


def test_a_node_whose_question_could_not_be_sent_is_asked_again():
    class Losing(PlainGrid):
        """Leaves out the first message, as Flower's own Grids do."""

        lost = 0

        def push_messages(self, messages):
            self.lost += 1
            return super().push_messages(messages[self.lost == 1 :])

    met = roster(time=(time := Time()))
    met.meet(Losing(greeting(), 2))
    assert ([met.node_of(client) for client in range(2)], time.now) == ([100, 101], 0.5)


def test_later_a_round_does_not_wait_long_for_a_new_node():
    time = Time()
    grid, met = PlainGrid(greeting(), 2, shares=[0, 1, 1]), roster(time=time)
    grid.gone = {102}
    met.meet(grid)
    grid.gone, grid.silent = {101}, {102}
    met.meet(grid)
    assert (met.node_of(1), time.now) == (None, 30.0)


def test_a_node_that_never_answers_costs_that_once():
    time = Time()
    grid, met = PlainGrid(greeting(), 2, shares=[0, 1, 1]), roster(time=time)
    grid.gone = {102}
    met.meet(grid)
    grid.gone, grid.silent = {101}, {102}
    for _ in range(3):
        met.meet(grid)
    assert time.now == 30.0
    assert len(grid.sent) == 3


# ---- what a node may reply


def why_none(said):
    """Return why client 0 has no answer when its node replies so."""
    met = roster(population=1)
    met.meet(PlainGrid(greeting(), 1))
    question = Message(RecordDict(), 100, MessageType.TRAIN)
    vars(question.metadata)["_message_id"] = "1"
    return Replies.read(met, [Message(said, reply_to=question)]).why_none(met, 0)


def test_an_error_is_told_in_one_line_that_moves_no_cursor():
    why = why_none(Error(2, "\x1b[2J\n" + "x" * 10_000))
    assert why.startswith("its node replied with an error: \ufffd[2J\ufffdxxx")
    assert why.isprintable()
    assert len(why) < 4200
    assert why_none(Error(2)).endswith("error: it gave no reason")


def test_a_shape_that_nothing_can_have_costs_the_node_its_reply_and_no_more():
    update = ClientUpdate(
        ticket=Ticket(run="run", round=1, client_id=0, stage=0, attempt=0),
        base_version=0,
        num_examples=1,
        num_steps=1,
        channels={"params": torch.zeros(1)},
        scalars={},
        metrics=Metrics({}, 0),
        seconds=0.0,
    )
    content = answers_content([update])
    array = Array("F32", (0, *[(1 << 31) - 1] * 3), "roundel.tensor", b"")
    content["roundel.update.0"] = ArrayRecord({"params": array})
    sentence = "the reply of its node cannot be read: array 'params' of the type"
    assert why_none(content).startswith(sentence)
