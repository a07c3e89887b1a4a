"""Who does what clients are asked for."""

import os
import signal
import threading
import time

import pytest

from roundel.core.errors import RunFailed
from roundel.simulations.flowerapps.parcels import Answer, Parcel, Task
from roundel.simulations.flowerapps.workers import batches, hired


def tasks(count):
    return [
        Task(client=client, number=1, metadata={}, content=Parcel(), state=Parcel())
        for client in range(count)
    ]


def say(*words):
    return Answer(content=Parcel(records=list(words)))


def said(answers):
    return [answer.content.records for answer in answers]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_answers_are_in_the_order_of_the_messages(workers):
    def work(task):
        time.sleep(0.002 * (task.client % 3))
        return say(task.client)

    with hired(workers, work) as ask:
        assert said(ask(tasks(20))) == [[client] for client in range(20)]
        assert ask([]) == []


def test_one_worker_is_this_process_and_several_are_others():
    for count, own in ((1, True), (2, False)):
        with hired(count, lambda _: say(os.getpid())) as ask:
            processes = {records[0] for records in said(ask(tasks(8)))}
        assert (processes == {os.getpid()}) is own


def test_threads_may_ask_at_the_same_time():
    found = {}
    with hired(2, lambda task: say(task.client)) as ask:

        def one(client):
            found[client] = said(ask([tasks(8)[client]]))

        threads = [threading.Thread(target=one, args=(client,)) for client in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {client: [[client]] for client in range(8)}


def test_a_worker_that_dies_costs_one_message_and_the_others_go_on():
    def work(task):
        if task.client == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return say(task.client)

    with hired(2, work) as ask:
        answers = ask(tasks(12))
        again = ask(tasks(3))
    (trouble,) = [answer.trouble for answer in answers if answer.trouble]
    assert trouble.code == 8
    assert trouble.reason == (
        "the process of client 3 was ended by the signal SIGKILL, as systems do that run out of "
        "memory"
    )
    assert answers[3].trouble is trouble
    assert said(a for a in answers if a.content) == [[c] for c in range(12) if c != 3]
    assert said(again) == [[0], [1], [2]]


def test_when_all_workers_have_died_the_run_ends():
    with (
        hired(2, lambda _: os._exit(5)) as ask,
        pytest.raises(RunFailed, match="all workers have died; run the app with --workers 1"),
    ):
        ask(tasks(5))


def test_batches_are_large_first_and_cover_all():
    sizes = [len(batch) for batch in batches(100, 2)]
    assert sum(sizes) == 100
    assert sizes[:3] == [12, 11, 9]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
