"""Every two strategies work together or say why not, and the page that lists them is true."""

import re
from pathlib import Path

import pytest
import torch

from roundel.cli.reference import reference
from roundel.core.errors import CompositionError
from roundel.simulations.conformance.trial import COHORT, Trial
from roundel.strategies.pairs import composed, refusals, table
from roundel.strategies.registry import STRATEGIES

DOCS = Path(__file__).parents[2] / "docs"
REFUSALS = refusals()
WORKING = [pair for pair, refusal in REFUSALS.items() if refusal is None]
SAME_SITE = re.compile(r"^\S.* and .* both (set|bring) the .*: ")


def test_the_documentation_shows_the_table_of_pairs():
    assert f"```\n{table(REFUSALS)}\n```" in (DOCS / "strategies.md").read_text()


def test_the_reference_of_strategies_is_what_the_command_prints():
    assert (DOCS / "strategy-reference.md").read_text() == reference()


def test_every_refusal_names_both_parts_and_the_way_out():
    for pair, refusal in REFUSALS.items():
        if refusal is None:
            continue
        reason, remedy = refusal.split(": ", 1)
        names = {part.name for name in pair for part in composed(name).parts}
        if "needs more than it gets" not in refusal:
            assert sum(name in reason for name in names) >= 2, refusal
        assert re.search(r"\b(use|leave|name|write|put|set|give|let)\b", remedy), refusal


def test_parts_that_hold_no_site_in_common_and_no_trait_are_never_refused():
    # One from each family: together they are a whole algorithm, and any two of them work.
    parts = ["fedadam", "fedprox", "scaffold", "trimmed_mean", "uniform", "topk", "ditto"]
    refused = {pair: why for pair, why in refusals(parts).items() if why is not None}
    assert refused == {}
    composed(*parts)


def test_what_is_refused_in_both_orders_holds_one_site_twice_or_gives_a_reason():
    for (one, two), refusal in REFUSALS.items():
        other = REFUSALS[two, one]
        if refusal is not None and other is not None and not SAME_SITE.match(refusal):
            assert "cannot" in refusal or "needs more than it gets" in refusal, refusal


def refused(one: str, two: str) -> str:
    """Run two rounds of two strategies together; return why they cannot here, if so it is."""
    try:
        trial = Trial(composed(one, two))
        moment = trial.first()
        for _ in range(2):
            answers = trial.ask(moment)
            assert not answers.refused, f"{one} + {two}: {answers.refused}"
            assert len(answers.accepted) == len(COHORT)
            moment = trial.commit(answers)
    except CompositionError as refusal:  # of this model, or of so few clients
        return str(refusal)
    assert torch.isfinite(moment.state.params).all(), f"{one} + {two}"
    return ""


# Of each strategy's partners every so many, at another place for each: all strategies come.
SOME = [pair for place, pair in enumerate(WORKING) if place % 36 == 0]


def test_the_sample_of_pairs_has_every_strategy():
    assert {name for pair in SOME for name in pair} == set(STRATEGIES)


@pytest.mark.parametrize("pair", SOME, ids="+".join)
def test_two_strategies_that_can_be_composed_run_together(pair):
    if why := refused(*pair):
        pytest.skip(why)


CHAINS = (
    *("phases", "corrections", "loss_terms", "finishers", "settlers"),
    *("side_work", "codecs", "mixers", "server"),
)
"""Sites whose holders run one after another, in the order of composition."""


def chains(name: str) -> set[str]:
    return {site for site in CHAINS for part in composed(name).parts if getattr(part, site)}


def is_told_by_the_other_order(one: str, two: str) -> bool:
    """Whether two strategies do the same in the other order, in which they run too."""
    later = [*STRATEGIES].index(one) > [*STRATEGIES].index(two)
    return later and REFUSALS[two, one] is None and not chains(one) & chains(two)


@pytest.mark.slow
@pytest.mark.parametrize("first", STRATEGIES)
def test_every_two_strategies_that_can_be_composed_run_together(first):
    pairs = [(a, b) for a, b in WORKING if a == first and not is_told_by_the_other_order(a, b)]
    reasons = [refused(*pair) for pair in pairs]
    assert not all(reasons), f"{first} ran with none: {reasons}"
