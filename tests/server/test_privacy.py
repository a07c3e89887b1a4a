"""The account of a run's privacy, against dp-accounting and closed forms."""

import logging
import sys
import time
from dataclasses import replace
from itertools import pairwise
from math import erfc, exp, sqrt
from typing import Any

import dp_accounting
import pytest
import torch
from torch import nn

from roundel.core.configfile import load_experiment
from roundel.core.errors import CompositionError, ConfigError
from roundel.core.learning import Learner
from roundel.core.messages import ClientUpdate, TrainRequest
from roundel.core.params import ParamSpec
from roundel.core.task import Task
from roundel.server import privacy
from roundel.server.loop import Server
from roundel.server.privacy import Ledger, check_covered, epsilons, gaussian_epsilon
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.dp_fedavg import dp_adaptive, dp_fedavg
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedbn import fedbn
from roundel.strategies.fedexp import fedexp
from roundel.strategies.local_dp import local_dp
from roundel.strategies.plan import Plan
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import Privacy, Selector
from roundel.strategies.topk import topk
from roundel.strategies.weighers import EQUAL
from tests.federations import Point, quadratic_task
from tests.server.toys import FakeClients, FakeClock
from tests.strategies.toys import first_loss
from tests.strategies.updates import update, vec

DELTA = 1e-5


def phi(x: float) -> float:
    return erfc(-x / sqrt(2)) / 2


# ---- one mechanism, no sampling


@pytest.mark.parametrize("z", [0.3, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_the_closed_form_solves_its_equation(z, delta):
    epsilon = gaussian_epsilon(z, delta)
    first, second = phi(1 / (2 * z) - epsilon * z), phi(-1 / (2 * z) - epsilon * z)
    assert first - exp(epsilon) * second == pytest.approx(delta, rel=1e-6)


def test_with_much_noise_nothing_is_spent():
    assert gaussian_epsilon(1000.0, 1e-3) == 0.0


@pytest.mark.parametrize(("z", "rounds"), [(2.0, 10), (1.0, 1), (20.0, 500)])
def test_without_sampling_it_is_the_value_that_loss_distributions_converge_to(z, rounds):
    account = dp_accounting.pld.PLDAccountant()
    account.compose(dp_accounting.GaussianDpEvent(z), rounds)
    theirs = account.get_epsilon(DELTA)
    assert epsilons(z, 1.0, DELTA, "pld")(rounds) == pytest.approx(theirs, rel=1e-5)


# ---- Poisson sampling


def of_dp_accounting(accountant: Any, z: float, q: float, rounds: int) -> float:
    event = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z))
    accountant.compose(event, rounds)
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize(("z", "q"), [(1.0, 0.01), (2.0, 0.5)])
def test_rounds_add_up_to_what_dp_accounting_says(z, q):
    ours = {name: epsilons(z, q, DELTA, name) for name in ("pld", "rdp")}
    for rounds in (1, 7):
        pld = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3 / z)
        theirs = of_dp_accounting(pld, z, q, rounds)
        assert ours["pld"](rounds) == pytest.approx(theirs, rel=1e-6)
        rdp = of_dp_accounting(dp_accounting.rdp.RdpAccountant(), z, q, rounds)
        assert ours["rdp"](rounds) == pytest.approx(rdp, rel=1e-12)


def test_it_is_never_less_than_with_finer_steps_and_hardly_more():
    finest = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-4)
    exact = of_dp_accounting(finest, 1.0, 0.01, 1000)
    assert exact <= epsilons(1.0, 0.01, DELTA, "pld")(1000) <= exact * 1.001
    assert exact < epsilons(1.0, 0.01, DELTA, "rdp")(1000)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("q", [0.05, 1.0])
def test_every_round_costs_something_and_sampling_makes_it_cheaper(accountant, q):
    spent = [epsilons(1.5, q, DELTA, accountant)(rounds) for rounds in range(1, 12)]
    assert all(a < b for a, b in pairwise(spent))
    if q < 1:
        assert spent[-1] < epsilons(1.5, 1.0, DELTA, accountant)(11)


def test_what_was_asked_before_does_not_matter():
    def fresh() -> privacy.Epsilons:
        privacy.epsilons.cache_clear()
        return epsilons(1.0, 0.05, DELTA, "pld")

    in_turn = fresh()
    told = [in_turn(rounds) for rounds in range(1, 14)]
    for rounds in (13, 6):
        assert fresh()(rounds) == told[rounds - 1]
    backwards = fresh()
    assert [backwards(rounds) for rounds in range(13, 0, -1)][::-1] == told


def test_a_round_takes_milliseconds():
    privacy.epsilons.cache_clear()
    told = epsilons(1.0, 0.05, DELTA, "pld")
    told(1)
    began = time.perf_counter()
    for rounds in range(2, 22):
        told(rounds)
    assert (time.perf_counter() - began) / 20 < 0.1  # 0.01 on an idle machine


def test_dp_accounting_does_not_talk(caplog, capfd):
    privacy.epsilons.cache_clear()
    with caplog.at_level(logging.DEBUG):
        epsilons(1.0, 0.1, DELTA, "rdp")(3)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("accountant", "sampling"), [("pld", 0.5), ("rdp", 0.5), ("rdp", 1.0)])
def test_without_dp_accounting_the_error_says_how_to_get_it(monkeypatch, accountant, sampling):
    privacy.epsilons.cache_clear()
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError) as raised:
        epsilons(1.0, sampling, DELTA, accountant)
    assert str(raised.value) == (
        "this privacy account needs dp-accounting; install it by `pip install 'roundel[privacy]'`"
    )


def test_without_sampling_nothing_needs_to_be_installed(monkeypatch):
    privacy.epsilons.cache_clear()
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert epsilons(2.0, 1.0, DELTA, "pld")(10) == pytest.approx(7.511275900744784, rel=1e-12)


# ---- the ledger of a run


def plan_of(strategy: Part | Strategy, *settings: str) -> Plan:
    experiment = load_experiment(None, ["cohort.size=10", *settings])
    return Plan.of(experiment, quadratic_task(vec(0)), compose(strategy))


def ledger_of(strategy: Part | Strategy, population: int = 100) -> Ledger:
    ledger = Ledger.of(plan_of(strategy), population)
    assert ledger is not None
    return ledger


def test_a_strategy_without_a_guarantee_has_no_account():
    assert Ledger.of(plan_of(fedavg()), 100) is None
    assert Ledger.of(plan_of(dp_fedavg(noise_multiplier=0.0)), 100) is None


@pytest.mark.parametrize(
    ("part", "sampling"),
    [
        (dp_fedavg(), 0.1),
        (dp_adaptive(), 0.1),
        (dp_fedavg(sampling="fixed"), 1.0),
        (local_dp(), 1.0),
    ],
    ids=lambda value: value.name if isinstance(value, Part) else "",
)
def test_only_poisson_sampling_that_the_adversary_does_not_see_makes_it_cheaper(part, sampling):
    assert ledger_of(part).sampling == sampling


def test_sampling_counts_not_where_clients_add_the_noise():
    poisson = Part(name="p", selector=compose(dp_fedavg()).selector)
    assert ledger_of(compose(local_dp(), poisson)).sampling == 1.0


def test_everybody_takes_part_where_the_cohort_is_the_population():
    assert ledger_of(dp_fedavg(), population=10).sampling == 1.0


def test_local_noise_of_twice_the_multiplier_costs_what_noise_at_the_server_does():
    local = ledger_of(local_dp(noise_multiplier=4.0))
    central = ledger_of(dp_fedavg(noise_multiplier=2.0, sampling="fixed"))
    assert local.epsilon(10) == central.epsilon(10) == pytest.approx(7.511275900744784)


def test_a_line_says_epsilon_and_delta():
    line = ledger_of(dp_fedavg(noise_multiplier=2.0, sampling="fixed", delta=1e-5)).line(10)
    assert line == {"epsilon": pytest.approx(7.511275900744784), "delta": 1e-5}


def test_a_run_stops_before_the_budget_is_exceeded():
    part = dp_fedavg(noise_multiplier=2.0, sampling="fixed", epsilon_budget=7.52)
    ledger = ledger_of(part)
    assert ledger.epsilon(10) < 7.52 < ledger.epsilon(11)
    assert ledger.reason_to_stop(9) is None
    assert ledger.reason_to_stop(10) == (
        "one more round would raise epsilon to 7.955, above the budget of 7.52"
    )


def test_a_budget_that_does_not_reach_for_one_round_is_an_error():
    with pytest.raises(ConfigError) as raised:
        ledger_of(dp_fedavg(noise_multiplier=2.0, sampling="fixed", epsilon_budget=1.5))
    assert str(raised.value) == (
        "the budget of epsilon = 1.5 does not reach for one round, which costs 1.993; raise it, "
        "or the noise"
    )


def test_a_delta_that_allows_to_publish_a_client_is_an_error():
    ledger_of(dp_fedavg(delta=0.009))
    with pytest.raises(ConfigError) as raised:
        ledger_of(dp_fedavg(delta=0.01))
    assert str(raised.value) == (
        "strategy.delta = 0.01 is not below 1 / 100: publishing one of the 100 clients in full "
        "would satisfy it; lower it"
    )


@pytest.mark.parametrize("sampling", ["poisson", "fixed"])
def test_without_a_place_for_keys_no_round_begins_that_needs_one(sampling):
    plan = plan_of(dp_fedavg(sampling=sampling), "cohort.size=2", "evaluation.clients=0")
    server = Server(plan=plan, learner=Learner(plan.task, 0), run="r", clock=FakeClock())
    with pytest.raises(CompositionError, match="nowhere to write the key of the noise down"):
        next(server.rounds(FakeClients(one_step), server.initial_state()))


def one_step(request: TrainRequest) -> ClientUpdate:
    return replace(update(request.ticket.client_id, 1.0), ticket=request.ticket)


# ---- nothing without noise


class Normalised(nn.Module):
    """A model with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)


PLAIN = ParamSpec.of(Point(vec(1, 2)))


@pytest.mark.parametrize("part", [dp_fedavg(), dp_adaptive(), local_dp()], ids=lambda p: p.name)
def test_buffers_that_would_be_sent_are_refused(part):
    check_covered(compose(part), PLAIN)
    with pytest.raises(CompositionError) as raised:
        check_covered(compose(part, name="mine"), ParamSpec.of(Normalised()))
    assert str(raised.value) == (
        "mine adds noise to what is trained, and the model's buffer 'norm.running_mean' would be "
        "sent without; use a model without such, with GroupNorm in place of BatchNorm say, or keep "
        "normalisation at the clients"
    )


def test_counters_are_buffers_too():
    class Counting(Point):
        def __init__(self) -> None:
            super().__init__(vec(1))
            self.register_buffer("count", torch.tensor(3))

    with pytest.raises(CompositionError, match="buffer 'count' would be sent"):
        check_covered(compose(dp_fedavg()), ParamSpec.of(Counting()))


def test_buffers_that_stay_at_the_client_are_no_ones_business():
    task = Task(
        name="t",
        model=lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        loss=lambda outputs, _targets: outputs.mean(),
        metrics=lambda _outputs, _targets: {},
    )
    strategy = compose(dp_fedavg(), fedbn())
    adapted = strategy.adapted(task)
    check_covered(strategy, adapted.spec(adapted.new_model(0)))


def test_without_a_guarantee_anything_may_be_sent():
    check_covered(compose(dp_fedavg(noise_multiplier=0.0)), ParamSpec.of(Normalised()))
    check_covered(fedavg(), ParamSpec.of(Normalised()))


def test_local_noise_covers_every_vector_and_no_short_channel():
    check_covered(compose(local_dp(), scaffold()), PLAIN)
    check_covered(compose(local_dp(), fedexp()), PLAIN)  # whose norms the server computes
    with pytest.raises(CompositionError, match="adds no noise to the channel 'loss'"):
        check_covered(compose(local_dp(), first_loss()), PLAIN)


ASKING = Selector(name="asking", select=lambda _selection: [0], asks=True)


@pytest.mark.parametrize("local", [False, True])
def test_a_selector_that_asks_about_data_is_refused_whoever_brings_it(local):
    drawn = Part(name="asking", selector=ASKING)
    claims = Part(name="c", privacy=Privacy(noise_multiplier=1.0, delta=DELTA, local=local))
    with pytest.raises(CompositionError) as raised:
        check_covered(compose(claims, drawn), PLAIN)
    assert str(raised.value) == (
        "c+asking selects clients by asking, which asks them about their data, and they answer "
        "without noise; use another selector, such as uniform"
    )


def test_one_that_asks_without_saying_so_gets_no_answer():
    sly = Selector(name="sly", select=lambda selection: [int(selection.losses([0, 1])[0])])
    strategy = compose(dp_fedavg(sampling="fixed", noise="seeded"))
    plan = replace(
        plan_of(strategy, "cohort.size=2", "evaluation.clients=0"),
        strategy=replace(strategy, selector=sly),
    )
    server = Server(plan=plan, learner=Learner(plan.task, 0), run="r", clock=FakeClock())
    with pytest.raises(CompositionError, match="asks about clients whom nobody here knows"):
        next(server.rounds(FakeClients(one_step), server.initial_state()))


def test_weights_that_tell_something_about_a_client_are_refused_with_local_noise():
    (codec,) = local_dp().codecs
    privacy = Privacy(noise_multiplier=1.0, delta=DELTA, local=True)
    own = Part(name="own", codecs=(codec,), privacy=privacy)
    with pytest.raises(CompositionError, match="own weighs updates by examples, so that the model"):
        check_covered(compose(own), PLAIN)
    check_covered(compose(replace(own, weigher=EQUAL)), PLAIN)


def test_a_channel_that_no_link_adds_noise_to_is_refused_whoever_claims_a_guarantee():
    claims = Part(name="claims", privacy=Privacy(noise_multiplier=1.0, delta=DELTA))
    with pytest.raises(CompositionError, match="claims adds no noise to the channel 'params'"):
        check_covered(compose(claims), PLAIN)


def test_local_noise_comes_before_all_other_codecs():
    check_covered(compose(local_dp(), topk()), PLAIN)
    with pytest.raises(CompositionError) as raised:
        check_covered(compose(topk(), local_dp()), PLAIN)
    assert str(raised.value).endswith(
        "comes after topk, of which something may go without noise; name "
        "local_dp(noise_multiplier=1, clip_norm=0.1) first"
    )
