"""What was asked and answered is there for a ServerApp that starts anew."""

from contextlib import closing

import pytest

from roundel.core.errors import RunFailed
from roundel.core.messages import ClientFailure, ClientUpdate, Ticket
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import update_to_wire
from roundel.core.wire.payload import pack
from roundel.server.journal import Kept
from roundel.server.round import Outcome, Status
from roundel.server.store import Store
from roundel.simulations.flowerapps.parcels import Answer, Parcel, Task, Trouble
from roundel.simulations.flowerapps.served.replies import Record, digests_of
from roundel.simulations.flowerapps.served.wired import reply_tensors


def task(client, number=1, lr=0.5, **metadata):
    return Task(
        client=client,
        number=number,
        metadata={"message_type": "train", "group_id": "", "created_at": 1.0, **metadata},
        content=Parcel(records=[["c", "config", [["lr", "", lr]]]], buffers=[b"model"]),
        state=Parcel(),
    )


def reply(value):
    return Answer(content=Parcel(records=[["m", "metrics", {"loss": value}]]))


def kept(client, number, wave, value):
    """An accepted reply, as the journal has it."""
    ticket = Ticket(run="r", round=wave, client_id=client)
    update = ClientUpdate(
        ticket=ticket,
        base_version=number,
        num_examples=0,
        num_steps=0,
        channels=reply_tensors(reply(value)),
    )
    packed = pack(update.channels)
    header = update_to_wire(update, "", pb.Payload(size=packed.size, digest=packed.digest))
    return Kept(
        ticket=ticket, identity=b"i", header=header.SerializeToString(), payload=packed.data
    )


@pytest.fixture
def store(tmp_path):
    with closing(Store.open(tmp_path, 1 << 30)) as store:
        yield store


def ask(record, *tasks):
    digests = digests_of(tasks)
    return [record.answer(task, digests[task.client, task.number]) for task in tasks]


def begin(record, *tasks, now_s=0.0):
    return record.begin(digests_of(tasks), now_s)


def test_each_kind_of_outcome_is_heard_again(store):
    record = Record(store)
    asked = [task(client) for client in range(5)]
    assert ask(record, *asked) == [None] * 5
    wave = begin(record, *asked, now_s=12.5)
    assert (wave.number, wave.began_s) == (1, 12.5)
    store.journal.accept(kept(0, 1, 1, 0.25)).result()
    failure = ClientFailure(
        ticket=Ticket(run="r", round=1, client_id=1),
        stage="train",
        error="ValueError: no",
        location="a.py:3",
        traceback="...",
    )
    accepted = record.end(
        1,
        {
            1: Outcome(Status.FAILED, failure=failure),
            2: Outcome(Status.LOST, reason="its node is away"),
            3: Outcome(Status.REJECTED, reason="refused"),
            4: Outcome(Status.UNFINISHED, reason="late"),
        },
    )
    assert accepted == [0]
    again = Record(store)
    assert (again.last, again.open) == (1, None)
    assert ask(again, *asked) == [
        reply(0.25),
        Answer(
            trouble=Trouble(code=2, reason="ValueError: no", location="a.py:3", traceback="...")
        ),
        Answer(trouble=Trouble(code=5, reason="its node is away")),
        Answer(trouble=Trouble(code=2, reason="refused")),
        Answer(late=True),
    ]
    again.check_heard()


def test_whether_clients_keep_nothing_is_kept_with_their_replies(store):
    record = Record(store)
    begin(record, task(0), task(1))
    for client in range(2):
        record.accept(kept(client, 1, 1, 0.5), bare=client == 0).result()
    record.end(1, {})
    assert [Record(store).keepers.may_keep(client) for client in range(3)] == [False, True, True]
    assert ask(Record(store), task(0), task(1)) == [reply(0.5), reply(0.5)]


def test_a_wave_that_was_open_goes_on_with_its_time_and_with_what_was_accepted(store):
    record = Record(store)
    begin(record, task(0), task(1), now_s=3.0)
    store.journal.accept(kept(0, 1, 1, 0.5)).result()
    again = Record(store)
    assert again.open is not None
    assert ask(again, task(0), task(1)) == [reply(0.5), None]
    wave = begin(again, task(1), now_s=9.0)
    assert (wave.number, wave.began_s) == (1, 3.0)
    store.journal.accept(kept(1, 1, 1, 1.5)).result()
    assert again.end(1, {1: Outcome(Status.ACCEPTED)}) == [0, 1]
    assert ask(Record(store), task(0), task(1)) == [reply(0.5), reply(1.5)]


def test_what_was_asked_and_not_answered_may_be_asked_in_a_later_wave(store):
    record = Record(store)
    begin(record, task(0), task(1))
    again = Record(store)
    again.end(1, {0: Outcome(Status.LOST, reason="away")})
    assert ask(again, task(1)) == [None]
    assert begin(again, task(1)).number == 2
    store.journal.accept(kept(1, 1, 2, 2.5)).result()
    again.end(2, {1: Outcome(Status.ACCEPTED)})
    assert ask(Record(store), task(1)) == [reply(2.5)]


def test_an_open_wave_takes_no_other_message_to_a_client_that_it_has_asked(store):
    begin(Record(store), task(3, 5), task(4, 2))
    record = Record(store)
    keys = [(3, 6)], [(4, 2), (3, 6)], [(4, 2)], [(4, 2), (9, 1)], [(9, 1)]
    assert [record.fits(each) for each in keys] == [False, False, True, True, True]
    assert [record.goes_on(each) for each in keys] == [False, False, True, True, False]


def test_what_was_asked_and_what_was_heard_again_takes_no_memory_any_more(store):
    record = Record(store)
    begin(record, task(0), task(1))
    assert vars(record)["_unheard"] == {}
    record.end(1, {0: Outcome(Status.LOST), 1: Outcome(Status.LOST)})
    again = Record(store)
    ask(again, task(0))
    assert list(vars(again)["_unheard"]) == [(1, 1)]


def test_when_a_message_was_made_and_how_long_it_is_good_makes_no_other_one_of_it(store):
    begin(Record(store), task(0))
    record = Record(store)
    assert ask(record, task(0, created_at=99.0, ttl=3.0)) == [None]
    assert record.open is not None


@pytest.mark.parametrize(
    "other", [task(0, lr=0.25), task(0, message_type="evaluate"), task(0, group_id="2")]
)
def test_an_app_that_asks_something_else_is_refused_in_one_sentence(store, other):
    begin(Record(store), task(0))
    with pytest.raises(RunFailed) as caught:
        ask(Record(store), other)
    assert str(caught.value) == (
        "the ServerApp asks something else than before it was interrupted: message 1 to client 0 "
        "is another one; it depends on something besides its seed and the replies, such as the "
        "time; let it draw from Python's, NumPy's or torch's global generators, or start a new run"
    )


def test_an_app_that_leaves_a_message_out_is_refused(store):
    record = Record(store)
    begin(record, task(0), task(1))
    record.end(1, {})
    begin(record, task(0, 2))
    again = Record(store)
    ask(again, task(0))
    with pytest.raises(RunFailed, match="message 1 to client 1 is not sent any more"):
        again.check_heard()


def test_messages_of_equal_content_have_one_digest_and_hash_it_once():
    one, two = digests_of([task(0), task(1, 7)]).values()
    assert one == two
    assert digests_of([task(0, lr=0.1)])[0, 1] != one
