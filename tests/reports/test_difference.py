"""What two runs have in common, and what not."""

import pytest

from roundel.reports.difference import compare_hashes, difference, difference_text
from tests.reports.made_runs import make_run, record


@pytest.mark.parametrize(
    ("first", "second", "common", "differs_first", "different"),
    [
        ("abc", "abc", 3, None, 0),
        ("abc", "abcd", 3, None, 0),
        ("abcd", "abxy", 4, 3, 2),
        ("abcd", "axcy", 4, 2, 2),
        ("", "abc", 0, None, 0),
    ],
)
def test_hashes_are_compared_over_the_rounds_that_both_have(
    first, second, common, differs_first, different
):
    assert compare_hashes(list(first), list(second)) == {
        "common": common,
        "first": differs_first,
        "different": different,
    }


def two(tmp_path, first, second, **changes):
    """Two runs with the given rounds, compared."""
    one = make_run(tmp_path / "a", *first)
    other = make_run(tmp_path / "b", *second, **changes)
    return difference(one, other)


def verdict(found) -> str:
    return difference_text(found).split("\n\n")[1]


def rounds(*hashes: str):
    return [record(number, params_sha256=h) for number, h in enumerate(hashes, start=1)]


@pytest.mark.parametrize(
    ("first", "second", "identical", "said"),
    [
        ("abc", "abc", True, "the same parameters through round 3"),
        (
            *("abc", "ab", False),
            "the same parameters through round 2, where B ends; the other goes on",
        ),
        ("abcd", "abxy", False, "the same parameters through round 2; different from round 3 on"),
        ("ab", "xy", False, "different from round 1 on"),
        (
            *("abcd", "axcy", False),
            "the same parameters through round 1; different first in round 2, in 2 of 4 rounds",
        ),
        ("", "", False, "there is no round that both have finished"),
    ],
)
def test_the_verdict_names_the_first_round_that_differs(tmp_path, first, second, identical, said):
    found = two(tmp_path, rounds(*first), rounds(*second))
    assert found["identical"] is identical
    assert verdict(found) == said


SECURE = "noise = 'secure' is drawn by keys of each run's own, so that runs with it differ even "


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["strategy.name=dp_fedavg", "strategy.noise=secure"], True),
        (['strategy.parts=[{name="local_dp", noise="secure"}]'], True),
        (["strategy.noise=secure", "strategy.noise_multiplier=0"], False),
        (["strategy.name=dp_fedavg", "strategy.noise=seeded"], False),
        ([], False),
    ],
)
def test_secure_noise_explains_why_runs_differ(tmp_path, settings, told):
    found = two(tmp_path, rounds("a"), rounds("b"), settings=settings)
    assert found["secure_noise"] is told
    assert (SECURE in verdict(found)) is told


def test_keys_in_the_directory_tell_of_secure_noise_and_equal_runs_need_no_explanation(tmp_path):
    one = make_run(tmp_path / "a", record(1))
    other = make_run(tmp_path / "b", record(1))
    (tmp_path / "b" / "secrets.jsonl").write_text("")
    found = difference(one, other)
    assert found["secure_noise"] is True
    assert verdict(found) == "the same parameters through round 1"


def test_settings_and_environment_are_told_where_they_differ_and_the_runs_identity_is_not(tmp_path):
    found = two(
        *(tmp_path, rounds("a"), rounds("a")),
        settings=["client.lr=0.05", "stop.target=0.9"],
        run_id="other",
        torch="2.14.0",
        engine={"mode": "simulate", "threads": 2},
    )
    assert found["settings"] == {"client.lr": [0.2, 0.05], "stop.target": [None, 0.9]}
    assert found["environment"] == {"torch": ["2.13.0", "2.14.0"], "engine.threads": [1, 2]}
    text = difference_text(found)
    assert "  client.lr    0.2  0.05\n  stop.target  -    0.9\n" in text
    assert '  torch           "2.13.0"  "2.14.0"\n' in text


def test_final_figures_stand_side_by_side_with_their_difference(tmp_path):
    clients = {"asked": 3, "accuracy": {"mean": 0.5}}
    first = [record(1), record(2, clients=clients)]
    second = [record(1), record(2), record(3, metrics={"accuracy": 0.1, "mae": 0.5})]
    found = two(tmp_path, first, second)
    assert found["final"] == {
        "loss": [0.5, None],
        "accuracy": [0.2, 0.1],
        "train_loss": [0.75, 0.75],
        "clients.accuracy.mean": [0.5, None],
        "bytes_up": [2_000, 3_000],
        "bytes_down": [4_000, 6_000],
        "failures": [2, 3],
        "seconds": [1.0, 1.5],
        "mae": [None, 0.5],
    }
    rows = [line.split() for line in difference_text(found).split("\n\n")[-1].splitlines()[2:]]
    assert rows[:3] == [
        ["loss", "0.5000", "-", "-"],
        ["accuracy", "0.2000", "0.1000", "-0.1000"],
        ["train_loss", "0.7500", "0.7500", "0"],
    ]
    assert ["bytes_up", "2000", "3000", "+1000"] in rows


def test_two_runs_that_differ_in_nothing_are_short(tmp_path):
    text = difference_text(two(tmp_path, rounds("a"), rounds("a")))
    assert "that differ" not in text
    assert text.splitlines()[:2] == [f"A  {tmp_path / 'a'}", f"B  {tmp_path / 'b'}"]
