"""The loop over rounds, with clients that answer at once and a clock that is told the time."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch

from roundel.core.errors import CompositionError, ConfigError, RunFailed
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.params import params_sha256
from roundel.core.records import RoundReport
from roundel.core.seeds import derive, sample
from roundel.server.aggregation import ServerState
from roundel.server.loop import Server
from roundel.strategies.compose import Part, compose
from roundel.strategies.sites import Selector, ServerTransform, Synchronous
from tests.server.toys import (
    ROWS,
    STRATEGY,
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


def test_client_figures_are_pooled_and_spread():
    def evaluate(request: EvaluateRequest) -> Evaluation | ClientFailure:
        client_id = request.ticket.client_id
        if client_id == 0:
            return ClientFailure(ticket=request.ticket, stage="evaluate", error="no")
        if client_id == 1:
            return Evaluation(ticket=request.ticket, metrics=Metrics())
        return Evaluation(
            ticket=request.ticket, metrics=Metrics({"loss": 3.0 * client_id}, client_id)
        )

    server = server_of(experiment_of("rounds=1", "evaluation.clients=100"))
    ((_, report),) = run(server, FakeClients(evaluate=evaluate))
    assert report.record.clients == {
        "asked": 4,
        "answered": 2,
        "failures": 1,
        "examples": 5,
        "loss": {"mean": 3.0, "p10": 3.0, "p50": 3.0, "p90": 3.0, "lowest_tenth": 3.0},
    }


@pytest.mark.parametrize(
    "bad",
    [
        Metrics({}, 2),
        Metrics({"loss": 1.0}, 2),
        Metrics({"loss": 1.0, "accuracy": 1.0, "asked": 9.0}, 2),
        Metrics({"loss": nan, "accuracy": 1.0}, 2),
        Metrics({"loss": 1.0, "accuracy": inf}, 2),
        Metrics({"loss": 1.0, "accuracy": 1.0}, 1 << 60),
    ],
    ids=["no names", "a name missing", "a name too many", "nan", "inf", "absurdly many examples"],
)
def test_one_clients_bad_figures_are_its_failure_and_leave_the_others_alone(bad):
    def evaluate(request: EvaluateRequest) -> Evaluation:
        good = Metrics({"loss": 4.0, "accuracy": 1.0}, 2)
        metrics = bad if request.ticket.client_id == 0 else good
        return Evaluation(ticket=request.ticket, metrics=metrics)

    server = server_of(experiment_of("rounds=1", "evaluation.clients=4"))
    ((_, report),) = run(server, FakeClients(evaluate=evaluate))
    figures = report.record.clients
    assert figures is not None
    assert (figures["answered"], figures["failures"], figures["examples"]) == (3, 1, 6)
    assert set(figures) == {"asked", "answered", "failures", "examples", "loss", "accuracy"}
    assert (figures["loss"]["mean"], figures["accuracy"]["mean"]) == (2.0, 0.5)


def test_a_population_that_holds_nothing_out_has_counts_and_no_figures():
    def evaluate(request: EvaluateRequest) -> Evaluation:
        return Evaluation(ticket=request.ticket, metrics=Metrics())

    server = server_of(experiment_of("rounds=1", "evaluation.clients=4"))
    ((_, report),) = run(server, FakeClients(evaluate=evaluate))
    assert report.record.clients == {"asked": 4, "answered": 0, "failures": 0, "examples": 0}


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
