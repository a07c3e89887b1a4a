"""Edge servers: equal to a star with one edge round, by hand with more."""

import pytest

from roundel.client.trainer import Trainer
from roundel.core.errors import CompositionError, ConfigError
from roundel.simulations import simulate
from roundel.simulations.topologies.hierarchical import check_hierarchical
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.registry import make_strategy
from tests.simulations.topologies.runs import TINY, numbers, on_numbers, tiny
from tests.strategies.toys import cohorts

FOUR = numbers([4.0, 8.0, 12.0, 16.0], [1, 1, 3, 1])


@pytest.mark.parametrize(
    "settings",
    [
        ("strategy.name=fedavg",),
        ("strategy.name=fedavg", "task.model=mlp-norm", "rounds=2"),
        ("strategy.name=scaffold",),
        ("strategy.name=fedadam", "strategy.server_lr=0.1"),
        ("strategy.name=fedprox", "faults.drop=0.3", "cohort.size=6"),
        ("strategy.name=qsgd",),
        ("strategy.name=fedper",),
    ],
    ids=str,
)
def test_one_edge_round_equals_flat_federated_averaging_bit_for_bit(settings, tmp_path):
    flat = simulate(settings=[*TINY, *settings], out=tmp_path / "flat")
    deep = tiny(tmp_path / "deep", *settings, kind="hierarchical", edges=2)
    assert deep.hashes == flat.hashes
    assert deep.series("train_loss") == flat.series("train_loss")
    rows = [
        [(r["client"], r["status"], r.get("update_blake3")) for r in run.clients()]
        for run in (deep, flat)
    ]
    assert sorted(rows[0]) == sorted(rows[1])


@pytest.mark.parametrize("edges", [1, 3, 6])
def test_how_many_edges_there_are_changes_nothing(edges, tmp_path):
    short = ("rounds=2", "cohort.size=6", "evaluation.clients=0")
    flat = tiny(tmp_path / "flat", *short)
    deep = tiny(tmp_path / "deep", *short, kind="hierarchical", edges=edges)
    assert deep.hashes == flat.hashes


def test_two_edge_rounds_by_hand(tmp_path):
    # Edge 0 has clients 0 and 2 (e = 4, 12; 1 and 3 examples), edge 1 has 1 and 3 (8, 16; 1, 1).
    # Round 1 from 0: 2 and 6, so 5; 4 and 8, so 6.
    # Round 2 from there: 4.5 and 8.5, so 7.5; 7 and 11, so 9. The cloud: (4 * 7.5 + 2 * 9) / 6.
    ran = on_numbers(tmp_path, FOUR, kind="hierarchical", edges=2, edge_rounds=2)
    assert ran.w == pytest.approx(8.0, abs=1e-12)


def test_the_server_optimizer_works_at_the_cloud(tmp_path):
    ran = on_numbers(
        tmp_path,
        FOUR,
        kind="hierarchical",
        edges=2,
        edge_rounds=2,
        strategy={"name": "fedavg", "server_lr": 0.5},
    )
    assert ran.w == pytest.approx(4.0, abs=1e-12)


def test_edges_forward_their_weight_and_not_only_their_mean(tmp_path):
    # 5 with weight 4 and 6 with weight 2; edges of equal weight would make it 5.5.
    ran = on_numbers(tmp_path, FOUR, kind="hierarchical", edges=2)
    assert ran.w == pytest.approx(32 / 6, abs=1e-12)


def test_bytes_are_those_of_all_links(tmp_path):
    ran = on_numbers(tmp_path, FOUR, kind="hierarchical", edges=2, edge_rounds=3)
    (line,) = ran.lines
    # One float64. Four clients, three times; two edges once, with a weight of 8 bytes each.
    assert line["topology"] == {"edges": 2, "cloud_bytes_up": 32, "cloud_bytes_down": 16}
    assert (line["bytes_up"], line["bytes_down"]) == (4 * 3 * 8 + 32, 4 * 3 * 8 + 16)


def test_edges_without_clients_in_the_cohort_do_nothing(tmp_path):
    ran = on_numbers(tmp_path, FOUR, cohort=1, kind="hierarchical", edges=4, edge_rounds=2)
    assert ran.lines[0]["topology"]["edges"] == 1
    (row,) = (row for row in ran.history.clients())
    # Two edge rounds of a client alone: three quarters of its way.
    assert ran.w == pytest.approx(0.75 * [4, 8, 12, 16][row["client"]])


def test_batches_are_new_ones_in_every_edge_round(tmp_path):
    """Two edge rounds of one edge are two rounds of a star whose cohort stays the same."""
    everybody = ("cohort.size=6", "evaluation.clients=0")
    flat = tiny(tmp_path / "flat", *everybody, "rounds=4")
    deep = tiny(
        tmp_path / "deep", *everybody, "rounds=2", kind="hierarchical", edges=1, edge_rounds=2
    )
    assert deep.series("loss") == pytest.approx(flat.series("loss")[1::2], rel=1e-5)


@pytest.mark.parametrize("name", ["topk", "qsgd", "fedper"])
def test_further_edge_rounds_go_with_codecs_and_personal_layers(name, tmp_path):
    """One edge whose clients all take part learns in 2 rounds of 2 what a star learns in 4."""
    everybody = ("cohort.size=6", f"strategy.name={name}")
    deep = tiny(
        tmp_path / "deep", *everybody, "rounds=2", kind="hierarchical", edges=1, edge_rounds=2
    )
    flat = tiny(tmp_path / "flat", *everybody, "rounds=4")
    assert deep.series("loss") == pytest.approx(flat.series("loss")[1::2], rel=1e-5)


def test_what_edges_cannot_do_is_refused_with_its_reason():
    check_hierarchical(make_strategy("scaffold", {}), edge_rounds=1)
    with pytest.raises(CompositionError, match="scaffold sends more than parameters"):
        check_hierarchical(make_strategy("scaffold", {}), edge_rounds=2)
    check_hierarchical(make_strategy("fedadam", {}), edge_rounds=2)
    check_hierarchical(compose(fedavg(), cohorts([0])), edge_rounds=2)


def test_what_is_no_update_cannot_be_added_up_at_an_edge():
    check_hierarchical(make_strategy("signsgd", {}), edge_rounds=1)
    with pytest.raises(CompositionError, match=r"signsgd.* sends something else than its update, "):
        check_hierarchical(make_strategy("signsgd", {}), edge_rounds=2)


def test_clients_are_evaluated_by_the_clouds_round_and_not_the_edges(tmp_path, monkeypatch):
    rates = []
    adapted = Trainer._adapted

    def noting(self, whole, own, state, ticket):
        phases = self._plan.strategy.tuning(self._plan.phases(ticket.round))
        rates[-1].append(phases[0].optimizer.lr)
        return adapted(self, whole, own, state, ticket)

    monkeypatch.setattr(Trainer, "_adapted", noting)
    tuned = ("strategy.name=fine_tune", "client.schedule=cosine", "evaluation.clients_every=1")
    for topology in ({"kind": "star"}, {"kind": "hierarchical", "edges": 2, "edge_rounds": 3}):
        rates.append([])
        tiny(tmp_path / topology["kind"], *tuned, **topology)
    assert len(set(rates[0])) == 3
    assert rates[1] == rates[0]


def test_a_rule_over_all_updates_is_refused(tmp_path):
    with pytest.raises(CompositionError, match="needs every update of a round at one place"):
        tiny(tmp_path / "run", "strategy.name=krum", kind="hierarchical", edges=2)
    assert not (tmp_path / "run").exists()


def test_more_edges_than_clients_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"topology.edges = 7 is more than the 6 clients"):
        tiny(tmp_path / "run", kind="hierarchical", edges=7)
