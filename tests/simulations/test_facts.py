"""What strategies cost, as found out from what they send and keep."""

from dataclasses import replace

import pytest

from roundel.simulations.facts import Facts, facts
from roundel.strategies.compose import GRADIENT, Part, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import Finished
from tests.strategies.toys import half, median, trusted_root

PLAIN = Facts(
    up=1.0,
    down=1.0,
    kept=0.0,
    whole=True,
    streams=True,
    passes=0,
    second=False,
    root=False,
)


def head_at_home() -> Part:
    return Part(name="head_at_home", personal=lambda model: {"head.weight", "head.bias"})


def remembers() -> Part:
    """Keep the whole vector, buffers included."""
    return Part(
        name="remembers",
        finishers=(lambda t, context: Finished(state={"remembers.x": context.sent_trainable}),),
        side_work=(lambda learner, job: {},),
        measures=frozenset({GRADIENT}),
    )


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        (fedavg(), {}),
        (scaffold(), {"up": 2.0, "down": 2.0, "kept": 1.0}),
        (compose(scaffold(), half()), {"up": 1.5, "down": 2.0, "kept": 1.0}),
        (compose(median()), {"streams": False}),
        (compose(trusted_root()), {"streams": False, "root": True}),
        (compose(remembers()), {"kept": 1.0, "second": True, "passes": 1}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_costs_are_counted_in_models(strategy, changes):
    assert facts(strategy) == replace(PLAIN, **changes)


def test_what_stays_at_a_client_is_neither_sent_nor_received():
    found = facts(compose(head_at_home()))
    numbers = 101 * 100 + 2 * 100 + 101 * 3
    shared = (numbers - 101 * 3) / numbers
    assert (found.up, found.down, found.kept) == pytest.approx((shared, shared, 1 - shared))
    assert not found.whole


def test_facts_are_said_in_words():
    assert PLAIN.sentence() == (
        "a client sends 1 x and receives 1 x the parameters, keeps nothing; the server adds "
        "updates up as they arrive"
    )
    costly = replace(
        PLAIN, up=0.03125, kept=1, streams=False, passes=1, second=True, root=True, whole=False
    )
    assert costly.sentence() == (
        "a client sends 0.031 x and receives 1 x those of a network with a layer of 100 x 100, "
        "keeps 1 x, takes one more pass over its examples, trains a second time; the server holds "
        "a round's updates and trains on examples of its own"
    )
