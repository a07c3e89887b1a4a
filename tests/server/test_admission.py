"""The admission gate: one sentence for each defect, and nothing of a bad update gets through."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch

from roundel.core.messages import ClientUpdate, Evaluation
from roundel.core.metrics import Metrics
from roundel.server.admission import Admission, evaluation_defect
from roundel.server.open_round import OpenRound
from roundel.server.round import Accept, Reject, UpdateArrived
from roundel.strategies.compose import Part, compose
from roundel.strategies.sites import Codec, RoundContext, Weigher
from tests.server.toys import SPEC, STRATEGY, bits, round_of, state_of, ticket_of, update_of


def with_channel(name: str, value: torch.Tensor) -> ClientUpdate:
    good = update_of(2)
    return replace(good, channels={**good.channels, name: value})


def without_channel(name: str) -> ClientUpdate:
    good = update_of(2)
    return replace(good, channels={k: v for k, v in good.channels.items() if k != name})


def delta(*values: float) -> ClientUpdate:
    return with_channel("params", torch.tensor(values))


LIMIT = "2.29e+10; the client has probably diverged"  # 2**37 / 2 / 3 clients
DEFECTS = {
    "nan": (delta(0.5, nan), "its channel 'params' holds values that are not finite"),
    "inf": (delta(-inf, 0.5), "its channel 'params' holds values that are not finite"),
    "nan in a buffer": (
        with_channel("buffers", torch.tensor([nan])),
        "its channel 'buffers' holds values that are not finite",
    ),
    "out of the exact range": (
        delta(0.5, 1e30),
        f"its channel 'params' holds 1e+30, which times its weight 2 exceeds {LIMIT}",
    ),
    "out of the exact range by its weight": (
        update_of(2, (0.5, 1.0), num_examples=1 << 40),
        f"its channel 'params' holds 1, which times its weight 1.09951e+12 exceeds {LIMIT}",
    ),
    "no examples": (
        update_of(2, num_examples=0),
        "num_examples = 0 is not between 1 and 2**40",
    ),
    "negative examples": (
        update_of(2, num_examples=-5),
        "num_examples = -5 is not between 1 and 2**40",
    ),
    "absurdly many examples": (
        update_of(2, num_examples=(1 << 40) + 1),
        "num_examples = 1099511627777 is not between 1 and 2**40",
    ),
    "no steps": (update_of(2, num_steps=0), "num_steps = 0 is less than 1"),
    "a row that would broadcast": (
        with_channel("params", torch.tensor([0.5])),
        "its channel 'params' has the shape (1,), not (2,)",
    ),
    "a number that would broadcast": (
        with_channel("params", torch.tensor(0.5)),
        "its channel 'params' has the shape (), not (2,)",
    ),
    "a matrix that would broadcast": (
        with_channel("params", torch.zeros(1, 2)),
        "its channel 'params' has the shape (1, 2), not (2,)",
    ),
    "another model": (
        with_channel("params", torch.zeros(3)),
        "its channel 'params' has the shape (3,), not (2,)",
    ),
    "a wider dtype": (
        with_channel("params", torch.zeros(2, dtype=torch.float64)),
        "its channel 'params' has the dtype torch.float64, not torch.float32",
    ),
    "integers for floats": (
        with_channel("params", torch.zeros(2, dtype=torch.int64)),
        "its channel 'params' has the dtype torch.int64, not torch.float32",
    ),
    "floats for integers": (
        with_channel("integers", torch.zeros(1)),
        "its channel 'integers' has the dtype torch.float32, not torch.int64",
    ),
    "a missing channel": (
        without_channel("buffers"),
        "it has the channels ['integers', 'params'], not ['buffers', 'integers', 'params']",
    ),
    "no parameters": (
        without_channel("params"),
        "it has the channels ['buffers', 'integers'], not ['buffers', 'integers', 'params']",
    ),
    "a channel too many": (
        with_channel("more", torch.zeros(1)),
        (
            "it has the channels ['buffers', 'integers', 'more', 'params'], not ['buffers', "
            "'integers', 'params']"
        ),
    ),
    "an old base version": (
        update_of(2, base_version=-1),
        "it starts from version -1, not 0",
    ),
    "a base version to come": (update_of(2, base_version=1), "it starts from version 1, not 0"),
    "a metric of nan": (
        update_of(2, metrics=Metrics({"loss": nan}, 2)),
        "its 'loss' is nan, which is not finite",
    ),
    "an infinite scalar": (
        update_of(2, scalars={"steps": -inf}),
        "its 'steps' is -inf, which is not finite",
    ),
    "a metric hidden behind a scalar of its name": (
        update_of(2, scalars={"loss": 1.0}, metrics=Metrics({"loss": inf}, 2)),
        "its 'loss' is inf, which is not finite",
    ),
    "a figure whose name fills a log": (
        update_of(2, metrics=Metrics({"x" * 5000: 1.0}, 2)),
        f"among its figures '{'x' * 99} is no name of printable characters, 256 at most",
    ),
    "a scalar whose name moves a cursor": (
        update_of(2, scalars={"\x1b[2J": 1.0}),
        "among its figures '\\x1b[2J' is no name of printable characters, 256 at most",
    ),
    "a channel whose name fills a log": (
        with_channel("x" * 5000, torch.zeros(1)),
        (
            f"it has the channels ['buffers', 'integers', 'params', '{'x' * 965}, not ['buffers', "
            "'integers', 'params']"
        ),
    ),
    "a counter that went back": (
        with_channel("integers", torch.tensor([2])),
        "its channel 'integers' holds the counter 2, which is not between 3 and 1099511627779",
    ),
    "a counter that ran away": (
        with_channel("integers", torch.tensor([2**63 - 1])),
        (
            "its channel 'integers' holds the counter 9223372036854775807, which is not between 3 "
            "and 1099511627779"
        ),
    ),
    "training on fewer examples than none": (
        update_of(2, metrics=Metrics({"loss": 1.0}, -1)),
        "its training covers -1 examples, which is not between 0 and 2**50",
    ),
    "training on absurdly many examples": (
        update_of(2, metrics=Metrics({"loss": 1.0}, 2**50 + 1)),
        "its training covers 1125899906842625 examples, which is not between 0 and 2**50",
    ),
    "more clipped examples than it trained on": (
        update_of(2, metrics=Metrics({"clipped": 3.0}, 2)),
        "its 'clipped' = 3.0 is not a count of its 2 examples",
    ),
    "more right answers than examples": (
        update_of(2, metrics=Metrics({"accuracy": 3.0}, 2)),
        "its accuracy counts 3.0 right answers of 2 examples",
    ),
    "a count that is none": (
        update_of(2, metrics=Metrics({"confusion/1/x": 1.0}, 2)),
        "its 'confusion/1/x' = 1.0 is not a count of its 2 examples",
    ),
    "figures without end": (
        update_of(2, metrics=Metrics({f"m{i}": 1.0 for i in range(1001)}, 2)),
        "it tells 1001 figures about its training; at most 1000 count",
    ),
    "time that is no number": (
        update_of(2, seconds=nan),
        "seconds = nan is not a finite number of at least 0",
    ),
    "time that runs backwards": (
        update_of(2, seconds=-1.0),
        "seconds = -1.0 is not a finite number of at least 0",
    ),
}
CONTEXT = RoundContext(round=1, population=4, selected=3, completed=1)


def gate(strategy=STRATEGY, selected: int = 3) -> Admission:
    return Admission(strategy=strategy, spec=SPEC, base_version=0, selected=selected)


def sums(open_round: OpenRound):
    return bits(open_round.accumulators.finish(CONTEXT))


@pytest.mark.parametrize(("update", "sentence"), DEFECTS.values(), ids=DEFECTS)
def test_each_defect_is_refused_with_its_sentence_and_leaves_the_sums_alone(update, sentence):
    open_round = round_of((1, 2, 3))
    open_round.start(0.0)
    open_round.handle(UpdateArrived(update_of(1)))
    before = sums(open_round)
    assert open_round.handle(UpdateArrived(update)) == [Reject(ticket_of(2), sentence)]
    assert sums(open_round) == before


def test_a_refused_client_does_not_stop_the_others():
    with_bad, without = round_of((1, 2, 3)), round_of((1, 3))
    for open_round, clients in ((with_bad, (1, 2, 3)), (without, (1, 3))):
        open_round.start(0.0)
        for client_id in clients:
            bad = client_id == 2
            update = DEFECTS["nan"][0] if bad else update_of(client_id)
            open_round.handle(UpdateArrived(update))
    assert with_bad.ended == without.ended
    assert sums(with_bad) == sums(without)


def test_updates_that_are_judged_together_are_judged_as_each_alone():
    updates = [update for update, _ in DEFECTS.values()]
    mixed = [update_of(1), *updates, update_of(3, (5.0, -6.0))]
    judge = replace(gate(), integers=state_of().integers)
    found = judge.judged(mixed)
    assert found == [judge(update) for update in mixed]
    assert (found[0], found[-1]) == (mixed[0], mixed[-1])
    assert found[1:-1] == [sentence for _, sentence in DEFECTS.values()]
    assert judge.judged([]) == []


def test_a_valid_update_passes_unchanged():
    update = update_of(1, scalars={"steps": 3.0}, seconds=0.25)
    before = bits(update.channels)
    admitted = gate()(update)
    assert admitted == update
    assert bits(update.channels) == before


def test_an_update_is_what_it_was_when_it_reaches_the_sums():
    update = update_of(1)
    open_round = round_of()
    open_round.start(0.0)
    assert open_round.handle(UpdateArrived(update)) == [Accept(update)]


def test_the_largest_values_that_keep_every_sum_exact_are_admitted():
    limit = 2.0**35 / 2  # the weight is 2
    assert isinstance(gate(selected=2)(delta(0.0, limit)), ClientUpdate)
    assert isinstance(gate(selected=2)(delta(0.0, limit * 1.001)), str)


def test_the_limit_shrinks_with_the_cohort_and_not_with_who_came_first():
    assert isinstance(gate(selected=2)(delta(0.0, 2.0**30)), ClientUpdate)
    assert gate(selected=1 << 10)(delta(0.0, 2.0**30)) == (
        "its channel 'params' holds 1.07e+09, which times its weight 2 exceeds 6.71e+07; the "
        "client has probably diverged"
    )


@pytest.mark.parametrize(
    ("sent", "counter", "admitted"),
    [
        (3, 3, True),
        (3, 3 + 2**40, True),
        (3, 4 + 2**40, False),
        (-5, -5, True),
        (-5, -6, False),
        (2**63 - 2, 2**63 - 1, True),
        (2**63 - 2, 2**63 - 3, False),
        (None, 0, True),
        (None, 2**62, True),
        (None, 2**62 + 1, False),
        (None, -1, False),
        (None, -(2**63), False),
    ],
)
def test_counters_grow_from_what_was_sent_and_by_so_much(sent, counter, admitted):
    known = None if sent is None else torch.tensor([sent])
    judged = replace(gate(), integers=known)(with_channel("integers", torch.tensor([counter])))
    assert isinstance(judged, ClientUpdate) == admitted


def test_what_clients_usually_tell_about_their_training_is_admitted():
    for metrics in (Metrics(), Metrics({"loss": 1e9, "clipped": 2000.0}, 2000)):
        assert isinstance(gate()(update_of(1, metrics=metrics)), ClientUpdate)


def strategy_with(decode):
    codec = Codec(name="odd", encode=lambda sent, _state, _seed: (sent, {}), decode=decode)
    return compose(Part(name="odd", codecs=(codec,)))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("scale"),
        ValueError("bad length"),
        RuntimeError("shape mismatch"),
        TypeError("not a tensor"),
        IndexError("out of range"),
        ZeroDivisionError("by zero"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_codec_that_raises_refuses_the_update_and_nothing_else(error):
    def decode(_channels, _kinds):
        raise error

    admitted = gate(strategy_with(decode))(update_of(1))
    text = str(error)
    assert admitted == f"its channels cannot be decoded: {type(error).__name__}: {text}"


def test_what_the_codecs_decode_is_what_is_judged_and_passed_on():
    def halve(channels, _kinds):
        return {**channels, "params": channels["params"] / 2}

    admitted = gate(strategy_with(halve))(update_of(1, (4.0, 2.0)))
    assert isinstance(admitted, ClientUpdate)
    assert admitted.channels["params"].tolist() == [2.0, 1.0]
    hostile = gate(strategy_with(lambda sent, _kinds: {**sent, "params": torch.tensor([nan, 1.0])}))
    assert hostile(update_of(1)) == "its channel 'params' holds values that are not finite"


def test_codecs_are_undone_in_reverse_order():
    def add_one(channels, _kinds):
        return {**channels, "params": channels["params"] + 1}

    def double(channels, _kinds):
        return {**channels, "params": channels["params"] * 2}

    def codec(name, decode):
        return Codec(name=name, encode=lambda sent, _state, _seed: (sent, {}), decode=decode)

    both = compose(Part(name="both", codecs=(codec("a", add_one), codec("b", double))))
    admitted = gate(both)(update_of(1, (1.0, 2.0)))
    assert isinstance(admitted, ClientUpdate)
    assert admitted.channels["params"].tolist() == [3.0, 5.0]  # doubled first, then one more


@pytest.mark.parametrize(
    ("weigh", "sentence"),
    [
        (lambda _update: 0.0, "its aggregation weight 0.0 is not a finite number above 0"),
        (lambda _update: -1.0, "its aggregation weight -1.0 is not a finite number above 0"),
        (lambda _update: inf, "its aggregation weight inf is not a finite number above 0"),
        (lambda _update: nan, "its aggregation weight nan is not a finite number above 0"),
        (
            lambda update: update.scalars["loss"],
            "its aggregation weight cannot be computed: KeyError: 'loss'",
        ),
    ],
)
def test_an_update_without_a_usable_weight_is_refused(weigh, sentence):
    strategy = compose(Part(name="odd", weigher=Weigher(name="odd", weigh=weigh)))
    assert gate(strategy)(update_of(1)) == sentence


@pytest.mark.parametrize(
    ("metrics", "defect"),
    [
        (Metrics({"loss": 1.0}, 2), None),
        (Metrics({}, 0), None),
        (Metrics({"loss": nan}, 2), "its 'loss' is nan, which is not finite"),
        (Metrics({"loss": 1.0}, -1), "it covers -1 examples, which is not between 0 and 2**40"),
        (
            Metrics({"loss": 1.0}, 1 << 41),
            "it covers 2199023255552 examples, which is not between 0 and 2**40",
        ),
        (Metrics({"confusion/0/0": 2.0, "confusion/99/99": 0.0}, 2), None),
        (
            Metrics({"confusion/0/0": 3.0}, 2),
            "its 'confusion/0/0' = 3.0 is not a count of its 2 examples",
        ),
        (
            Metrics({"confusion/0/0": -1.0}, 2),
            "its 'confusion/0/0' = -1.0 is not a count of its 2 examples",
        ),
        (
            Metrics({"confusion/0/0": nan}, 2),
            "its 'confusion/0/0' = nan is not a count of its 2 examples",
        ),
        (
            Metrics({"confusion/0/100": 1.0}, 2),
            "its 'confusion/0/100' = 1.0 is not a count of its 2 examples",
        ),
        (
            Metrics({"confusion/\u0663/0": 1.0}, 2),
            "its 'confusion/\u0663/0' = 1.0 is not a count of its 2 examples",
        ),
        (Metrics({"top/5": 1.0}, 2), "its 'top/5' = 1.0 is not a count of its 2 examples"),
        (Metrics({"x" * 256: 1.0}, 2), None),
        (
            Metrics({"/" + "x" * 256: 1.0}, 2),
            f"among its figures '/{'x' * 98} is no name of printable characters, 256 at most",
        ),
    ],
)
def test_figures_that_are_no_figures_are_refused(metrics, defect):
    assert evaluation_defect(Evaluation(ticket=ticket_of(1), metrics=metrics)) == defect
