"""A watched strategy does as before, and what is wrong with a call is noted."""

import pytest
import torch

from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.core.params import ParamSpec
from roundel.simulations.conformance.observed import Asked, Log, copied, difference, observed
from roundel.simulations.conformance.trial import Trial
from roundel.strategies.compose import Part, compose
from roundel.strategies.scaffold import scaffold
from tests.federations import Point
from tests.strategies.toys import half, median
from tests.strategies.updates import vec


def test_a_watched_strategy_gives_the_same_bits_and_every_call_is_kept():
    log = Log()
    strategy = compose(scaffold(), half())
    plain, watched = Trial(strategy), Trial(observed(strategy, log), log=log)
    one, other = (each.commit(each.ask(each.first(), (0, 1))) for each in (plain, watched))
    assert difference(one, other, "the end") == ""
    assert (log.changed, log.repeated, log.malformed) == ([], [], [])
    assert len(log.of("finisher")) == 2
    assert len(log.of("correction")) == 4
    assert [call.moment for call in log.of("codec's encode")] == [(1, 0), (1, 1)]
    assert {call.part for call in log.of("server transform's update")} == {"scaffold"}


def test_rules_are_watched_too():
    log = Log()
    trial = Trial(observed(compose(median()), log), log=log)
    trial.commit(trial.ask(trial.first(), (0, 1, 2)))
    (call,) = log.of("rule")
    assert call.arguments[0].shape[0] == 3


def test_a_copy_shares_no_memory():
    context = LocalContext(
        spec=ParamSpec.of(Point(vec(1.0))), sent=vec(1.0), state=Asked({"a": vec(2.0)})
    )
    other = copied((context, [1, "x"]))
    context.sent.add_(1)
    context.state["a"].add_(1)
    assert other[0].sent.tolist() == [1.0]
    assert dict(other[0].state) == {"a": vec(2.0)}
    assert other[0].spec is context.spec
    assert other[1] == (1, "x")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (vec(1, 2), vec(1, 2), ""),
        (vec(1, 2), vec(1, 3), "x[1]: 2 became 3"),
        (vec(0.0), vec(-0.0), "x: the signs of its zeros differ"),
        (vec(float("nan")), vec(float("nan")), ""),
        (vec(1), vec(1).float(), "x: torch.float64 of shape (1,) became torch.float32 of shape (1"),
        ({"a": vec(1)}, {"a": vec(2)}, "x['a'][0]: 1 became 2"),
        ({"a": vec(1)}, {}, "x: the names ['a'] became []"),
        ([1, 2], [1], "the length of x: 2 became 1"),
        ((1, 2), (1, 3), "x[1]: 2 became 3"),
        (1, "1", "x: int became str"),
    ],
    ids=str,
)
def test_the_first_difference_is_named_bit_for_bit(one, other, said):
    found = difference(one, other, "x")
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_what_is_asked_for_is_noted_even_if_it_is_not_there():
    state = Asked({"a": vec(1)})
    assert state.get("b") is None
    assert "a" in state
    assert state.names == {"a", "b"}


def test_a_result_of_another_kind_is_noted():
    log = Log()
    wrong = Part(name="wrong", corrections=(lambda g, point, context: g[:-1],))
    trial = Trial(observed(compose(wrong), log), log=log)
    with pytest.raises(RuntimeError):
        trial.ask(trial.first(), (0,))
    said = "the correction of wrong returned torch.float32 of shape (98,), not torch.float32 of"
    assert log.malformed == [f"{said} shape (99,)"]


def test_a_trial_refuses_in_numbers_what_the_gate_refuses():
    trial = Trial(compose(half()))
    bad = {1: lambda channels: {**channels, PARAMS: channels[PARAMS] * torch.nan}}
    answers = trial.ask(trial.first(), (0, 1), bad)
    assert list(answers.accepted) == [0]
    assert answers.refused == {1: "its channel 'params' holds values that are not finite"}
