"""Every seam of a strategy carries a toy from the client to the final model."""

import pytest
import torch
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.errors import CompositionError
from roundel.core.task import Task
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedprox import prox
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import Synchronous
from tests.federations import Outcome, Quadratic, federate, quadratic_task
from tests.nets import TwoLayers, labelled
from tests.strategies.toys import (
    affine,
    cohorts,
    first_loss,
    half,
    head_then_body,
    largest_with_feedback,
    median,
    nested,
    out_of,
    over_selection,
    pull_as_loss,
    sums_only,
    trusted_root,
)

ONE_HALF_STEP = {"lr": 0.5, "steps": 1, "batch_size": "full"}


def at(*point: float) -> Tensor:
    return torch.tensor(point, dtype=torch.float64)


def towards(*centre: float) -> Examples:
    """Return a client with ``F = 1/2 ||w - centre||**2``: half a step goes half of the way."""
    return Quadratic.of([1.0] * len(centre), centre).examples()


def run(out, strategy: Strategy, start: Tensor, *clients: Examples, **settings) -> Outcome:
    return federate(out, strategy, quadratic_task(start), clients, **ONE_HALF_STEP | settings)


def test_a_selector_names_the_cohort_of_each_round(tmp_path):
    strategy = compose(fedavg(), cohorts([0], [1, 2]))
    ran = run(tmp_path, strategy, at(0.0), towards(2.0), towards(3.0), towards(5.0), rounds=2)
    asked = [(line["round"], line["client"]) for line in ran.history.clients()]
    assert asked == [(1, 0), (2, 1), (2, 2)]
    # 0 + 2 / 2 = 1, then 1 + ((3 - 1) / 2 + (5 - 1) / 2) / 2 = 2.5
    assert ran.model["w"].tolist() == [2.5]


def test_a_selector_may_ask_more_clients_than_the_round_waits_for(tmp_path):
    clients = [towards(float(k)) for k in range(5)]
    ran = run(tmp_path, compose(fedavg(), over_selection(2)), at(0.0), *clients, cohort=2)
    (line,) = ran.history.rounds
    assert (line["cohort"], line["completed"], line["failures"]) == (4, 2, 2)
    statuses = [line["status"] for line in ran.history.clients()]
    assert statuses == ["accepted", "accepted", "unfinished", "unfinished"]


def test_a_weigher_may_fix_what_sums_are_divided_by(tmp_path):
    # Two of the four that sums are divided by answer: (1 + 3) / 4.
    strategy = compose(fedavg(), out_of(4.0))
    ran = run(tmp_path, strategy, at(0.0), towards(2.0), towards(6.0))
    assert ran.model["w"].tolist() == [1.0]


def test_a_codec_changes_what_is_sent_and_how_many_bytes(tmp_path):
    start = torch.zeros(2)
    # 1/3 in half precision is 0.333251953125; half of the way to 2/3 rounds to it.
    third = Examples(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2 / 3, 1.0]]]), torch.zeros(1))
    ran = run(tmp_path / "half", compose(fedavg(), half()), start, third)
    plain = run(tmp_path / "plain", fedavg(), start, third)
    assert ran.model["w"].tolist() == [0.333251953125, 0.5]
    assert ran.model["w"].dtype == torch.float32
    sent, sent_plain = (r.history.rounds[0]["bytes_up"] for r in (ran, plain))
    assert (sent, sent_plain) == (4, 8)


def test_a_codec_keeps_what_it_did_not_send_for_the_next_round(tmp_path):
    # Towards (4, 2) from (0, 0), the larger of two elements a round:
    #   wants (2, 1)            sends (2, 0)  keeps (0, 1)  at (2, 0)
    #   wants (1, 1) + (0, 1)   sends (0, 2)  keeps (1, 0)  at (2, 2)
    #   wants (1, 0) + (1, 0)   sends (2, 0)  keeps (0, 0)  at (4, 2)
    strategy = compose(fedavg(), largest_with_feedback())
    for rounds, point, kept in [(1, [2, 0], [0, 1]), (2, [2, 2], [1, 0]), (3, [4, 2], [0, 0])]:
        out = tmp_path / str(rounds)
        ran = run(out, strategy, at(0.0, 0.0), towards(4.0, 2.0), rounds=rounds)
        assert ran.model["w"].tolist() == point
        assert ran.clients[0]["feedback.rest"].tolist() == kept


def test_codecs_are_undone_in_reverse_order(tmp_path):
    # The delta 2 is sent as 3 * 2 + 1: undone in the same order that would be 7 / 3 - 1.
    strategy = compose(fedavg(), affine(3.0, 0.0), affine(1.0, 1.0))
    assert run(tmp_path, strategy, at(0.0), towards(4.0)).model["w"].tolist() == [2.0]


def test_a_solver_replaces_the_learning_loop(tmp_path):
    # One client of the reference values of pFedMe: lambda = 15, K = 5, R = 3.
    client = Quadratic.of([4.0, 0.5], [1.0, -1.0]).examples(2)
    part = nested(pull=15.0, lr=0.005, inner_lr=0.01, inner_steps=5, outer=3)
    ran = run(tmp_path, compose(fedavg(), part), at(1.0, 1.0), client)
    assert ran.model["w"].tolist() == pytest.approx([1.0, 0.9917489052313456], rel=1e-12)
    (line,) = ran.history.clients()
    assert (line["num_examples"], line["num_steps"]) == (2, 15)


def test_a_loss_term_does_what_the_correction_with_its_gradient_does(tmp_path):
    clients = [Quadratic.of([1.0, 3.0], [2.0, -1.0]).examples(), towards(0.0, 1.0)]
    settings = {"lr": 0.1, "steps": 7, "rounds": 3}
    by_loss, by_gradient = (
        run(tmp_path / part.name, compose(fedavg(), part), at(1.0, 1.0), *clients, **settings)
        for part in (pull_as_loss(0.7), prox(mu=0.7))
    )
    torch.testing.assert_close(by_loss.model["w"], by_gradient.model["w"], rtol=0, atol=1e-13)
    # The reported loss is the task's alone, and the same.
    assert by_loss.history.series("train_loss") == pytest.approx(
        by_gradient.history.series("train_loss")
    )


def test_an_extra_channel_of_length_1_reaches_the_server(tmp_path):
    # Losses 1/2 * 2**2 = 2 and 1/2 * 4**2 = 8, mean 5; deltas 1 and 2, mean 1.5.
    strategy = compose(fedavg(), first_loss())
    ran = run(tmp_path, strategy, at(0.0), towards(2.0), towards(4.0))
    assert ran.model["w"].tolist() == [7.5]


def test_a_median_takes_the_place_of_the_mean(tmp_path):
    clients = [towards(2.0, 9.0), towards(4.0, -4.0), towards(1e6, 6.0)]
    ran = run(tmp_path, compose(fedavg(), median()), at(0.0, 0.0), *clients)
    assert ran.model["w"].tolist() == [2.0, 3.0]


def test_scaffold_with_a_median_for_parameters_keeps_the_mean_for_its_controls(tmp_path):
    # Round 1: clients end at 0.5, 1 and 3; the median is 1. Average gradients are -1, -2 and -6,
    # their mean -3. Round 2: gradients 0, -1, -5; corrected by c - c_k = -2, -1, 3 they are all -2,
    # so every client goes from 1 to 2.
    strategy = compose(scaffold(), median())
    clients = [towards(1.0), towards(2.0), towards(6.0)]
    first = run(tmp_path / "1", strategy, at(0.0), *clients)
    assert first.model["w"].tolist() == [1.0]
    assert [first.clients[k]["scaffold.control"].item() for k in range(3)] == [-1.0, -2.0, -6.0]
    second = run(tmp_path / "2", strategy, at(0.0), *clients, rounds=2)
    assert second.model["w"].tolist() == [2.0]


def test_fedavg_a_pull_and_control_variates_work_together(tmp_path):
    # One step a round leaves the pull at 0; two steps of 0.5 with mu = 1: the first goes half of
    # the way, by d, and the gradient there, -d, meets the pull, +d.
    strategy = compose(fedavg(), prox(mu=1.0), scaffold())
    assert strategy.name == "fedavg+prox(mu=1)+scaffold"
    ran = run(tmp_path, strategy, at(0.0), towards(2.0), towards(6.0), steps=2)
    assert ran.model["w"].tolist() == [2.0]
    # A gradient of -1 would have gone 0.5, then 0.25 more: that is the reach. The controls are
    # -1 / 0.75 and -3 / 0.75, which are averages of the gradients -2 and -1, -6 and -3.
    controls = [ran.clients[k]["scaffold.control"].item() for k in range(2)]
    assert controls == pytest.approx([-4 / 3, -4], rel=1e-15)


def test_training_on_root_examples_tells_friend_from_foe(tmp_path):
    # From 0 the root goes half of the way to (4, 0): by (2, 0). The first client agrees, and its
    # (3, 0) is cut to (2, 0); the second points away; the third, at 60 degrees, has a trust of 1/2
    # and (1, sqrt(3)). Together ((2, 0) + (1, sqrt(3)) / 2) / 1.5.
    root3 = 3**0.5
    clients = [towards(6.0, 0.0), towards(-50.0, 0.0), towards(2.0, 2 * root3)]
    strategy = compose(fedavg(), trusted_root())
    ran = run(tmp_path, strategy, at(0.0, 0.0), *clients, root=towards(4.0, 0.0))
    assert ran.model["w"].tolist() == pytest.approx([5 / 3, root3 / 3], rel=1e-12)


def test_a_strategy_that_trains_on_root_examples_needs_some(tmp_path):
    with pytest.raises(CompositionError, match=r"fedavg\+trusted_root trains on root examples"):
        run(tmp_path, compose(fedavg(), trusted_root()), at(0.0), towards(1.0))


def test_masking_refuses_a_rule_over_single_updates():
    with pytest.raises(CompositionError) as raised:
        compose(fedavg(), sums_only(), median())
    assert str(raised.value) == (
        "sums_only and median cannot be combined: the server never sees single updates; use an "
        "aggregator of sums"
    )


def test_pacing_of_a_part_takes_the_place_of_the_experiments(tmp_path):
    patient = Part(name="patient", pacing=Synchronous(quorum=2))
    empty = towards(1.0).take(torch.empty(0, dtype=torch.int64))
    with pytest.raises(Exception, match="needs 2") as raised:
        run(tmp_path, compose(fedavg(), patient), at(0.0), towards(2.0), empty)
    assert type(raised.value).__name__ == "RoundAborted"


# ---- phases, on a model with a head of its own for each client


def is_head(name: str) -> bool:
    return name.startswith("head")


def clients(count: int) -> list[Examples]:
    return [labelled(seed, count=8, dtype=torch.float32) for seed in range(count)]


def test_phases_train_the_personal_head_and_then_the_shared_body(tmp_path):
    task = Task(name="two parts", model=TwoLayers, personal=is_head)
    strategy = compose(fedavg(), head_then_body(lambda entry: is_head(entry.name)))
    ran = federate(tmp_path, strategy, task, clients(2), rounds=2, epochs=3, batch_size=4)
    (step_count,) = {line["num_steps"] for line in ran.history.clients()}
    assert step_count == 2 * 3 * 2  # two phases of three epochs of two batches
    # The server's copy of the head is the first one still; each client has one of its own.
    fresh = task.new_model(0).state_dict()
    assert torch.equal(ran.model["head.weight"], fresh["head.weight"])
    assert not torch.equal(ran.model["body.weight"], fresh["body.weight"])
    heads = [ran.clients[k]["personal"] for k in range(2)]
    assert [head.shape for head in heads] == [(6,), (6,)]
    assert not torch.equal(heads[0], heads[1])
    # 8 numbers of the body go up from each client in each round, and nothing else.
    assert ran.history.series("bytes_up") == [2 * 8 * 4] * 2


def test_scaffold_goes_with_a_personal_head(tmp_path):
    task = Task(name="two parts", model=TwoLayers, personal=is_head)
    ran = federate(tmp_path, scaffold(), task, clients(2), rounds=2, epochs=1)
    assert [ran.clients[k]["scaffold.control"].shape for k in range(2)] == [(8,), (8,)]
    assert [ran.clients[k]["personal"].shape for k in range(2)] == [(6,), (6,)]


def test_scaffold_refuses_local_work_whose_average_gradient_is_lost(tmp_path):
    task = Task(name="two parts", model=TwoLayers)
    part = nested(pull=1.0, lr=0.1, inner_lr=0.1, inner_steps=1, outer=1)
    with pytest.raises(CompositionError, match="scaffold needs more than it gets"):
        federate(tmp_path, compose(scaffold(), part), task, clients(1))
