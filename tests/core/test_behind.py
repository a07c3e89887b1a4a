"""Work in a thread of its own that its owner waits for later."""

import threading

import pytest

from roundel.core.behind import Behind


def fail() -> None:
    raise ValueError("it broke")


def test_its_owner_goes_on_meanwhile():
    go_on, done = threading.Event(), []
    with Behind("work") as behind:
        behind.do(lambda: done.append(go_on.wait(10.0)))
        assert not done
        go_on.set()
        behind.wait()
        assert done == [True]


def test_one_thing_waits_for_the_other():
    order: list[int] = []
    first = threading.Event()

    def slowly() -> None:
        first.wait(10.0)
        order.append(1)

    with Behind("work") as behind:
        behind.do(slowly)
        threading.Timer(0.05, first.set).start()
        behind.do(lambda: order.append(2))
        assert order[0] == 1
    assert order == [1, 2]


@pytest.mark.parametrize("ask", ["wait", "do"])
def test_an_error_is_heard_by_whoever_asks_next_and_once(ask):
    with Behind("work") as behind:
        behind.do(fail)
        with pytest.raises(ValueError, match="it broke"):
            behind.wait() if ask == "wait" else behind.do(lambda: None)
        behind.wait()


def test_at_the_end_of_its_block_everything_is_done_and_heard():
    done = []
    with Behind("work") as behind:
        behind.do(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(ValueError, match="it broke"), Behind("work") as behind:
        behind.do(fail)


def test_an_error_of_the_block_comes_first():
    def both() -> None:
        with Behind("work") as behind:
            behind.do(fail)
            raise KeyError("of the block")

    with pytest.raises(KeyError):
        both()


def test_once_closed_it_has_ended_and_begins_nothing():
    done = []
    behind = Behind("work")
    behind.do(lambda: done.append(1))
    behind.close()
    assert done == [1]
    with pytest.raises(RuntimeError):
        behind.do(lambda: done.append(2))


def test_nothing_to_wait_for_is_no_wait():
    done = []
    with Behind("work") as behind:
        behind.wait()
        behind.do(lambda: done.append(1))
        behind.wait()
        behind.wait()
        assert done == [1]
