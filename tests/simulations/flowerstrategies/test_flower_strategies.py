"""Strategies of Flower's among ours: by name, with knobs, in runs and comparisons."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from roundel.core import flowerversion
from roundel.core.comparisonfile import Said, load_comparison
from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.errors import CompositionError, ConfigError, RoundelError, RunFailed
from roundel.core.history import read_history
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS, ClientUpdate
from roundel.core.metrics import Metrics
from roundel.core.params import ParamSpec
from roundel.server.aggregation import ServerState, aggregate_updates, initial_state
from roundel.simulations.compare import compare
from roundel.simulations.prepare import prepare
from roundel.simulations.registration import own_functions, registration
from roundel.simulations.simulate import resume, simulate
from roundel.strategies import registry
from roundel.strategies.registry import make_strategy, settled
from tests.server.toys import Toy, ticket_of

SETTINGS = ["partition.clients=6", "cohort.size=3", "client.steps=1", "evaluation.clients=0"]
SPEC = ParamSpec.of(Toy())  # a float buffer, two weights, a counter
WIDE = ParamSpec.of(torch.nn.Linear(3, 4, dtype=torch.float64))


def make(name, **knobs):
    return make_strategy(name, knobs)


def update(client, round, spec, loss=1.0, channels=None):
    generator = torch.Generator().manual_seed(100 * round + client)
    size = spec.shared_trainable.stop - spec.shared_trainable.start
    delta = torch.randn(size, generator=generator, dtype=spec.dtype)
    return ClientUpdate(
        ticket=ticket_of(client, round=round),
        base_version=round - 1,
        num_examples=1 + client,
        num_steps=1,
        channels={PARAMS: delta, **(channels or {})},
        metrics=Metrics({"loss": loss * 10, "accuracy": 5.0}, 10),
    )


def after(strategy, rounds, spec=WIDE, clients=range(7)) -> ServerState:
    """Return the state after some rounds of drawn updates."""
    vector = torch.linspace(-1, 1, spec.size, dtype=spec.dtype)
    state = initial_state(strategy, spec, vector, torch.zeros(spec.integer_size, dtype=torch.int64))
    for _ in range(rounds):
        updates = [update(client, state.round + 1, spec) for client in clients]
        state = aggregate_updates(strategy, spec, state, updates, population=20)
    return state


def toy_round(strategy, updates, **more):
    """Return the state after one round from (mean, w0, w1) = (10, 1, 2) and the counter 3."""
    vector, integers = SPEC.read(Toy())
    state = initial_state(strategy, SPEC, vector, integers)
    return aggregate_updates(strategy, SPEC, state, updates, population=4, **more)


def toy_update(client, delta, mean, count):
    channels = {
        PARAMS: torch.tensor(delta),
        BUFFERS: torch.tensor([mean]),
        INTEGERS: torch.tensor([count]),
    }
    return update(client, 1, SPEC, channels=channels)


# ---- the same as ours, where the definitions are the same

ADAPTIVE = {"v_init": 0.0, "tau": 0.01}


@pytest.mark.parametrize(
    ("flowers", "knobs", "ours", "own"),
    [
        ("FedAvg", {}, "fedavg", {}),
        ("FedProx", {"proximal_mu": 0.1}, "fedprox", {"mu": 0.1}),
        ("FedAvgM", {"server_momentum": 0.9}, "fedavgm", {"momentum": 0.9}),
        (
            "FedAdam",
            {"tau": 0.01},
            "fedadam",
            {**ADAPTIVE, "bias_correction": "flower"},
        ),
        ("FedYogi", {"tau": 0.01, "eta": 0.1}, "fedyogi", ADAPTIVE),
        ("FedAdagrad", {"tau": 0.01}, "fedadagrad", ADAPTIVE),
        ("FedMedian", {}, "median", {}),
        ("FedTrimmedAvg", {"beta": 0.3}, "trimmed_mean", {"fraction": 0.3}),
        ("Krum", {"num_malicious_nodes": 1}, "krum", {"f": 1}),
        (
            "MultiKrum",
            {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
            "multi_krum",
            {"f": 1, "m": 3, "convention": "flower"},
        ),
        ("Bulyan", {"num_malicious_nodes": 1}, "bulyan", {"f": 1, "selection": "one-shot"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_strategy_of_flowers_moves_the_model_as_ours_of_the_same_definition(
    flowers, knobs, ours, own
):
    one, other = after(make(f"flower:{flowers}", **knobs), 3), after(make(ours, **own), 3)
    torch.testing.assert_close(one.params, other.params, rtol=1e-9, atol=1e-12)


def test_buffers_are_averaged_and_counters_are_cut_to_whole_numbers():
    updates = [toy_update(0, [1.0, 0.0], 4.0, 5), toy_update(1, [4.0, 3.0], 1.0, 10)]
    state = toy_round(make("flower:FedAvg"), updates)  # weights 1 and 2
    assert state.params.tolist() == pytest.approx([12.0, 4.0, 4.0])
    assert state.integers.tolist() == [8]  # of 8.33


def test_a_server_optimizer_of_flowers_moves_buffers_too():
    updates = [toy_update(client, [1.0, 1.0], 4.0, 3) for client in (0, 1)]
    state = toy_round(make("flower:FedAdagrad", tau=1.0, eta=0.5), updates)
    # eta d / (|d| + tau): 0.5 * 1 / 2 for weights, 0.5 * 4 / 5 for the buffer
    assert state.params.tolist() == pytest.approx([10.4, 1.25, 2.25])


def test_num_examples_may_have_another_name():
    updates = [toy_update(0, [1.0, 0.0], 0.0, 3), toy_update(1, [4.0, 0.0], 0.0, 3)]
    state = toy_round(make("flower:FedAvg", weighted_by_key="num-rows"), updates)
    assert state.params.tolist() == pytest.approx([10.0, 4.0, 2.0])


def test_it_may_weigh_by_what_clients_report():
    updates = [update(c, 1, WIDE, loss=loss) for c, loss in enumerate([1.0, 3.0])]
    made = make("flower:FedAvg", weighted_by_key="train_loss")
    vector = torch.zeros(WIDE.size, dtype=torch.float64)
    state = initial_state(made, WIDE, vector, torch.zeros(0, dtype=torch.int64))
    state = aggregate_updates(made, WIDE, state, updates, population=4)
    wanted = 0.25 * updates[0].channels[PARAMS] + 0.75 * updates[1].channels[PARAMS]
    torch.testing.assert_close(state.params, wanted)


def test_qfedavg_takes_the_mean_loss_during_training_for_that_of_the_model():
    line = ParamSpec.of(torch.nn.Linear(1, 1))
    updates = [
        replace(update(client, 1, line), channels={PARAMS: torch.tensor([1.0, 0.0])})
        for client in (0, 1)
    ]
    made = make("flower:QFedAvg", client_learning_rate=0.5, q=1.0)
    state = initial_state(made, line, torch.zeros(2), torch.zeros(0, dtype=torch.int64))
    state = aggregate_updates(made, line, state, updates, population=4)
    # L = 2, gradient = -L d = -2, loss 1: each adds -2 above and 4 + 2 below
    assert state.params.tolist() == pytest.approx([1 / 3, 0.0])


def test_a_wrapper_of_flowers_names_what_it_wraps():
    knobs = {"noise_multiplier": 0.0, "clipping_norm": 1000.0, "num_sampled_clients": 7}
    name = "flower:DifferentialPrivacyServerSideFixedClipping"
    plain = after(make("fedavg"), 2).params
    wrapped = make(name, strategy="FedAvg", **knobs)
    torch.testing.assert_close(after(wrapped, 2).params, plain)
    inner = {"name": "flower:FedProx", "proximal_mu": 0.5}
    assert make(name, strategy=inner, **knobs).pull == 0.5
    with pytest.raises(ConfigError, match=r"strategy.strategy = 'flower:os:abort' is unknown"):
        make(name, strategy="os:abort", **knobs)
    with pytest.raises(ConfigError, match=r"strategy.strategy.beta is not a knob of flower:FedAvg"):
        make(name, strategy={"name": "FedAvg", "beta": 1}, **knobs)


# ---- clients


def test_clients_are_pulled_to_the_model_if_the_strategy_says_so():
    assert make("flower:FedProx", proximal_mu=0.25).pull == 0.25
    assert make("flower:FedAvg").corrections == ()
    assert make("flower:FedProx", proximal_mu=0.5, min_available_nodes=200).pull == 0.5


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"key": "lr"}, r"tells clients lr = 0\.25, and here they train as the experiment says"),
        ({"key": "proximal-mu", "since": 2}, r"proximal-mu = 0\.25, and told them 0\.0 when"),
    ],
)
def test_a_setting_that_our_clients_would_not_obey_is_refused(knobs, why):
    with pytest.raises(RoundelError, match=why):
        after(make("tests.flowers:Decaying", **knobs), 2)


def test_dropped_clients_are_errors_and_those_who_were_not_asked_do_not_count():
    made = make("flower:FedAvg")
    updates = [toy_update(client, [1.0, 1.0], 0.0, 3) for client in (2, 5)]
    state = toy_round(made, updates, cohort=[2, 3, 5])
    assert state.params.tolist() == pytest.approx([10.0, 2.0, 3.0])
    half = make("flower:FedAvg", fraction_train=0.5, min_train_nodes=1)
    updates = [toy_update(client, [float(client), 0.0], 0.0, 3) for client in (0, 1)]
    found = {round(toy_round(half, updates, seed=s).params[1].item()) for s in range(8)}
    assert found == {1, 2}  # one of the two, by the round's seed


def test_a_round_that_nobody_answers_moves_nothing():
    state = toy_round(make("flower:FedAvg"), [])
    assert state.params.tolist() == [10.0, 1.0, 2.0]
    assert state.integers.tolist() == [3]


# ---- what it remembers


def test_rounds_depend_on_the_state_alone_and_not_on_who_computed_them():
    end = after(make("tests.flowers:Momentum"), 4)
    state = after(make("tests.flowers:Momentum"), 2)
    fresh = make("tests.flowers:Momentum")
    for number in (3, 4):
        updates = [update(client, number, WIDE) for client in range(7)]
        state = aggregate_updates(fresh, WIDE, state, updates, population=20)
    assert torch.equal(state.params, end.params)


def test_what_cannot_be_written_down_is_kept_and_cannot_be_gone_back_to():
    made = make("tests.flowers:Locked")
    end = after(made, 3)
    assert torch.equal(end.params, after(make("tests.flowers:Momentum"), 3).params)
    assert made.missing(end.transforms) == "Locked.lock is a _thread.lock"
    with pytest.raises(RunFailed, match=r"in round 4 .*: Locked.lock is a _thread.lock; begin a"):
        aggregate_updates(
            make("tests.flowers:Locked"), WIDE, end, [update(0, 4, WIDE)], population=20
        )


@pytest.mark.parametrize(
    ("how", "added", "opaque"),
    [
        ("method", [1.0, 2.0, 3.0], False),
        ("closure", [1.0, 2.0, 3.0], True),
        ("schedule", [0.5, 0.25, 0.125], True),
    ],
)
def test_what_callables_remember_is_not_thrown_away_between_rounds(how, added, opaque):
    made = make("tests.flowers:Calling", how=how, beta=0.0)
    plain = make("tests.flowers:Momentum", beta=0.0)
    for rounds in (1, 2, 3):
        moved = after(made, rounds).params - after(plain, rounds).params
        torch.testing.assert_close(moved, torch.full_like(moved, sum(added[:rounds])))
    assert bool(made.missing(after(made, 2).transforms)) is opaque


def test_an_opaque_strategy_goes_on_after_a_round_that_nobody_answered():
    made = make("tests.flowers:Locked")
    state = after(made, 1)
    for number, clients in ((2, []), (3, [0, 1])):
        updates = [update(client, number, WIDE) for client in clients]
        state = aggregate_updates(made, WIDE, state, updates, population=20)
    assert state.round == 3


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "knobs", "why"),
    [
        ("flower:Krumm", {}, "'flower:Krumm' is unknown; did you mean 'flower:Krum'"),
        ("flower:FedXgbCyclic", {}, "joins trees"),
        ("flower:Strategy", {}, "is unknown"),
        ("flower:Krum", {"num_malicious": 1}, "did you mean 'num_malicious_nodes'"),
        ("flower:Krum", {"num_malicious_nodes": "x"}, "does not fit: Input should be a valid int"),
        ("flower:FedAvg", {"train_metrics_aggr_fn": "f"}, "is not a knob of flower:FedAvg"),
        ("flower:QFedAvg", {}, "needs strategy.client_learning_rate"),
        ("flower:FedTrimmedAvg", {"beta": 0.5}, r"flower:FedTrimmedAvg: `beta` must be in"),
        ("tests.flowers:Momentum", {"fraction": 1}, "did you mean 'fraction_train'"),
        ("tests.flowers:Momentun", {}, "did you mean 'Momentum'"),
        ("tests.flowers:FedMedian", {}, "is a class of 'flwr.serverapp.strategy.fedmedian'"),
        ("tests.flowers:Looping", {}, "has a method start of its own"),
        ("tests.flowers:Older", {}, "older interface"),
        (
            "flower:DifferentialPrivacyClientSideFixedClipping",
            {
                "strategy": "FedAvg",
                "noise_multiplier": 0.1,
                "clipping_norm": 1.0,
                "num_sampled_clients": 3,
            },
            "tells clients clipping_norm = 1.0",
        ),
    ],
)
def test_what_cannot_be_a_strategy_here_is_refused_in_a_sentence(name, knobs, why):
    with pytest.raises(RoundelError, match=why):
        make(name, **knobs)


@pytest.mark.parametrize("name", ["tests.flowers:Waiting", "flower:FedAvg"])
def test_a_strategy_that_would_wait_for_more_clients_is_refused_before_the_run(name):
    knobs = ["strategy.min_available_nodes=4"] if name.startswith("flower") else []
    experiment = load_experiment(None, [*SETTINGS, f"strategy.name={name}", *knobs])
    with pytest.raises(CompositionError, match=r"cohort.size = 3 is too small.*than the 3 clients"):
        prepare(experiment)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("sends", "sends messages by itself"),
        ("scales", "sends other arrays than the model in round 1"),
        ("stranger", "asks the node 7 in round 1, which is not in the cohort"),
        ("twice", "in round 1, twice"),
        ("query", "asks for 'query' in round 1"),
    ],
)
def test_messages_that_our_clients_cannot_answer_are_refused(how, why):
    with pytest.raises(RoundelError, match=why):
        after(make("tests.flowers:Asking", how=how), 1)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("none", r"made no arrays of the 3 replies of round 2: nobody is trusted; without"),
        ("raises", r"round 2 by tests.flowers:Broken failed: KeyError: 'lost' \(.*flowers.py:\d"),
        ("name", r"returned the arrays \['bias', 'other'\] in round 2.*has \['bias', 'weight'\]"),
        ("shape", r"returned 'weight' of shape \(17,\) in round 2"),
        ("infinite", r"returned 'weight' in round 2 with something that is no finite number"),
    ],
)
def test_an_aggregate_that_is_no_model_ends_the_run_in_a_sentence(tmp_path, how, why):
    knobs = ["strategy.name=tests.flowers:Broken", f"strategy.how={how}", "task.name=linear"]
    with pytest.raises(RunFailed) as caught:
        simulate(load_experiment(None, [*SETTINGS, *knobs, "rounds=2"]), out=tmp_path / "run")
    assert len(read_history(tmp_path / "run").rounds) == 1
    assert re.search(why, str(caught.value).partition("\n")[0]), str(caught.value)


def test_an_aggregate_without_metrics_will_do():
    assert after(make("tests.flowers:Broken", how="alone"), 2).round == 2


@pytest.mark.parametrize("other", ["fedadam", "krum", "scaffold", "nnm", "dp_fedavg", "fltrust"])
def test_nothing_else_of_a_server_goes_with_it(other):
    for name, part in (("flower:FedAvg", other), (other, "flower:FedAvg")):
        with pytest.raises(CompositionError, match="cannot be combined"):
            make_strategy(name, {}, [part])


def test_what_works_at_clients_goes_with_it():
    made = make_strategy("flower:Krum", {}, ["prox", "topk", "round_robin"])
    assert made.pull == 0.01


def test_without_flower_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(registry, "installed", lambda: None)
    with pytest.raises(ConfigError, match=r"need flwr 1.41.*, which is missing; inst"):
        make("flower:FedAvg")
    assert flowerversion.installed() is not None


# ---- knobs


def test_knobs_of_a_base_class_are_knobs_and_what_no_file_holds_is_not():
    said = settled(
        Experiment.model_validate({"strategy": {"name": "tests.flowers:Momentum"}}).strategy
    )
    assert said.knobs == {
        "beta": 0.5,
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        "min_train_nodes": 2,
        "min_evaluate_nodes": 2,
        "min_available_nodes": 2,
        "weighted_by_key": "num-examples",
        "arrayrecord_key": "arrays",
        "configrecord_key": "config",
    }


# ---- whole runs


def hashes(path):
    return [line["params_sha256"] for line in read_history(path).rounds]


def experiment(name, *settings):
    return load_experiment(None, [*SETTINGS, f"strategy.name={name}", "rounds=3", *settings])


def test_any_number_of_workers_computes_the_same_bits(tmp_path):
    for workers in (1, 2):
        said = experiment("tests.flowers:Momentum", f"engine.workers={workers}")
        simulate(said, out=tmp_path / str(workers))
    one, two = (hashes(tmp_path / str(workers)) for workers in (1, 2))
    assert one == two
    assert all(a != b for a, b in pairwise(one))


@pytest.mark.parametrize(("name", "again"), [("Momentum", []), ("Locked", [1, 2])])
def test_an_interrupted_run_goes_on_or_begins_anew(tmp_path, name, again):
    said = experiment(f"tests.flowers:{name}", "checkpoint.every_s=0")
    simulate(said, out=tmp_path / "whole")

    def interrupt(report):
        if report.record.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(said, out=tmp_path / "cut", on_round=interrupt)
    computed_again = []

    def note(report):
        if report.recomputed:
            computed_again.append(report.record.round)

    resume(tmp_path / "cut", on_round=note)
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")
    assert computed_again == (again or [2])


def test_a_comparison_with_flowers_strategies(tmp_path):
    arms = ["fedavg", "flower:FedAvg", "tests.flowers:Momentum beta=0.9"]
    said = Said(arms=arms, settings=[*SETTINGS, "rounds=2"], seeds="2")
    path = compare(load_comparison(None, said), out=tmp_path / "three", workers=1)
    runs = sorted(run.parent.name for run in path.glob("cells/*/seed-0"))
    assert runs == ["fedavg", "flower-fedavg", "tests.flowers-momentum-beta=0.9"]
    for seed in (0, 1):
        ours, flowers, users = (
            [
                round_["accuracy"]
                for round_ in read_history(path / f"cells/{arm}/seed-{seed}").rounds
            ]
            for arm in runs
        )
        assert ours == flowers
        assert users != ours
    environment = json.loads((path / "cells/flower-fedavg/seed-0/environment.json").read_text())
    assert environment["flwr"] == flowerversion.installed()
    plain = json.loads((path / "cells/fedavg/seed-0/environment.json").read_text())
    assert "flwr" not in plain


def test_a_factory_of_the_users_own_gives_a_wrapped_strategy(tmp_path):
    simulate(experiment("tests.flowers:private"), out=tmp_path / "private")
    simulate(experiment("fedavg"), out=tmp_path / "plain")
    one, other = (read_history(tmp_path / name).rounds[-1]["loss"] for name in ("private", "plain"))
    assert np.isclose(one, other, rtol=1e-6)


def test_nodes_tell_which_flower_they_have_and_need_allow_only_what_is_the_users_own():
    said = json.loads(registration(prepare(experiment("flower:FedAvg"))))
    assert own_functions(experiment("flower:FedAvg")) == []
    assert own_functions(experiment("tests.flowers:Momentum")) == ["tests.flowers:Momentum"]
    assert f"flwr {flowerversion.installed()}" in json.dumps(said)
