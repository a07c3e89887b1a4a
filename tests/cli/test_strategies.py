"""`roundel strategies` lists the strategies and explains each."""

import inspect

import pytest

from roundel.strategies.registry import STRATEGIES
from tests.commands import call


def test_the_list_has_every_strategy_with_its_paper_and_its_knobs():
    ended = call("strategies")
    assert (ended.code, ended.err) == (0, "")
    names = [line for line in ended.out.splitlines() if line and not line.startswith((" ", "`"))]
    assert names == list(STRATEGIES)
    text = " ".join(ended.out.split())
    assert "MLSys 2020, Algorithm 2. knobs: mu = 0.01, server_lr = 1.0" in text


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_is_explained_with_all_its_knobs_and_how_to_try_it(name):
    ended = call("strategies", name)
    assert (ended.code, ended.err) == (0, "")
    for knob in inspect.signature(STRATEGIES[name]).parameters:
        assert f"    strategy.{knob} = " in ended.out
    assert ended.out.endswith(f"    roundel simulate -s strategy.name={name}\n")


def test_a_knob_is_told_with_its_default_its_kind_and_its_meaning():
    lines = call("strategies", "fedprox").out.splitlines()
    at = lines.index("    strategy.mu = 0.01  (a number)")
    assert lines[at + 1].startswith("        Strength of the pull")


def test_an_unknown_strategy_is_one_sentence_with_the_one_that_was_meant():
    ended = call("strategies", "fedadm")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "roundel: there is no strategy 'fedadm'; did you mean 'fedadam'?\n"
