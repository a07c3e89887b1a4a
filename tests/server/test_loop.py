"""The loop over rounds, with clients that answer at once and a clock that is told the time."""

from dataclasses import replace
from inspect import getsourcelines
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from roundel.core.errors import (
    CompositionError,
    ConfigError,
    RoundAborted,
    RoundelError,
    RunFailed,
)
from roundel.core.faults import drops
from roundel.core.learning import Learner
from roundel.core.messages import (
    PARAMS,
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.params import params_sha256
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory
from roundel.core.seeds import derive, sample
from roundel.server.aggregation import ServerState
from roundel.server.loop import Server, StartOver
from roundel.server.open_round import OpenRound
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.dp_fedavg import dp_fedavg
from roundel.strategies.local_dp import local_dp
from roundel.strategies.plan import Plan
from roundel.strategies.sites import Selector, ServerTransform, Synchronous
from tests.federations import quadratic_task
from tests.server.toys import (
    ROWS,
    STRATEGY,
    TASK,
    FakeClients,
    FakeClock,
    experiment_of,
    fail,
    half_a_step,
    server_of,
    update_of,
)


def run(server: Server, clients: FakeClients) -> list[tuple[ServerState, RoundReport]]:
    return list(server.rounds(clients, server.initial_state()))


def figures(**sums: float):
    """Make every client answer with these sums over two examples."""

    def evaluate(request: EvaluateRequest) -> Evaluation:
        return Evaluation(ticket=request.ticket, metrics=Metrics(sums, 2))

    return evaluate


def test_each_round_yields_its_state_and_its_report():
    results = run(server_of(experiment_of("rounds=3")), FakeClients())
    assert [state.round for state, _ in results] == [1, 2, 3]
    assert [state.params[1].item() for state, _ in results] == [1.5, 2.0, 2.5]
    assert [report.record.round for _, report in results] == [1, 2, 3]


def test_every_round_sends_the_parameters_of_the_one_before_and_their_version():
    clients = FakeClients()
    run(server_of(experiment_of("rounds=2", "cohort.size=1")), clients)
    assert [(r.base_version, r.params[1].item()) for r in clients.requests] == [(0, 1.0), (1, 1.5)]


def test_the_cohort_is_a_sample_that_the_seed_and_the_round_fix():
    clients = FakeClients()
    run(server_of(experiment_of("rounds=5", "seed=3")), clients)
    cohorts = [
        sorted(r.ticket.client_id for r in clients.requests if r.ticket.round == number)
        for number in range(1, 6)
    ]
    assert cohorts == [sample(4, 2, derive(3, "cohort", number)) for number in range(1, 6)]
    assert len({tuple(cohort) for cohort in cohorts}) > 1


def test_the_sampling_seed_can_be_varied_apart():
    clients = FakeClients()
    run(server_of(experiment_of("rounds=1", "seed=3", "seeds.sampling=8")), clients)
    assert [r.ticket.client_id for r in clients.requests] == sample(4, 2, derive(8, "cohort", 1))


def test_rounds_go_on_where_the_state_stands():
    server = server_of(experiment_of("rounds=3"))
    whole = run(server, FakeClients())
    rest = list(server.rounds(FakeClients(), whole[1][0]))
    assert [report.record.params_sha256 for _, report in rest] == [whole[2][1].record.params_sha256]
    assert list(server.rounds(FakeClients(), whole[2][0])) == []


def test_the_record_says_what_happened():
    def train(request: TrainRequest) -> ClientUpdate | ClientFailure:
        return fail(request) if request.ticket.client_id == chosen[0] else half_a_step(request)

    clock = FakeClock(step_s=0.5)
    chosen = sample(4, 3, derive(0, "cohort", 1))
    server = server_of(experiment_of("rounds=1", "cohort.size=3"), clock)
    ((state, report),) = run(server, FakeClients(train))
    record = report.record
    assert (record.cohort, record.completed, record.failures) == (3, 2, 1)
    assert record.bytes_down == 3 * (3 * 4 + 8)
    assert record.bytes_up == 2 * (3 * 4 + 8)
    assert record.train_loss == 1.5
    assert record.seconds == 0.5
    assert record.params_sha256 == params_sha256(state.params, state.integers)
    assert record.clients is None
    assert [client.client for client in report.clients] == chosen
    assert report.failures == {chosen[0]: "Traceback\n  task.py:7\nValueError: bad row\n"}


def test_a_commit_names_the_round_and_its_accepted_clients_before_anything_is_evaluated():
    clients = FakeClients(evaluate=figures(loss=1.0))
    run(server_of(experiment_of("rounds=1", "evaluation.clients=1")), clients)
    cohort = sample(4, 2, derive(0, "cohort", 1))
    assert clients.log[:2] == [("train", 1), ("commit", 1, cohort)]
    assert len(clients.log) == 3


def test_a_round_without_its_quorum_ends_the_run_and_shows_one_clients_traceback():
    clients = FakeClients(fail)
    server = server_of(experiment_of("rounds=3"))
    with pytest.raises(RunFailed) as caught:
        run(server, clients)
    first = sample(4, 2, derive(0, "cohort", 1))[0]
    assert str(caught.value) == (
        "round 1 has 0 accepted of 2 updates and needs 1: every client answered or was lost; "
        f"client {first}: ValueError: bad row (task.py:7)\n\n"
        "Traceback\n  task.py:7\nValueError: bad row"
    )
    assert caught.value.exit_code == 1
    assert clients.log == [("train", 1)]


def test_a_refused_update_is_the_reason_when_nothing_failed():
    def train(request: TrainRequest) -> ClientUpdate:
        return replace(half_a_step(request), num_examples=0)

    with pytest.raises(RunFailed, match=r"; client \d: num_examples = 0 is not between"):
        run(server_of(experiment_of("rounds=1")), FakeClients(train))


def test_a_failed_round_leaves_what_came_before_to_go_on_from():
    def train(request: TrainRequest) -> ClientUpdate | ClientFailure:
        return fail(request) if request.ticket.round == 3 else half_a_step(request)

    seen = []
    server = server_of(experiment_of("rounds=4"))
    with pytest.raises(RunFailed, match="round 3 has 0 accepted"):
        seen.extend(server.rounds(FakeClients(train), server.initial_state()))
    assert [state.round for state, _ in seen] == [1, 2]


# ---- contradictions found before the first round


def test_a_cohort_larger_than_the_population_is_refused():
    clients = FakeClients()
    with pytest.raises(ConfigError) as caught:
        run(server_of(experiment_of("cohort.size=5")), clients)
    assert str(caught.value) == (
        "cohort.size = 5 is more than the population of 4 clients; lower it or raise "
        "partition.clients"
    )
    assert clients.log == []


def root_strategy(seen: list):
    def update(aggregate, state, _params, context):
        seen.append(context)
        return {**aggregate, "params": context.root["params"]}, state

    link = ServerTransform(name="root", init=lambda _params: {}, update=update)
    return compose(Part(name="rooted", root=True, server=(link,)))


def test_a_strategy_that_trains_on_the_server_needs_root_examples():
    with pytest.raises(CompositionError) as caught:
        run(server_of(experiment_of(), strategy=root_strategy([])), FakeClients())
    assert str(caught.value) == (
        "rooted trains on root examples at the server, and the task gives none"
    )


def test_the_server_trains_on_its_root_examples_as_a_client_would():
    seen: list = []
    experiment = experiment_of(
        "rounds=1", "client.steps=1", "client.batch_size='full'", "client.lr=0.25"
    )
    server = server_of(experiment, strategy=root_strategy(seen), root=ROWS)
    ((state, _),) = run(server, FakeClients())
    # The loss is (0 + (w1 - 4)^2) / 2 at w1 = 2, so its gradient is (0, -2).
    assert seen[0].root["params"].tolist() == [0.0, 0.5]
    assert state.params[1:].tolist() == [1.0, 2.5]
    assert (seen[0].population, seen[0].selected, seen[0].completed) == (4, 2, 2)


def test_root_examples_are_not_trained_on_unless_the_strategy_asks():
    with_root = run(server_of(experiment_of("rounds=1"), root=ROWS), FakeClients())
    without = run(server_of(experiment_of("rounds=1")), FakeClients())
    assert with_root[0][1].record.params_sha256 == without[0][1].record.params_sha256


# ---- selection and pacing


def everybody(count: int) -> Selector:
    return Selector(name="everybody", select=lambda _selection: range(count))


def test_over_selection_ends_the_round_with_the_updates_it_wanted():
    strategy = compose(Part(name="over", selector=everybody(4)))
    clients = FakeClients()
    ((_, report),) = run(server_of(experiment_of("rounds=1"), strategy=strategy), clients)
    assert (report.record.cohort, report.record.completed, report.record.failures) == (4, 2, 2)
    assert [c.status for c in report.clients] == ["accepted"] * 2 + ["unfinished"] * 2


def test_a_selector_is_told_what_stays_the_same_over_the_rounds_of_a_run():
    seen = []

    def select(selection):
        seen.append((selection.round, selection.seed, selection.run_seed))
        return [0]

    strategy = compose(Part(name="spy", selector=Selector(name="spy", select=select)))
    run(server_of(experiment_of("rounds=3", "seed=5"), strategy=strategy), FakeClients())
    assert seen == [(k, derive(5, "cohort", k), derive(5, "cohort")) for k in (1, 2, 3)]
    assert len({seed for _, seed, fixed in seen for seed in (seed, fixed)}) == 4


def asking(*candidates: int) -> Strategy:
    """A strategy that asks these clients for their loss and selects the one with the lowest."""

    def select(selection):
        losses = selection.losses(candidates)
        return [candidates[losses.index(min(losses))]]

    return compose(Part(name="asking", selector=Selector(name="asking", select=select)))


def test_what_clients_are_sent_to_be_selected_counts_as_bytes():
    def evaluate(request: EvaluateRequest) -> Evaluation | ClientFailure:
        client_id = request.ticket.client_id
        if client_id == 0:
            return ClientFailure(ticket=request.ticket, stage="evaluate", error="it is gone")
        return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 10.0 - client_id}, 1))

    clients = FakeClients(evaluate=evaluate)
    server = server_of(experiment_of("rounds=2", "cohort.size=1"), strategy=asking(0, 1, 2))
    results = run(server, clients)
    assert [request.ticket.client_id for request in clients.requests] == [2, 2]
    # Three are asked and one is trained, with three float32 and an int64 each.
    assert [report.record.bytes_down for _, report in results] == [4 * 20, 4 * 20]


def test_a_round_that_nobody_was_drawn_for_changes_the_parameters_by_nothing():
    nobody = Selector(name="nobody", select=lambda _selection: [], poisson=True)
    strategy = compose(Part(name="nobody", selector=nobody))
    server = server_of(experiment_of("rounds=2"), strategy=strategy)
    results = run(server, FakeClients())
    before = server.initial_state()
    for state, report in results:
        assert state.params.equal(before.params)
        assert state.integers.equal(before.integers)
        record = report.record
        assert (record.cohort, record.completed, record.failures) == (0, 0, 0)
        assert (record.bytes_up, record.bytes_down, record.train_loss) == (0, 0, None)
        assert report.clients == ()


def test_only_poisson_sampling_may_select_nobody():
    strategy = compose(Part(name="none", selector=everybody(0)))
    with pytest.raises(RoundelError, match="select at least one"):
        run(server_of(experiment_of("rounds=1"), strategy=strategy), FakeClients())


def test_clients_that_attack_are_marked_in_their_records():
    server = replace(server_of(experiment_of("rounds=1", "cohort.size=4")), malicious={1, 3})
    ((_, report),) = run(server, FakeClients())
    assert [record.malicious for record in report.clients] == [None, True, None, True]


def test_they_are_marked_if_the_round_is_aborted_too():
    server = replace(server_of(experiment_of("rounds=1", "cohort.size=4")), malicious={1, 3})
    with pytest.raises(RoundAborted) as aborted:
        run(server, FakeClients(fail))
    assert [record.malicious for record in aborted.value.clients] == [None, True, None, True]


def test_a_cohort_below_the_wanted_size_ends_with_all_of_it():
    strategy = compose(Part(name="few", selector=everybody(1)))
    ((_, report),) = run(server_of(experiment_of("rounds=1"), strategy=strategy), FakeClients())
    assert (report.record.cohort, report.record.completed) == (1, 1)


def test_quorum_and_deadline_come_from_the_experiment_unless_the_strategy_paces():
    own = compose(Part(name="patient", pacing=Synchronous(quorum=2, deadline_s=9.0)))
    experiment = experiment_of("rounds=1", "cohort.quorum=1", "cohort.deadline_s=5")
    for strategy, expected in ((STRATEGY, (1, 5.0)), (own, (2, 9.0))):
        seen = []

        class Spy(FakeClients):
            def train(self, open_round):
                seen.append(open_round.machine.terms)  # noqa: B023 - used at once
                super().train(open_round)

        run(server_of(experiment, strategy=strategy), Spy())
        assert [(terms.quorum, terms.deadline_s) for terms in seen] == [expected]


EACH = Selector(name="each", select=lambda _selection: [0, 2], poisson=True)


@pytest.mark.parametrize("cohort", [[], [0, 2]])
def test_a_round_by_poisson_sampling_to_which_nobody_came_counts(cohort):
    selector = replace(EACH, select=lambda _selection: cohort)
    strategy = compose(Part(name="p", selector=selector))
    server = server_of(experiment_of("rounds=2"), strategy=strategy)
    clients = FakeClients(fail)
    results = run(server, clients)
    assert [report.record.completed for _, report in results] == [0, 0]
    assert [report.record.failures for _, report in results] == [len(cohort)] * 2
    assert all(report.record.train_loss is None for _, report in results)
    before = server.initial_state()
    assert all(state.params.equal(before.params) for state, _ in results)
    assert all(state.integers.equal(before.integers) for state, _ in results)
    assert [what for what in clients.log if what[0] == "commit"] == [
        ("commit", 1, []),
        ("commit", 2, []),
    ]


def test_a_quorum_that_the_user_has_set_is_kept_with_poisson_sampling():
    strategy = compose(Part(name="p", selector=EACH))
    server = server_of(experiment_of("rounds=1", "cohort.quorum=2"), strategy=strategy)
    assert len(run(server, FakeClients())) == 1
    one = FakeClients(lambda request: (fail, half_a_step)[not request.ticket.client_id](request))
    with pytest.raises(RoundAborted, match="has 1 accepted of 2 updates and needs 2"):
        run(server, one)


# ---- noise that nobody can repeat


def private(part: Part, *settings: str) -> Server:
    experiment = experiment_of("rounds=1", "cohort.size=4", *settings)
    task = quadratic_task(torch.zeros(2, dtype=torch.float64))
    plan = Plan.of(experiment, task, compose(part))
    return Server(plan=plan, learner=Learner(task, 0), run="r", clock=FakeClock())


FIXED = dp_fedavg(sampling="fixed")
JUDGED = ("evaluation.clients=2", "evaluation.clients_every=1")


def of_two_weights(request: TrainRequest) -> ClientUpdate:
    delta = torch.full((2,), 0.1, dtype=torch.float64)
    return update_of(0, ticket=request.ticket, channels={PARAMS: delta})


def without_the_last(request: TrainRequest) -> ClientUpdate | ClientFailure:
    return (fail if request.ticket.client_id == 3 else of_two_weights)(request)


def test_what_noise_was_drawn_for_is_written_down_before_anything_leaves():
    happened: list[Any] = []

    def evaluate(request: EvaluateRequest) -> Evaluation:
        happened.append("sent")
        return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 1.0}, 1))

    bound: list[tuple[int, str]] = []

    def bind(number: int, sha256: str) -> None:
        happened.append("bound")
        bound.append((number, sha256))

    server = replace(private(FIXED, *JUDGED), secrets=lambda _: bytes(32), bind_noise=bind)
    for train in (of_two_weights, of_two_weights, without_the_last):
        run(server, FakeClients(train, evaluate))
    assert happened == ["bound", "sent", "sent"] * 3
    assert [number for number, _ in bound] == [1, 1, 1]
    assert bound[0] == bound[1] != bound[2]


def test_a_round_whose_noise_hid_another_aggregate_ends_the_run(tmp_path: Path):
    path = tmp_path / "run"
    environment = {"schema_version": 1, "run_id": "r", "engine": {}}
    seen: list[Tensor] = []

    def evaluate(request: EvaluateRequest) -> Evaluation:
        seen.append(request.params)
        raise KeyboardInterrupt  # it is killed while clients look at the model of round 1

    server = private(FIXED, *JUDGED)
    with RunDirectory.create(path, server.plan.experiment, environment) as directory:
        server = replace(server, secrets=directory.secret, bind_noise=directory.bind_noise)
        with pytest.raises(KeyboardInterrupt):
            run(server, FakeClients(of_two_weights, evaluate))
    assert len(seen) == 1
    with RunDirectory.open(path) as directory:
        server = replace(server, secrets=directory.secret, bind_noise=directory.bind_noise)
        with pytest.raises(RunFailed) as raised:
            run(server, FakeClients(without_the_last, evaluate))
        assert len(seen) == 1
        with pytest.raises(KeyboardInterrupt):
            run(server, FakeClients(of_two_weights, evaluate))
    assert seen[0].equal(seen[1])
    assert str(raised.value) == (
        "round 1 was computed again and its updates add up to something else than what may have "
        "been released with noise, and to release both would cost more privacy than the account "
        "says; resume with the clients that answered then, or start a new run"
    )


def test_noise_from_the_experiments_seed_is_bound_to_nothing():
    server = private(dp_fedavg(sampling="fixed", noise="seeded"))
    bound: list[Any] = []
    run(replace(server, bind_noise=lambda *what: bound.append(what)), FakeClients(of_two_weights))
    assert bound == []


@pytest.mark.parametrize("metric", ["train_loss", "health.clipped"])
def test_a_run_cannot_wait_for_a_figure_that_private_clients_do_not_tell(metric):
    server = private(local_dp(), f"stop.metric={metric}", "stop.target=1")
    with pytest.raises(ConfigError, match="is a figure of training, which clients with noise of"):
        server.check(4)


# ---- evaluation


def test_the_test_set_is_evaluated_every_so_many_rounds_and_at_the_end():
    results = run(server_of(experiment_of("rounds=5", "evaluation.every=2")), FakeClients())
    assert [bool(report.record.metrics) for _, report in results] == [
        False,
        True,
        False,
        True,
        True,
    ]


def test_figures_on_the_test_set_are_those_of_the_new_parameters():
    ((_, report),) = run(server_of(experiment_of("rounds=1")), FakeClients())
    # w = (1.5, 2) misses targets (1, 4) by 0.5 and 2.
    assert report.record.metrics == {"loss": (0.25 + 4.0) / 2, "accuracy": 1.25}


def test_without_a_test_set_there_are_no_figures():
    ((_, report),) = run(server_of(experiment_of("rounds=1"), test=None), FakeClients())
    assert report.record.metrics == {}
    assert report.record.line()["loss"] is None


@pytest.mark.parametrize(("every", "rounds"), [(0, [4]), (3, [3, 4]), (1, [1, 2, 3, 4])])
def test_clients_are_evaluated_every_so_many_rounds_and_at_the_end(every, rounds):
    settings = ("rounds=4", "evaluation.clients=2", f"evaluation.clients_every={every}")
    results = run(server_of(experiment_of(*settings)), FakeClients(evaluate=figures(loss=1.0)))
    assert [r.record.round for _, r in results if r.record.clients is not None] == rounds


def test_client_figures_are_pooled_and_spread_over_those_with_enough_examples():
    def evaluate(request: EvaluateRequest) -> Evaluation:
        client_id = request.ticket.client_id
        return Evaluation(
            ticket=request.ticket, metrics=Metrics({"loss": 3.0 * client_id}, client_id)
        )

    settings = ("rounds=1", "evaluation.clients=100", "evaluation.min_examples=2")
    ((_, report),) = run(server_of(experiment_of(*settings)), FakeClients(evaluate=evaluate))
    own = {"p10": 3.0, "p50": 3.0, "p90": 3.0, "variance": 0.0, "worst_tenth": 3.0}
    assert report.record.clients == {
        "asked": 4,
        "answered": 3,  # client 0 holds nothing out
        "failures": 0,
        "examples": 6,
        "small": 1,
        "loss": {"mean": 3.0, **own},
    }
    assert report.record.metrics["loss"] == (0.25 + 4.0) / 2  # still those of the test set


def failing_evaluation(request: EvaluateRequest) -> Evaluation | ClientFailure:
    if request.ticket.client_id < 2:
        return ClientFailure(
            ticket=request.ticket,
            stage="evaluate",
            error="KeyError: 'f1'",
            location="mine.py:3",
            traceback=f"Traceback of {request.ticket.client_id}",
        )
    if request.ticket.client_id == 2:
        return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": nan}, 2))
    return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 1.0}, 2))


def test_a_client_whose_evaluation_fails_or_is_refused_is_named_with_its_reason():
    def train(request: TrainRequest) -> ClientUpdate | ClientFailure:
        return fail(request) if request.ticket.client_id == 0 else half_a_step(request)

    experiment = experiment_of("rounds=1", "cohort.size=4", "evaluation.clients=4")
    clients = FakeClients(train, evaluate=failing_evaluation)
    ((_, report),) = run(server_of(experiment), clients)
    assert report.record.clients is not None
    assert (report.record.clients["answered"], report.record.clients["failures"]) == (1, 3)
    assert report.record.failures == 1  # of the training
    said = [record for record in report.clients if record.stage]
    assert [(r.client, r.status, r.stage, r.reason, r.location) for r in said] == [
        (0, "failed", "evaluate", "KeyError: 'f1'", "mine.py:3"),
        (1, "failed", "evaluate", "KeyError: 'f1'", "mine.py:3"),
        (2, "rejected", "evaluate", "its 'loss' is nan, which is not finite", ""),
    ]
    assert report.failures == {
        0: "Traceback\n  task.py:7\nValueError: bad row\n\nTraceback of 0",
        1: "Traceback of 1",
    }


def test_a_broken_evaluation_does_not_count_as_trouble_with_updates():
    experiment = experiment_of("rounds=1", "cohort.size=4", "evaluation.clients=4")
    ((_, report),) = run(server_of(experiment), FakeClients(evaluate=failing_evaluation))
    assert [report.record.health[key] for key in ("rejected", "failed", "lost")] == [0, 0, 0]


# ---- without a global test set


def test_without_a_test_set_the_clients_pooled_means_stand_for_the_round():
    def evaluate(request: EvaluateRequest) -> Evaluation:
        count = 1 + request.ticket.client_id
        sums = {"loss": 2.0 * count, "accuracy": 1.0, "confusion/0/0": 1.0}
        return Evaluation(ticket=request.ticket, metrics=Metrics(sums, count))

    experiment = experiment_of("rounds=1", "evaluation.clients=4")
    ((_, report),) = run(server_of(experiment, test=None), FakeClients(evaluate=evaluate))
    record = report.record
    assert record.metrics == {"loss": 2.0, "accuracy": 0.4, "precision": 1.0, "recall": 1.0}
    assert record.confusion == [[4]]
    assert record.clients is not None
    assert record.clients["loss"] == {"mean": 2.0}  # nobody has five examples


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        ((), [1, 2, 3, 4, 5]),
        (("evaluation.every=2",), [2, 4, 5]),
        (("evaluation.every=2", "evaluation.clients_every=3"), [3, 5]),
        (("evaluation.clients_every=0",), [5]),
    ],
    ids=str,
)
def test_without_a_test_set_clients_are_asked_as_often_as_it_would_have_been(settings, rounds):
    experiment = experiment_of("rounds=5", "evaluation.clients=2", *settings)
    server = server_of(experiment, test=None)
    results = run(server, FakeClients(evaluate=figures(loss=1.0)))
    assert [r.record.round for _, r in results if r.record.clients is not None] == rounds
    assert [r.record.round for _, r in results if r.record.metrics] == rounds


def test_with_a_test_set_clients_are_asked_in_the_last_round_alone():
    experiment = experiment_of("rounds=3", "evaluation.clients=2")
    results = run(server_of(experiment), FakeClients(evaluate=figures(loss=1.0)))
    assert [r.record.round for _, r in results if r.record.clients is not None] == [3]


def test_the_validation_examples_can_be_asked_for():
    asked = []

    def evaluate(request: EvaluateRequest) -> Evaluation:
        asked.append(request.split)
        return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 1.0}, 5))

    settings = ("rounds=1", "evaluation.clients=2", "evaluation.split=validation")
    run(server_of(experiment_of(*settings)), FakeClients(evaluate=evaluate))
    assert asked == ["validation", "validation"]


# ---- the user's metrics on the test set


def broken_metric(outputs, _targets):
    return {"f1": outputs.no_such_thing}


def test_code_that_fails_on_the_test_set_ends_the_run_with_its_line_and_the_traceback():
    experiment = experiment_of("rounds=3", "evaluation.every=2")
    task = replace(TASK, metrics=broken_metric)
    clients = FakeClients()
    server = server_of(experiment)
    server = replace(server, learner=Learner(task, seed=0))
    seen = []
    with pytest.raises(RunFailed) as caught:
        seen.extend(server.rounds(clients, server.initial_state()))
    assert [state.round for state, _ in seen] == [1]
    first, *details = str(caught.value).splitlines()
    line = getsourcelines(broken_metric)[1] + 1
    assert first == (
        "evaluating round 2 on the global test set failed: AttributeError: 'Tensor' object has no "
        f"attribute 'no_such_thing' ({__file__}:{line})"
    )
    assert details[1] == "Traceback (most recent call last):"
    assert caught.value.exit_code == 1


# ---- confusion


def test_confusion_is_in_the_last_round_alone_and_precision_and_recall_in_all():
    def counted(outputs, _targets):
        return {"accuracy": outputs.sum(), "confusion/0/0": 3, "confusion/1/0": 1}

    server = server_of(experiment_of("rounds=2"))
    server = replace(server, learner=Learner(replace(TASK, metrics=counted), seed=0))
    first, last = (report.record for _, report in run(server, FakeClients()))
    assert (first.confusion, last.confusion) == (None, [[3, 0], [1, 0]])
    assert [record.metrics["precision"] for record in (first, last)] == [0.75, 0.75]
    assert [record.metrics["recall"] for record in (first, last)] == [0.5, 0.5]


# ---- clients that drop out on purpose


def test_a_client_that_drops_out_is_asked_and_lost_at_once():
    experiment = experiment_of("rounds=10", "cohort.size=4", "faults.drop=0.3", "seed=1")
    clients = FakeClients()
    results = run(server_of(experiment), clients)
    for state, report in results:
        gone = {k for k in range(4) if drops(experiment, state.round, k)}
        trained = {r.ticket.client_id for r in clients.requests if r.ticket.round == state.round}
        assert trained == set(range(4)) - gone
        assert report.record.bytes_down == 4 * (3 * 4 + 8)
        assert report.record.health["lost"] == len(gone)
        assert {r.client: r.reason for r in report.clients if r.status == "lost"} == dict.fromkeys(
            gone, "it dropped out on purpose (faults.drop)"
        )


def test_if_everybody_drops_out_the_round_is_aborted_with_one_sentence():
    clients = FakeClients()
    with pytest.raises(RoundAborted) as caught:
        run(server_of(experiment_of("rounds=1", "faults.drop=1")), clients)
    first = sample(4, 2, derive(0, "cohort", 1))[0]
    assert str(caught.value) == (
        "round 1 has 0 accepted of 2 updates and needs 1: every client answered or was lost; "
        f"client {first}: it dropped out on purpose (faults.drop)"
    )
    assert [record.status for record in caught.value.clients] == ["lost", "lost"]
    assert clients.requests == []


def test_a_failure_without_a_traceback_is_told_in_one_line():
    def fail_on_purpose(request: TrainRequest) -> ClientFailure:
        return ClientFailure(ticket=request.ticket, stage="train", error="it failed on purpose")

    with pytest.raises(RoundAborted) as caught:
        run(server_of(experiment_of("rounds=1")), FakeClients(fail_on_purpose))
    assert str(caught.value).endswith(": it failed on purpose")
    assert "\n" not in str(caught.value)


def test_who_is_absent_can_be_decided_otherwise():
    experiment = experiment_of("rounds=1", "cohort.size=4", "faults.drop=1")
    server = replace(
        server_of(experiment), absences=lambda number, k: f"{number}/{k}" if k == 2 else None
    )
    ((_, report),) = run(server, FakeClients())
    said = [(r.client, r.status, r.reason) for r in report.clients]
    assert said == [
        (0, "accepted", ""),
        (1, "accepted", ""),
        (2, "lost", "1/2"),
        (3, "accepted", ""),
    ]


# ---- stopping early


def test_a_run_that_reaches_its_target_stops_there_with_everything_a_last_round_has():
    # The first weight moves by half a step a round, and the loss on the first row with it.
    settings = ("rounds=9", "evaluation.every=2", "evaluation.clients=2")
    experiment = experiment_of(*settings, "stop.metric=loss", "stop.target=5")
    server = server_of(experiment)
    results = run(server, FakeClients(evaluate=figures(loss=1.0)))
    records = [report.record for _, report in results]
    assert [record.stopped for record in records] == [
        None,
        "loss = 2.5 reached the target of 5",
    ]
    assert [record.clients is not None for record in records] == [False, True]


def test_a_figure_of_every_round_may_stop_it_in_one_that_was_not_to_be_evaluated():
    settings = ("rounds=9", "evaluation.every=5", "evaluation.clients=2")
    experiment = experiment_of(*settings, "stop.metric=train_loss", "stop.patience=2")
    results = run(server_of(experiment), FakeClients(evaluate=figures(loss=1.0)))
    records = [report.record for _, report in results]
    assert [record.round for record in records] == [1, 2, 3]
    assert records[-1].stopped == "train_loss did not improve on 1.5 in 2 evaluations"
    assert [bool(record.metrics) for record in records] == [False, False, True]
    assert [record.clients is not None for record in records] == [False, False, True]


def test_what_is_recorded_of_earlier_rounds_counts():
    experiment = experiment_of("rounds=9", "stop.metric=train_loss", "stop.patience=3")
    server = server_of(experiment)
    whole = run(server, FakeClients())
    lines = [report.record.line() for _, report in whole]
    for done in range(1, 4):
        rest = list(server.rounds(FakeClients(), whole[done - 1][0], lines[:done]))
        assert [report.record.stopped for _, report in rest] == [
            line.get("stopped") for line in lines[done:]
        ]
    assert list(server.rounds(FakeClients(), whole[-1][0], lines)) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ("stop.metric=clients.accuracy.p10", "evaluation.clients=2"),
            (
                "stop.metric = 'clients.accuracy.p10' is measured in the last round only; set "
                "evaluation.clients_every, such as to 1"
            ),
        ),
        (
            ("stop.metric=clients.accuracy.p10", "evaluation.clients_every=1"),
            (
                "stop.metric = 'clients.accuracy.p10' is measured on clients, and "
                "evaluation.clients = 0 asks none; raise it, such as to 100"
            ),
        ),
    ],
)
def test_a_figure_that_comes_too_late_or_never_cannot_stop_a_run(settings, sentence):
    experiment = experiment_of("stop.target=0.5", *settings)
    with pytest.raises(ConfigError) as caught:
        server_of(experiment).check(population=4)
    assert str(caught.value) == sentence
    unused = experiment_of(*settings)  # nothing waits for it
    server_of(unused).check(population=4)


def test_without_a_test_set_accuracy_is_a_figure_of_clients():
    def check(*settings: str) -> None:
        server_of(experiment_of("stop.patience=2", *settings), test=None).check(population=4)

    check("evaluation.clients=2")
    with pytest.raises(ConfigError, match=r"evaluation\.clients = 0 asks none"):
        check()
    with pytest.raises(ConfigError, match="in the last round only"):
        check("evaluation.clients=2", "evaluation.clients_every=0")


def test_an_evaluation_has_another_ticket_than_the_training_of_its_round():
    clients = FakeClients(evaluate=figures(loss=1.0))
    run(server_of(experiment_of("rounds=1", "cohort.size=4", "evaluation.clients=4")), clients)
    *_, (_, evaluated) = clients.log
    trained = {request.ticket for request in clients.requests}
    assert {ticket.client_id for ticket in evaluated} == {t.client_id for t in trained}
    assert not trained & set(evaluated)


def test_client_evaluation_sends_the_new_parameters_to_a_sample():
    sent = []

    def evaluate(request: EvaluateRequest) -> Evaluation:
        sent.append((request.ticket.client_id, request.params.tolist(), request.split))
        return Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 1.0}, 1))

    run(
        server_of(experiment_of("rounds=1", "evaluation.clients=2")), FakeClients(evaluate=evaluate)
    )
    asked = sample(4, 2, derive(0, "evaluated", 1))
    assert sent == [(client_id, [11.0, 1.5, 2.0], "test") for client_id in asked]


def test_one_client_alone_cannot_move_the_round_by_a_refused_update():
    def train(request: TrainRequest) -> ClientUpdate:
        good = half_a_step(request)
        if request.ticket.client_id != 0:
            return good
        return update_of(0, (nan, nan), ticket=request.ticket, base_version=request.base_version)

    server = server_of(experiment_of("rounds=1", "cohort.size=4"))
    ((state, report),) = run(server, FakeClients(train))
    assert state.params.tolist() == [11.0, 1.5, 2.0]
    assert report.record.failures == 1
    assert torch.isfinite(state.params).all()


class StartingOver(FakeClients):
    """Clients that go through each round twice."""

    def train(self, open_round: OpenRound) -> None:
        super().train(open_round)
        self.rounds = [*getattr(self, "rounds", []), open_round.machine.terms.round]
        if len(self.rounds) % 2:
            raise StartOver
        open_round.width = 4


def test_a_round_that_starts_over_counts_once_and_says_how_wide_it_was():
    once = run(server_of(experiment_of("rounds=2")), FakeClients())
    clients = StartingOver()
    twice = run(server_of(experiment_of("rounds=2")), clients)
    assert clients.rounds == [1, 1, 2, 2]
    for (_, one), (_, other) in zip(once, twice, strict=True):
        assert other.record.params_sha256 == one.record.params_sha256
        assert other.record.bytes_up == one.record.bytes_up
        assert (one.record.width, other.record.width) == (None, 4)
