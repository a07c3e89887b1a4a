"""What passes between processes, and how."""

import io

import pytest

from roundel.simulations.flowerapps.parcels import (
    Answer,
    Buffers,
    Parcel,
    Task,
    Trouble,
    read_answer,
    read_tasks,
    write_answer,
    write_tasks,
)

MODEL = b"m" * 10_000


def task(client, *state):
    content = Parcel(records=[["arrays", 1.5]], buffers=[MODEL])
    return Task(
        client=client,
        number=2,
        metadata={"message_type": "train"},
        content=content,
        state=Parcel(records=["state"], buffers=list(state)),
    )


def sent(*tasks):
    """What another process reads of tasks, and what both ends know from then on."""
    stream = io.BytesIO()
    known = write_tasks(stream, tasks)
    size = stream.tell()
    stream.seek(0)
    return *read_tasks(stream), known, size


def test_messages_arrive_as_they_were_sent():
    tasks, _, _, _ = sent(task(0), task(1, b"x", b"", b"y"))
    assert tasks == [task(0), task(1, b"x", b"", b"y")]


def test_a_model_that_goes_to_many_is_written_once():
    _, _, _, size = sent(*(task(client) for client in range(100)))
    assert len(MODEL) < size < 3 * len(MODEL)


def test_an_answer_arrives_as_it_was_given():
    _, there, here, _ = sent(task(0))
    trouble = Trouble(code=2, reason="no", location="a.py:1", traceback="...")
    for answer in (
        Answer(content=Parcel(records=[1], buffers=[b"new"]), seconds=0.5),
        Answer(trouble=trouble, state=Parcel(records=[2], buffers=[b"kept"])),
    ):
        stream = io.BytesIO()
        write_answer(stream, answer, there)
        stream.seek(0)
        assert read_answer(stream, here) == answer


def test_what_the_other_end_has_does_not_come_back():
    (arrived,), there, here, _ = sent(task(0, MODEL + b"1"))
    stream = io.BytesIO()
    write_answer(stream, Answer(content=arrived.content, state=arrived.state), there)
    assert stream.tell() < 1000
    stream.seek(0)
    answer = read_answer(stream, here)
    assert answer.content is not None
    assert answer.content.buffers[0] is MODEL


def test_an_end_that_is_gone_is_noticed():
    stream = io.BytesIO()
    write_tasks(stream, [task(0)])
    with pytest.raises(EOFError):
        read_tasks(io.BytesIO(stream.getvalue()[:-1]))
    with pytest.raises(EOFError):
        read_answer(io.BytesIO(), Buffers())
