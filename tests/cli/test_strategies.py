"""`roundel strategies` lists the strategies and explains each."""

import inspect
import json

import pytest

from roundel.strategies.registry import FAMILIES, STRATEGIES
from tests.commands import call


def test_the_list_has_every_strategy_once_under_its_family(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ended = call("strategies")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [line for line in lines if line and not line.startswith((" ", "`"))] == list(FAMILIES)
    names = [line.split()[0] for line in lines if line[:4] == "    " and line[4:5] not in (" ", "")]
    assert names == list(STRATEGIES)
    assert max(map(len, lines)) <= 80


def test_a_summary_that_is_long_goes_on_below_itself(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = call("strategies").out.splitlines()
    width = 4 + max(map(len, STRATEGIES)) + 2
    at = next(place for place, line in enumerate(lines) if line.startswith("    scaffold"))
    assert lines[at][width - 1 : width + 1] == " " + "S"
    assert lines[at + 1].startswith(" " * width)


def test_the_list_as_json_says_all_that_the_docstrings_say():
    ended = call("strategies", "--json")
    found = {line["name"]: line for line in map(json.loads, ended.out.splitlines())}
    assert list(found) == list(STRATEGIES)
    fedprox = found["fedprox"]
    assert set(fedprox) == {"name", "family", "summary", "source", "needs", "verified", "knobs"}
    assert fedprox["family"] == "drift correction"
    assert "MLSys 2020, Algorithm 2." in fedprox["source"]
    assert [knob["name"] for knob in fedprox["knobs"]][:1] == ["mu"]
    assert call("strategies", "fedprox", "--json").out == json_of(ended.out, "fedprox")


def json_of(text: str, name: str) -> str:
    """The line about one strategy."""
    return next(line for line in text.splitlines() if f'"{name}"' in line) + "\n"


def test_a_page_says_what_it_needs_costs_and_is_verified_against(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = call("strategies", "scaffold").out
    assert text.startswith("scaffold (drift correction)\n")
    assert "    needs: " in text
    assert "    verified: " in text
    assert (
        "    costs: a client sends 2 x and receives 2 x the parameters, keeps 1 x; the server adds "
        "updates up as they arrive\n"
    ) in text
    assert "ICML 2020" in text


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


def test_a_strategy_of_ones_own_is_explained_like_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_strategies.py").write_text(
        "from roundel.strategies import Part\n\n\n"
        "def quiet(*, level: int = 3) -> Part:\n"
        '    """Do nothing.\n\n    Args:\n        level: How quietly.\n    """\n'
        '    return Part(name="quiet")\n'
    )
    text = call("strategies", "own_strategies:quiet").out
    assert "own_strategies:quiet (your own)" in text
    assert "strategy.level = 3  (a whole number)" in text
    assert "How quietly." in text


def test_one_strategys_partners_are_named_and_why_others_are_none():
    lines = call("strategies", "scaffold", "--pairs").out.splitlines()
    assert lines[0].startswith("scaffold works with fedavg, ")
    assert any(line.startswith("pfedme: not at all: scaffold needs more") for line in lines)
    ordered = call("strategies", "topk", "--pairs").out
    assert "dp_fedavg: only as topk, dp_fedavg: topk(share=0.01) cannot come after" in ordered
