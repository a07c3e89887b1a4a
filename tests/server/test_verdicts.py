"""What a node's latest answers were told is remembered, and costs little once it is known."""

from roundel.server.verdicts import REMEMBERED, Verdict, Verdicts


def given(said: str | None) -> Verdict:
    verdict = Verdict()
    verdict.set_result(said)
    return verdict


def test_an_answer_that_has_not_come_is_not_found():
    assert Verdicts().find(b"key") is None


def test_an_answer_that_waits_is_found_as_it_is():
    verdicts, waiting = Verdicts(), Verdict()
    verdicts.add(b"key", waiting, clients=1)
    assert verdicts.find(b"key") is waiting
    assert verdicts.undecided() == 1


def test_of_a_verdict_that_is_known_only_what_it_says_is_kept():
    verdicts, verdict = Verdicts(), given("it is late")
    verdicts.add(b"key", verdict, clients=1)
    verdicts.settled(b"key")
    found = verdicts.find(b"key")
    assert found is not None
    assert found is not verdict
    assert found.result() == "it is late"
    assert verdicts.undecided() == 0


def test_a_verdict_that_is_not_known_yet_does_not_settle():
    verdicts, waiting = Verdicts(), Verdict()
    verdicts.add(b"key", waiting, clients=1)
    verdicts.settled(b"key")
    verdicts.settled(b"another")
    assert verdicts.find(b"key") is waiting


def test_an_answer_that_is_to_be_sent_again_is_another_one():
    verdicts, failed = Verdicts(), Verdict()
    verdicts.add(b"key", failed, clients=1)
    failed.set_exception(OSError("later"))
    verdicts.settled(b"key")
    assert verdicts.find(b"key") is None


def test_the_oldest_known_are_forgotten_and_none_that_waits():
    verdicts, waiting = Verdicts(), Verdict()
    verdicts.add(b"waits", waiting, clients=2)
    for number in range(REMEMBERED + 2 + 2):
        verdicts.add(bytes([number]), given(None), clients=2)
    assert verdicts.find(b"waits") is waiting
    assert verdicts.find(bytes([0])) is None
    known = [n for n in range(REMEMBERED + 4) if verdicts.find(bytes([n])) is not None]
    assert known == list(range(1, REMEMBERED + 4))


def test_one_whose_node_hung_up_settles_when_the_next_comes():
    verdicts, left = Verdicts(), Verdict()
    verdicts.add(b"left", left, clients=1)
    left.set_result(None)
    verdicts.add(b"next", Verdict(), clients=1)
    assert verdicts.find(b"left") is not left
    assert verdicts.undecided() == 1
