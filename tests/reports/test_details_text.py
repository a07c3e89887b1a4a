"""One run in detail, as text."""

from roundel.core.records import ClientRecord
from roundel.reports.details import details
from roundel.reports.details_text import clients_text, details_text
from tests.reports.made_runs import make_run, record, words

BROKEN = ClientRecord(
    round=1, client=7, status="failed", reason="ValueError: " + "x" * 200, location="mine.py:12"
)
SPREAD = {"mean": 0.625, "p10": 0.25, "p50": 0.75, "p90": 1.0, "variance": 0.5, "worst_tenth": 0.1}


def text_of(history) -> list[str]:
    return details_text(details(history), history).splitlines()


def block(lines: list[str], title: str) -> list[str]:
    """The indented lines below a title."""
    rest = lines[lines.index(title) + 1 :]
    return rest[: rest.index("")] if "" in rest else rest


def test_it_opens_with_what_ran_how_far_it_came_and_how_good_it_is(tmp_path):
    settings = ["strategy.name=fedprox", "strategy.mu=0.5", "rounds=9", "name=mine"]
    history = make_run(tmp_path / "r", record(1), record(2, stopped="enough"), settings=settings)
    assert text_of(history)[:3] == [
        "mine: fedprox (mu = 0.5) on digits, finished, 2 of 9 rounds, 1.0 s",
        "it stopped early: enough",
        "loss 0.5000, accuracy 0.2000",
    ]


def test_settings_where_and_the_curve_follow(tmp_path):
    history = make_run(
        tmp_path / "r", *(record(r) for r in (1, 2, 3)), settings=["client.lr=0.05", "rounds=3"]
    )
    lines = text_of(history)
    assert block(lines, "settings that differ from the defaults") == [
        "  rounds = 3",
        "  client.lr = 0.05",
    ]
    assert block(lines, "where") == ["  roundel 0.1.0, torch 2.13.0", "  mode simulate, threads 1"]
    assert block(lines, "accuracy by round, best 0.3000 in round 3") == ["  0.1000 ▁▅█ 0.3000"]


def test_a_long_run_shows_eight_rounds_the_first_and_the_last_among_them(tmp_path):
    history = make_run(tmp_path / "r", *(record(r) for r in range(1, 51)))
    head, *rows = block(text_of(history), "rounds")
    assert words(head) == "round accuracy loss train_loss clients traffic seconds"
    assert [int(row.split()[0]) for row in rows] == [1, 8, 15, 22, 29, 36, 43, 50]
    assert words(rows[0]) == "1 0.1000 1.0000 0.7500 2/3 3.0 kB 0.5000"


def test_figures_of_clients_and_classes_are_tables(tmp_path):
    clients = {"asked": 5, "answered": 4, "examples": 40, "small": 1, "accuracy": SPREAD}
    history = make_run(tmp_path / "r", record(1, clients=clients, confusion=[[3, 1], [0, 0]]))
    lines = text_of(history)
    told, small, head, row = block(lines, "clients' own examples")
    assert told == "  round 1: 4 of 5 clients, 40 examples"
    assert small == "  1 of them have too few for a figure of their own"
    assert head.split() == list(SPREAD)
    assert words(row) == "accuracy 0.6250 0.2500 0.7500 1.0000 0.5000 0.1000"
    assert [line.split() for line in block(lines, "classes")[1:]] == [
        ["0", "4", "1.0000", "0.7500", "1"],
        ["1", "0", "0.0000", "-", "-"],
    ]


def test_clients_that_are_judged_by_their_own_models_are_said_to_be(tmp_path):
    clients = {"asked": 5, "answered": 5, "examples": 40, "small": 0, "accuracy": SPREAD}
    settings = ["strategy.name=fedavg", 'strategy.parts=["ditto"]']
    history = make_run(tmp_path / "r", record(1, clients=clients), settings=settings)
    told = block(text_of(history), "clients' own examples, each client by its own model")
    assert told[0] == "  round 1: 5 of 5 clients, 40 examples"


def test_the_partition_failures_health_and_files_are_told_if_there_are_any(tmp_path):
    health = {"update_norm": {"p50": 1.5, "max": 30.0}, "clipped": None, "diverging": [7, 9]}
    history = make_run(tmp_path / "r", record(1, health=health), clients=[BROKEN])
    (tmp_path / "r" / "partition.json").write_text(
        '{"kind": "iid", "sizes": {"min": 1.0, "mean": 4.9}, "labels": [3, 4], "empty": null}'
    )
    lines = text_of(history)
    assert block(lines, "partition") == [
        *("  kind: iid", "  sizes: min 1, mean 4.9", "  labels: 3 4"),
    ]
    (failure,) = block(lines, "client updates that did not count")
    assert failure.startswith("  1 failed: ValueError: xxx")
    assert failure.endswith("xxx... at mine.py:12 (first: client 7, round 1)")
    assert len(failure) < 180
    assert block(lines, "health of the last round") == [
        "  update_norm.p50 1.5000, update_norm.max 30.0000",
        "  diverging clients: 7, 9",
    ]
    assert "  config.toml" in [
        line.rsplit("  ", 1)[0].rstrip() for line in block(lines, f"files in {tmp_path / 'r'}")
    ]


def test_a_run_that_has_only_begun_has_few_lines(tmp_path):
    history = make_run(tmp_path / "r", finished=False)
    lines = text_of(history)
    assert lines[0] == "experiment: fedavg on digits, unfinished, 0 of 50 rounds, 0.0 s"
    assert [line for line in lines if line and not line.startswith(" ")] == [
        *(lines[0], "where", f"files in {tmp_path / 'r'}"),
    ]


def test_the_clients_of_a_round_are_a_table_with_dashes_and_reasons():
    lines = [
        ClientRecord(round=1, client=3, status="accepted", num_examples=20, num_steps=2).line(),
        ClientRecord(round=1, client=14, status="lost", reason="its node is gone").line(),
    ]
    head, *rows = clients_text(lines).splitlines()
    assert head.split()[:3] == ["client", "status", "examples"]
    assert [words(row) for row in rows] == [
        "3 accepted 20 2 - - -",
        "14 lost - - - - - its node is gone",
    ]
