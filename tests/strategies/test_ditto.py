"""Ditto and local fine-tuning, by hand: clients with ``F = (w - e)**2 / 2``."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from roundel.client.trainer import Trainer
from roundel.core.config import Experiment
from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.learning import Learner
from roundel.core.messages import EvaluateRequest, Ticket
from roundel.core.params import Entry, ParamSpec
from roundel.core.seeds import torch_generator
from roundel.core.training import TrainingResult
from roundel.simulations import Pieces, simulate
from roundel.strategies.compose import Part, compose
from roundel.strategies.ditto import ditto, fine_tune
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadam
from roundel.strategies.fedprox import pull_to
from roundel.strategies.plan import Plan
from roundel.strategies.scaffold import scaffold
from tests.federations import Quadratic, federate, quadratic_task
from tests.strategies.toys import cohorts, median, pull_as_loss
from tests.strategies.updates import vec

HALF_STEPS = {"lr": 0.5, "batch_size": "full"}


def towards(*centre: float) -> Examples:
    return Quadratic.of([1.0] * len(centre), centre).examples()


# ---- Ditto


def test_the_personal_model_is_pulled_to_what_was_received_and_not_to_what_was_trained(tmp_path):
    # From w = v = 0, steps of 1/2, e = 8, lam = 1: v1 = 4, v2 = 4 - 1/2 (-4 + 4) = 4; w goes to 6.
    # Round 2 from w = 6: v1 = 4 - 1/2 (-4 + (4 - 6)) = 7, v2 = 7 - 1/2 (-1 + 1) = 7.
    for rounds, own, shared in [(1, 4.0, 6.0), (2, 7.0, 7.5)]:
        ran = federate(
            tmp_path / str(rounds),
            compose(fedavg(), ditto(lam=1.0)),
            quadratic_task(vec(0)),
            [towards(8.0)],
            rounds=rounds,
            steps=2,
            **HALF_STEPS,
        )
        assert ran.clients[0]["ditto.personal"].tolist() == [own]
        assert ran.model["w"].tolist() == [shared]


def test_the_personal_model_starts_where_the_client_comes_in(tmp_path):
    # Client 0 takes w from 0 to 4; client 1 comes in at 4, and lam = 0: v = 4 + 1/2 (0 - 4) = 2.
    strategy = compose(fedavg(), ditto(lam=0.0), cohorts([0], [1]))
    clients = [towards(8.0), towards(0.0)]
    ran = federate(
        tmp_path, strategy, quadratic_task(vec(0)), clients, rounds=2, steps=1, **HALF_STEPS
    )
    assert [ran.clients[k]["ditto.personal"].tolist() for k in range(2)] == [[4.0], [2.0]]


def test_without_a_pull_it_is_training_alone(tmp_path):
    clients = [towards(8.0, 1.0), towards(-8.0, 3.0)]
    settings = {"rounds": 3, "lr": 0.3, "steps": 2, "batch_size": "full"}
    task = quadratic_task(vec(1, 1))
    together = federate(tmp_path / "all", compose(ditto(lam=0.0)), task, clients, **settings)
    for client_id, client in enumerate(clients):
        alone = federate(tmp_path / str(client_id), fedavg(), task, [client], **settings)
        own = together.clients[client_id]["ditto.personal"]
        torch.testing.assert_close(own, alone.model["w"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "method",
    [fedavg(), scaffold(), fedadam(), compose(fedavg(), median()), compose(pull_as_loss(0.5))],
    ids=lambda strategy: strategy.name,
)
def test_the_global_model_does_not_notice_it(method, tmp_path):
    clients = [Quadratic.of([1.0, 3.0], [k, -1.0]).examples(4) for k in (0.0, 2.0, 7.0)]
    settings = {"rounds": 3, "cohort": 2, "lr": 0.1, "epochs": 2, "batch_size": 2}
    with_it, without = (
        federate(tmp_path / name, strategy, quadratic_task(vec(1, 1)), clients, **settings)
        for name, strategy in (("with", compose(method, ditto(lam=0.5))), ("without", method))
    )
    assert with_it.history.hashes == without.history.hashes
    assert with_it.history.series("bytes_up") == without.history.series("bytes_up")


def test_corrections_and_loss_terms_of_the_global_method_are_not_those_of_the_personal_model(
    tmp_path,
):
    clients = [towards(8.0), towards(2.0)]
    settings = {"rounds": 2, "steps": 2, **HALF_STEPS}
    plain, pulled = (
        federate(tmp_path / name, strategy, quadratic_task(vec(0)), clients, **settings)
        for name, strategy in (
            ("plain", compose(ditto(lam=0.0))),
            ("pulled", compose(scaffold(), pull_as_loss(0.5), ditto(lam=0.0))),
        )
    )
    own = [[ran.clients[k]["ditto.personal"].item() for k in range(2)] for ran in (plain, pulled)]
    assert own[0] == own[1]
    assert plain.model["w"].item() != pulled.model["w"].item()


def test_its_own_rate_and_length_are_those_that_are_said(tmp_path):
    # Three epochs of one step of 1/4 from 0 to 64: 16, 28, 37; w takes one of 1/2.
    strategy = compose(ditto(lam=0.0, lr=0.25, epochs=3))
    ran = federate(
        tmp_path, strategy, quadratic_task(vec(0)), [towards(64.0)], steps=1, **HALF_STEPS
    )
    assert ran.clients[0]["ditto.personal"].tolist() == [37.0]
    assert ran.model["w"].tolist() == [32.0]


def test_a_client_is_judged_by_its_own_model_once_it_has_one():
    (part,) = compose(ditto()).parts
    assert part.evaluated is not None
    assert part.evaluated(vec(1, 2), {}).tolist() == [1, 2]
    assert part.evaluated(vec(1, 2), {"ditto.personal": vec(3, 4)}).tolist() == [3, 4]


SPEC = ParamSpec(
    (
        Entry(name="body", shape=(3,), dtype=torch.float64, trainable=True),
        Entry(name="head", shape=(2,), dtype=torch.float64, trainable=True, personal=True),
    ),
    dtype=torch.float64,
)


def test_personal_layers_are_not_pulled():
    context = LocalContext(spec=SPEC, sent=vec(0, 0, 0, 0, 0))
    pulled = pull_to(2.0, vec(1, 1, 1, 1, 1))(vec(0, 0, 0, 5, 5), vec(2, 3, 4, 9, 9), context)
    assert pulled.tolist() == [2, 4, 6, 5, 5]


def test_the_pull_on_stacked_clients_is_that_on_each():
    generator = torch_generator(1)

    def draw() -> Tensor:
        return torch.randn(4, 5, generator=generator, dtype=torch.float64)

    gradients, points, targets = draw(), draw(), draw()
    context = LocalContext(spec=SPEC, sent=draw())
    stacked = pull_to(0.7, targets)(gradients, points, context)
    for k in range(4):
        alone = pull_to(0.7, targets[k])(gradients[k], points[k], context)
        assert torch.equal(stacked[k], alone)


# ---- fine-tuning


def request(*params: float, split: str = "test") -> EvaluateRequest:
    return EvaluateRequest(
        ticket=Ticket(run="tuned", round=1, client_id=0),
        params=vec(*params),
        integers=torch.empty(0, dtype=torch.int64),
        split=split,
    )


def trainer(part: Part) -> Trainer:
    task = quadratic_task(vec(0))
    experiment = Experiment.model_validate({"client": {"steps": 5, **HALF_STEPS}})
    return Trainer(Plan.of(experiment, task, compose(fedavg(), part)), Learner(task, seed=0))


@pytest.mark.parametrize(
    ("part", "loss"),
    [
        # From 0 towards 8: to 4, or 4 and 6; or by quarters 2 and 3.5. Judged towards 0.
        (fine_tune(), 4.0**2 / 2),
        (fine_tune(epochs=2), 6.0**2 / 2),
        (fine_tune(epochs=2, lr=0.25), 3.5**2 / 2),
    ],
)
def test_what_was_received_is_trained_before_it_is_judged(part, loss):
    answer = trainer(part).evaluate(request(0.0), towards(0.0), {}, own=towards(8.0))
    assert answer.metrics.means()["loss"] == loss


def test_a_client_without_training_examples_is_judged_by_what_it_received():
    nothing = towards(8.0).take(torch.empty(0, dtype=torch.int64))
    for own in (nothing, None):
        answer = trainer(fine_tune()).evaluate(request(2.0), towards(0.0), {}, own=own)
        assert answer.metrics.means()["loss"] == 2.0


@pytest.mark.parametrize("part", [fine_tune(), ditto()])
def test_a_selectors_question_is_about_what_was_sent(part):
    state = {"ditto.personal": vec(5.0)}
    asked = request(2.0, split="train")
    answer = trainer(part).evaluate(asked, towards(0.0), state, own=towards(8.0))
    assert answer.metrics.means()["loss"] == 2.0


def test_rounds_are_those_of_fedavg_and_only_the_figures_differ(tmp_path):
    def client(k: int) -> ClientData:
        none = towards(0.0).take(torch.empty(0, dtype=torch.int64))
        return ClientData(train=towards(8.0 * k), validation=none, test=towards(8.0 * k))

    population = InMemoryPopulation([client(k) for k in range(3)])
    experiment = Experiment.model_validate(
        {
            "rounds": 2,
            "cohort": {"size": 2},
            "client": {"steps": 1, **HALF_STEPS},
            "evaluation": {"clients": 3, "min_examples": 1},
        }
    )
    runs = []
    for strategy in (fedavg(), compose(fine_tune()), compose(ditto(lam=0.0))):
        pieces = Pieces(task=quadratic_task(vec(0)), strategy=strategy, population=population)
        runs.append(simulate(experiment, pieces=pieces, out=tmp_path / strategy.name))
    plain, tuned, own = runs
    assert plain.hashes == tuned.hashes == own.hashes
    losses = [run.rounds[-1]["clients"]["loss"]["mean"] for run in runs]
    # One step of 1/2 from anywhere leaves a quarter of each client's loss.
    assert losses[1] == pytest.approx(losses[0] / 4)
    assert losses[2] < losses[0]


@pytest.mark.parametrize("part", [fine_tune(), ditto()], ids=lambda part: part.name)
def test_a_training_function_of_ones_own_takes_no_part_in_it(part):
    task = replace(quadratic_task(vec(0)), train=lambda *_: TrainingResult(steps=1))
    with pytest.raises(CompositionError, match="brings a training function of its own"):
        Plan.of(Experiment(), task, compose(part))


@pytest.mark.parametrize(
    ("make", "knobs", "message"),
    [
        (ditto, {"lam": -1.0}, "lam = -1.0 must be a finite number of at least 0"),
        (ditto, {"lr": 0.0}, "lr = 0.0 must be a finite number above 0"),
        (ditto, {"epochs": 0}, "epochs = 0 must be a whole number of at least 1"),
        (fine_tune, {"epochs": 0}, "epochs = 0 must be a whole number of at least 1"),
        (fine_tune, {"lr": float("inf")}, "lr = inf must be a finite number above 0"),
    ],
)
def test_knobs_out_of_range_are_refused(make, knobs, message):
    with pytest.raises(CompositionError) as raised:
        make(**knobs)
    assert str(raised.value) == message
