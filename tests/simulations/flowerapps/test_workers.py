"""Who does what clients are asked for."""

import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

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


def test_a_worker_that_has_died_is_replaced_and_the_state_of_its_client_is_kept():
    def work(task):
        if task.number == 2:
            os._exit(5)
        return say(os.getpid())

    kept = Parcel(records=["kept"])
    with hired(2, work) as ask:
        before = {number for (number,) in said(ask(tasks(8)))}
        lost = ask([replace(task, number=2, state=kept) for task in tasks(2)])
        after = {number for (number,) in said(ask(tasks(8)))}
        ask.check()
    assert [answer.trouble and answer.trouble.reason for answer in lost] == [
        f"the process of client {client} was ended by exit code 5" for client in range(2)
    ]
    assert [answer.state.records for answer in lost] == [["kept"], ["kept"]]
    assert before
    assert after - before


def test_a_worker_that_is_killed_while_it_is_free_costs_no_message():
    def process(_task):
        time.sleep(0.02)
        return say(os.getpid())

    with hired(2, process) as ask:
        before = {number for (number,) in said(ask(tasks(8)))}
        assert len(before) == 2
        for number in before:
            os.kill(number, signal.SIGKILL)
            wait_for_end(number)
        answers = ask(tasks(8))
    assert not any(answer.trouble for answer in answers)
    assert not before & {number for (number,) in said(answers)}


def wait_for_end(process):
    """Wait until a process that nobody has waited for has ended, with all of its threads."""
    threads = Path(f"/proc/{process}/task")
    limit = time.monotonic() + 5
    while len(list(threads.iterdir())) > 1 or " Z " not in (threads.parent / "stat").read_text():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_worker_that_dies_again_and_again_ends_the_run_and_whoever_catches_that_hears_it_again():
    with hired(2, lambda _: os._exit(5)) as ask:
        ask.check()
        with pytest.raises(RunFailed) as caught:
            ask(tasks(5))
        sentence = str(caught.value)
        with pytest.raises(RunFailed, match="a worker has died 3 times in a row"):
            ask(tasks(1))
        with pytest.raises(RunFailed, match="a worker has died 3 times in a row"):
            ask.check()
    assert re.fullmatch(
        r"a worker has died 3 times in a row, and no client has replied meanwhile: the process of "
        r"client \d was ended by exit code 5; run the app with --workers 1 to see where",
        sentence,
    )


def test_deaths_with_replies_in_between_do_not_end_the_run():
    def work(task):
        if task.client % 2:
            os._exit(5)
        return say(task.client)

    with hired(2, work) as ask:
        answers = [ask([task])[0] for task in tasks(4) * 3]
    assert [answer.trouble is not None for answer in answers] == [False, True] * 6


def test_batches_are_large_first_and_cover_all():
    sizes = [len(batch) for batch in batches(100, 2)]
    assert sum(sizes) == 100
    assert sizes[:3] == [12, 11, 9]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
