"""The loop over rounds, with clients that answer at once and a clock that is told the time."""

from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from roundel.core.errors import (
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
from roundel.core.rundir import RunDirectory
from roundel.core.seeds import derive, sample
from roundel.server.loop import Server, StartOver
from roundel.server.open_round import OpenRound
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.dp_fedavg import dp_fedavg
from roundel.strategies.krum import krum
from roundel.strategies.plan import Plan
from roundel.strategies.sites import Selector, Synchronous
from tests.federations import quadratic_task
from tests.server.toys import (
    STRATEGY,
    FakeClients,
    FakeClock,
    experiment_of,
    fail,
    figures,
    half_a_step,
    run,
    server_of,
    update_of,
)


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


def test_a_round_needs_at_least_the_updates_that_the_rule_can_do_with():
    # Krum needs 2f + 3 updates: f = 0 asks for 3 of the 4.
    strategy = compose(krum(f=0))
    for said, needed in ((1, 3), (3, 3), (4, 4)):
        experiment = experiment_of("cohort.size=4", f"cohort.quorum={said}")
        server = server_of(experiment, strategy=strategy)
        opened = server.open_round(FakeClients(), server.initial_state())
        assert opened.machine.terms.quorum == needed


def test_a_round_with_too_few_updates_for_the_rule_ends_with_what_the_rule_says():
    def train(request: TrainRequest) -> ClientUpdate | ClientFailure:
        return fail(request) if request.ticket.client_id < 2 else half_a_step(request)

    server = server_of(experiment_of("rounds=1", "cohort.size=4"), strategy=compose(krum(f=0)))
    with pytest.raises(RoundAborted) as caught:
        run(server, FakeClients(train))
    assert str(caught.value).startswith(
        "round 1 has 2 accepted of 4 updates and needs 3: every client answered or was lost; "
        "krum with f = 0 needs at least 3 updates, and 2 arrived; lower f or fraction, or raise "
        "cohort.size or cohort.quorum; client 0: ValueError: bad row (task.py:7)"
    )


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
