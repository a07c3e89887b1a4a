"""`roundel check` tries the laws of strategies on one, the user's own or a built-in one."""

import json

import pytest

from tests.commands import call

MINE = '''\
from roundel.strategies import Part, compose, fedavg


def shy(*, share: float = 0.5) -> Part:
    """Send a share."""
    return Part(name="shy", corrections=(lambda g, point, context: share * g,))


def forgetful():
    steps = []

    def correct(g, point, context):
        steps.append(1)
        return g * len(steps)

    return compose(fedavg(), Part(name="forgetful", corrections=(correct,)))


def torn():
    return Part(name="torn", corrections=(lambda g, point, context: g * (1 // 0),))


def demanding(*, share: float) -> Part:
    return shy(share=share)
'''


@pytest.fixture(autouse=True)
def mine(workplace):
    (workplace / "my_strategies.py").write_text(MINE)


def test_a_strategy_of_ones_own_that_keeps_the_laws_is_told_so_line_by_line():
    ended = call("check", "my_strategies:shy")
    assert (ended.code, ended.err) == (0, "")
    *lines, last = ended.out.splitlines()
    assert lines[0] == "PASS  It can be made"
    assert "PASS  Stacked clients are computed as each alone" in lines
    assert (
        "WARN  Its docstring says what it needs and where it comes from: the docstring has no "
        "Needs:, Verified:, Source:, share under Args:"
    ) in lines
    assert last == "laws: 20 kept, 1 in doubt, 1 beside the point"


def test_a_broken_law_is_named_with_a_counter_example_and_the_code_is_1():
    ended = call("check", "my_strategies:forgetful")
    assert ended.code == 1
    failed = [line for line in ended.out.splitlines() if line.startswith("FAIL")]
    assert failed[0].startswith(
        "FAIL  The same call gives the same bits: the correction of forgetful, called twice with "
        "the same arguments: its result[0]: "
    )


def test_laws_that_need_rounds_are_told_together_where_rounds_fail():
    ended = call("check", "my_strategies:torn")
    assert ended.code == 1
    *lines, laws, why = ended.out.splitlines()
    assert lines[1].startswith("FAIL  Rounds of a small federation go well: ZeroDivisionError")
    assert not [line for line in lines if line.startswith("SKIP")]
    assert laws.endswith(", 15 not tried")
    assert why == "they need rounds that go well: mend what the first FAIL says, and check again"
    verdicts = map(json.loads, call("check", "my_strategies:torn", "--json").out.splitlines())
    assert [verdict["outcome"] for verdict in verdicts].count("SKIP") == 15


def test_a_strategy_that_cannot_be_made_leaves_nothing_else_to_try():
    ended = call("check", "krum", "-s", "strategy.f=-1")
    assert ended.code == 1
    assert ended.out.splitlines()[1:] == [
        "laws: 1 broken",
        "no other law was tried, as there is no strategy to try it on",
    ]


def test_a_registered_strategy_is_checked_with_the_knobs_that_are_set():
    ended = call("check", "fedavg", "-s", "strategy.server_lr=1e3", "--json")
    assert ended.code == 1
    verdicts = [json.loads(line) for line in ended.out.splitlines()]
    assert {tuple(verdict) for verdict in verdicts} == {("outcome", "law", "reason")}
    assert [v["law"] for v in verdicts if v["outcome"] == "FAIL"] == [
        "Three rounds on the digits neither fail nor diverge"
    ]


def test_a_composition_is_checked_as_a_whole():
    ended = call("check", "fedprox", "-s", 'strategy.parts=["median", "my_strategies:shy"]')
    assert ended.code == 0
    assert "SKIP  The mean of equal updates is that update: its parameters are not averaged" in (
        ended.out.splitlines()
    )
    ended = call("check", "krum", "-s", 'strategy.parts=["median"]')
    assert ended.code == 1
    assert ended.out.startswith("FAIL  It can be made: krum")
    parts = 'strategy.parts=["my_strategies:forgetful"]'
    assert call("check", "fedprox", "-s", "strategy.mu=0.1", "-s", parts).code == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["fedprox", "-s", 'strategy.parts=["krumm"]'],
            "strategy.parts[0].name = 'krumm' is unknown; did you mean 'krum'?",
        ),
        (
            ["fedavgg"],
            (
                "there is no strategy 'fedavgg', and it is not package.module:function either; did "
                "you mean 'fedavg'?"
            ),
        ),
        (
            ["my_strategies:shi"],
            (
                "roundel check = 'my_strategies:shi': the module 'my_strategies' has no function "
                "'shi'; did you mean 'shy'?"
            ),
        ),
        (
            ["my_strategies:demanding"],
            "my_strategies:demanding needs strategy.share, which has no default; set it",
        ),
        (
            ["fedprox", "-s", "strategy.muu=1"],
            "strategy.muu is not a knob of fedprox; did you mean 'mu'?",
        ),
        (
            ["fedprox", "-s", "client.lr=1"],
            "-s 'client.lr=1' is no knob of the strategy; set strategy.KNOB=VALUE",
        ),
    ],
)
def test_bad_input_is_one_sentence(words, sentence):
    ended = call("check", *words)
    assert (ended.code, ended.out, ended.err) == (2, "", f"roundel: {sentence}\n")
