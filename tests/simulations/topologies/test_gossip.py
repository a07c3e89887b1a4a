"""Decentralised SGD, by hand: nodes start at 0 and halve their distance to e."""

from dataclasses import replace
from math import sqrt

import pytest
import torch

from roundel.core.errors import ConfigError
from roundel.simulations.topologies import gossip
from roundel.simulations.topologies.gossip import consensus_distance, gossip_round
from roundel.simulations.topologies.graphs import metropolis, neighbours
from tests.simulations.topologies.runs import everybody, numbers, on_numbers, point, tiny

HALF = torch.full((2, 2), 0.5, dtype=torch.float64)


def step(node, x):
    """Gradient steps of 1/2 towards 2 and 6."""
    return (torch.tensor([[2.0], [6.0]][node], dtype=torch.float64) - x) / 2


@pytest.mark.parametrize(
    ("order", "after"),
    [
        ("d-psgd", [[2 + 1], [2 + 1]]),  # mixed to 2; half of 2 - 0 and of 6 - 4
        ("adapt-then-combine", [[3], [3]]),  # 0 + 1 and 4 + 1, mixed
        ("combine-then-adapt", [[2], [4]]),  # mixed to 2; there half of 0 and of 4
    ],
)
def test_one_round_by_hand(order, after):
    nodes = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    assert gossip_round(HALF, nodes, step, order).tolist() == after


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("graph", ["ring", "star", "erdos-renyi", "complete"])
def test_the_mean_takes_the_mean_step_whatever_the_graph(graph, seed):
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    steps = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    weights = metropolis(neighbours(graph, 7, 0.5, seed))
    for order in ("d-psgd", "adapt-then-combine", "combine-then-adapt"):
        after = gossip_round(weights, nodes, lambda i, _x: steps[i], order)
        torch.testing.assert_close(after.mean(dim=0), (nodes + steps).mean(dim=0))
        first = order == "adapt-then-combine"
        for i in range(7):
            row = torch.zeros(3, dtype=torch.float64) if first else steps[i].clone()
            for j in range(7):
                row += weights[i, j] * (nodes[j] + steps[j] if first else nodes[j])
            torch.testing.assert_close(after[i], row)


def test_the_gradient_of_d_psgd_is_taken_where_the_node_was_before_it_mixed():
    seen = {}

    def train(node, x):
        seen[node] = x.tolist()
        return torch.zeros_like(x)

    gossip_round(HALF, torch.tensor([[0.0], [4.0]]), train, "d-psgd")
    assert seen == {0: [0.0], 1: [4.0]}
    gossip_round(HALF, torch.tensor([[0.0], [4.0]]), train, "combine-then-adapt")
    assert seen == {0: [2.0], 1: [2.0]}


def test_statistics_are_combined_after_training_so_that_no_variance_falls_below_0():
    # A node at 10 moves its running variance to 1; its neighbour's is 0 and stays there. The mean
    # of 10 and 0 plus the difference of -9 would be -4.
    nodes = torch.tensor([[10.0, 10.0], [0.0, 0.0]], dtype=torch.float64)
    steps = torch.tensor([[-9.0, -9.0], [0.0, 0.0]], dtype=torch.float64)
    after = gossip_round(HALF, nodes, lambda i, _x: steps[i], "d-psgd", slice(0, 1))
    assert after.tolist() == [[0.5, -4.0], [0.5, 5.0]]


@pytest.mark.parametrize("order", ["d-psgd", "adapt-then-combine", "combine-then-adapt"])
def test_statistics_of_a_run_are_convex_combinations(order, tmp_path, monkeypatch):
    lowest = []
    keep = gossip.keep

    def noting(ground, models, worked):
        spec = ground.server.learner.spec
        (variance,) = (e for e in spec.entries if e.name.endswith("running_var"))
        lowest.append(min(m[0][spec.slice_of(variance.name)].min().item() for m in models.values()))
        assert [each.record.status for each in worked] == ["accepted"] * 6
        keep(ground, models, worked)

    monkeypatch.setattr(gossip, "keep", noting)
    settings = ("task.model=mlp-norm", "client.steps=10", "client.lr=0.1", "partition.noise=3")
    everybody(tmp_path / "run", *settings, kind="gossip", order=order)
    assert len(lowest) == 3
    assert min(lowest) >= 0


def test_with_equal_weights_for_all_nodes_it_is_sgd_with_the_mean_gradient():
    """D-PSGD with W = 11'/n is all-reduce SGD: its mean, and after each combination every node."""
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(5, 3, dtype=torch.float64, generator=generator) + 0.5
    e = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    ones = torch.full((5, 5), 0.2, dtype=torch.float64)
    nodes, w = torch.zeros(5, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(4):
        nodes = gossip_round(
            ones, nodes, lambda i, x: -0.3 * a[i] * (x - e[i]), "adapt-then-combine"
        )
        w = w - 0.3 * (a * (w - e)).mean(dim=0)
        torch.testing.assert_close(nodes, w.expand(5, 3), rtol=1e-12, atol=1e-12)


def test_weights_that_lose_the_mean_are_refused():
    with pytest.raises(ConfigError, match="does not sum to 1"):
        gossip_round(HALF * 2, torch.zeros(2, 1), step)


def test_the_consensus_distance_by_hand():
    # Means 2 and 0; squared distances 1 + 4, 1 + 4 and 0.
    nodes = torch.tensor([[1.0, 2.0], [3.0, -2.0], [2.0, 0.0]])
    assert consensus_distance(nodes) == pytest.approx(sqrt(10 / 3))
    assert consensus_distance(torch.ones(4, 2)) == 0.0


@pytest.mark.parametrize(
    ("order", "mean", "distance"),
    [
        # Round 1 from 0: steps 0, 2, 4. On a ring of three all weights are 1/3.
        ("d-psgd", 3.0, sqrt(2 / 3)),  # mixed to 2; steps (e - x) / 2 = 0, 1, 2: 2, 3, 4
        ("adapt-then-combine", 3.0, 0.0),  # 2 each; then -1, 1, 3: 1, 3, 5, mixed to 3
        ("combine-then-adapt", 3.0, sqrt(8 / 3)),  # 0, 2, 4; mixed to 2: 1, 3, 5
    ],
)
def test_two_rounds_of_a_run_by_hand(order, mean, distance, tmp_path):
    ran = on_numbers(tmp_path, numbers([0.0, 4.0, 8.0]), rounds=2, kind="gossip", order=order)
    assert ran.w == pytest.approx(mean, abs=1e-12)
    said = ran.lines[-1]["topology"]
    assert said["edges"] == 3
    assert said["consensus_distance"] == pytest.approx(distance, abs=1e-7)


def test_each_pair_of_neighbours_exchanges_one_model_each_way(tmp_path):
    ran = on_numbers(tmp_path, numbers([0.0] * 4), kind="gossip", graph="star")
    # Three edges, two ways, one float64.
    assert (ran.lines[0]["bytes_up"], ran.lines[0]["bytes_down"]) == (3 * 2 * 8, 3 * 2 * 8)


def test_nodes_are_judged_one_by_one_and_on_average(tmp_path):
    # After round 1 the nodes are at 0, 2, 4; the test loss is (w - 2)**2 / 2: 2, 0, 2; mean node 0.
    ran = on_numbers(tmp_path, numbers([0.0, 4.0, 8.0]), kind="gossip", test=torch.tensor([2.0]))
    (line,) = ran.lines
    assert line["loss"] == 0.0
    assert line["topology"]["loss"] == {"mean": pytest.approx(4 / 3), "worst": 2.0}
    # Each client's own examples, by its own node: (0 - 0), (2 - 4), (4 - 8), squared, halved.
    assert line["clients"]["loss"]["mean"] == pytest.approx((0 + 2 + 8) / 3)


def test_a_client_that_fails_still_mixes(tmp_path):
    def loss(outputs, targets):
        if outputs.max() > 20:
            raise ValueError("too far")
        return outputs.mean()

    # Client 2 is 8 away from its e, a loss of 32: it stays at 0, beside 0 and 2.
    task = replace(point(), loss=loss)
    ran = on_numbers(
        tmp_path, numbers([0.0, 4.0, 8.0]), task=task, kind="gossip", order="adapt-then-combine"
    )
    assert ran.w == pytest.approx(2 / 3)
    assert (ran.lines[0]["completed"], ran.lines[0]["failures"]) == (2, 1)
    failed = [row for row in ran.history.clients() if row["status"] == "failed"]
    assert {row["reason"] for row in failed} == {"ValueError: too far"}


def test_a_cohort_that_leaves_somebody_out_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cohort.size = 3 is not the 6 clients"):
        tiny(tmp_path / "some", kind="gossip")
    assert not (tmp_path / "some").exists()


def test_the_buffers_of_batch_normalisation_mix_too(tmp_path):
    run = everybody(tmp_path / "run", "task.model=mlp-norm", kind="gossip", graph="complete")
    assert len(run.rounds) == 3
    assert run.rounds[-1]["topology"]["consensus_distance"] > 0
