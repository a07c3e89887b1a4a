"""The page of figures for Prometheus."""

import re

from roundel.core.status import Activity, NodeState, NodeStatus, RoundStatus, Snapshot
from roundel.server.metrics_text import metrics_text

NODE = NodeStatus(
    name="edge7",
    state=NodeState.TRAINING,
    clients=34,
    round=7,
    silent_s=0.25,
    unanswered=3,
    activity=Activity(what="train", client=12, round=7, done=60, total=80),
    bytes_up=12_345_678_901,
    bytes_down=7,
    failures=2,
)
AWAY = NodeStatus(name="edge8", state=NodeState.AWAY, clients=33, silent_s=60.0)
ROUND = RoundStatus(
    round=7, cohort=16, accepted=9, target=16, quorum=12, elapsed_s=65.5, left_s=42.0
)


def page(**known: object) -> dict[str, float]:
    """The samples of a page by name and labels."""
    usual = {"run": "r1", "rounds": 50, "done": 6, "population": 100, "hosted": 34}
    text = metrics_text(Snapshot(**{**usual, **known}))
    assert text.endswith("\n")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_runs_figures():
    found = page()
    assert found['roundel_run_info{run="r1"}'] == 1
    assert found["roundel_run_rounds"] == 50
    assert found["roundel_rounds_total"] == 6
    assert (found["roundel_clients"], found["roundel_clients_hosted"]) == (100, 34)
    assert found["roundel_round"] == 0
    assert "roundel_round_accepted" not in found


def test_the_open_rounds_figures():
    found = page(open_round=ROUND)
    names = ("", "_cohort", "_accepted", "_target", "_quorum", "_open_seconds", "_left_seconds")
    assert [found[f"roundel_round{name}"] for name in names] == [7, 16, 9, 16, 12, 65.5, 42]


def test_each_nodes_figures():
    found = page(nodes=(NODE, AWAY))
    shown = {
        name: found[f'roundel_node_{name}{{node="edge7"}}']
        for name in (
            *("up", "clients", "round", "unanswered", "silent_seconds", "progress_ratio"),
            *("received_bytes_total", "sent_bytes_total", "failures_total"),
        )
    }
    assert list(shown.values()) == [1, 34, 7, 3, 0.25, 0.75, 12_345_678_901, 7, 2]
    assert found['roundel_node_up{node="edge8"}'] == 0
    assert found['roundel_nodes{state="training"}'] == 1
    assert found['roundel_nodes{state="drained"}'] == 0


def test_every_figure_says_what_it_means_and_is_there_once():
    text = metrics_text(
        Snapshot(
            run="r", rounds=1, done=0, population=1, hosted=1, open_round=ROUND, nodes=(NODE, AWAY)
        )
    )
    helped = re.findall(r"^# HELP (roundel_[a-z_]+) \S.*\.$", text, re.MULTILINE)
    typed = re.findall(r"^# TYPE (roundel_[a-z_]+) (?:gauge|counter)$", text, re.MULTILINE)
    used = re.findall(r"^(roundel_[a-z_]+)[{ ]", text, re.MULTILINE)
    assert helped == typed == list(dict.fromkeys(used))
    assert len(set(helped)) == len(helped)


def test_only_what_grows_is_a_counter_and_ends_in_total():
    text = metrics_text(Snapshot(run="r", rounds=1, done=0, population=1, hosted=1, nodes=(NODE,)))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        assert name.endswith("_total") == (kind == "counter"), name


def test_label_values_are_escaped():
    odd = NodeStatus(name='a"b\\c\nd', state=NodeState.WAITING, clients=1)
    assert 'roundel_node_up{node="a\\"b\\\\c\\nd"}' in page(nodes=(odd,))
