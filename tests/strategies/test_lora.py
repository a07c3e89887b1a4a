"""Adapters: what they compute, what of them travels, and what averaging them loses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from roundel.core.config import Experiment
from roundel.core.data import Examples
from roundel.core.errors import CompositionError, ConfigError, ParameterError
from roundel.core.history import read_history
from roundel.core.job import Phase
from roundel.core.learning import Learner
from roundel.core.modelfile import read_model
from roundel.core.seeds import isolated_rng, torch_generator
from roundel.core.task import Task
from roundel.simulations import load_model, resume, simulate
from roundel.simulations.prepare import Pieces, prepare
from roundel.simulations.replay import replay
from roundel.strategies.compose import Part, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.lora import (
    LoraLinear,
    averaged_adapter,
    averaging_error,
    fedit,
    ffa_lora,
    is_adapter,
    mean_adapter,
    stacked_adapters,
    without_adapters,
)
from tests.federations import federate
from tests.killing import killed_in
from tests.nets import labelled


class Net(nn.Module):
    """Two linear layers and something that is no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 2, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.norm(self.body(inputs)).tanh())
        return outputs


TASK = Task(name="net", model=lambda: Net().double())


def adapted(part: Part, model: nn.Module | None = None) -> nn.Module:
    assert part.model is not None
    with isolated_rng(5):
        return part.model(model or Net().double())


def trained_names(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch_generator(seed), dtype=torch.float64)


# ---- the model


def test_an_adapter_adds_a_scaled_product_to_the_frozen_weights():
    model = adapted(fedit(rank=2, alpha=3.0, dropout=0.0), nn.Linear(4, 3).double())
    assert isinstance(model, LoraLinear)
    with torch.no_grad():
        model.lora_b.copy_(draw(3, 2))
    x = draw(6, 4, seed=1)
    merged = model.weight + 3.0 / 2 * model.lora_b @ model.lora_a
    torch.testing.assert_close(model(x), functional.linear(x, merged, model.bias))


def test_gradients_are_those_of_the_merged_weights():
    # y = W' x: with G = dF/dW', the factors have scale * B' G and scale * G A'.
    model = adapted(fedit(rank=2, alpha=3.0, dropout=0.0), nn.Linear(4, 3).double())
    assert isinstance(model, LoraLinear)
    with torch.no_grad():
        model.lora_b.copy_(draw(3, 2))
    x = draw(6, 4, seed=1)
    merged = (model.weight + 1.5 * model.lora_b @ model.lora_a).detach().requires_grad_()
    functional.linear(x, merged, model.bias).square().sum().backward()
    model(x).square().sum().backward()
    assert merged.grad is not None
    torch.testing.assert_close(model.lora_a.grad, 1.5 * model.lora_b.T.detach() @ merged.grad)
    torch.testing.assert_close(model.lora_b.grad, 1.5 * merged.grad @ model.lora_a.T.detach())
    assert model.weight.grad is None


@pytest.mark.parametrize("part", [fedit(), ffa_lora()], ids=lambda part: part.name)
def test_a_new_adapter_changes_nothing(part):
    plain, x = Net().double(), draw(4, 3)
    before = plain(x)
    model = adapted(part, plain).eval()
    assert torch.equal(model(x), before)


def test_dropout_touches_what_the_adapter_is_given_and_only_in_training():
    model = adapted(fedit(rank=2, dropout=0.5), nn.Linear(4, 3).double())
    assert isinstance(model, LoraLinear)
    with torch.no_grad():
        model.lora_b.copy_(draw(3, 2))
    x = torch.ones(200, 4, dtype=torch.float64)
    plain = functional.linear(x, model.weight, model.bias)
    with isolated_rng(1):
        outputs = model.train()(x)
    # The adapter sees 0 or 2 in each of four places: 16 outputs are possible, and the mean is
    # that of evaluation.
    assert 1 < len(outputs.detach().round(decimals=9).unique(dim=0)) <= 16
    evaluated = model.eval()(x)
    assert len(evaluated.detach().round(decimals=9).unique(dim=0)) == 1
    assert not torch.allclose(evaluated, plain)


def test_names_stay_and_all_but_the_adapters_is_frozen():
    model = adapted(fedit(rank=2))
    adapters = ["body.lora_a", "body.lora_b", "head.lora_a", "head.lora_b"]
    assert trained_names(model) == adapters
    assert [n for n in model.state_dict() if is_adapter(n)] == adapters
    assert {n for n in model.state_dict() if not is_adapter(n)} == set(Net().state_dict())


def test_of_ffa_lora_only_b_is_trained():
    assert trained_names(adapted(ffa_lora(rank=2))) == ["body.lora_b", "head.lora_b"]


def test_layers_can_be_chosen_by_pattern():
    assert trained_names(adapted(fedit(modules="h*"))) == ["head.lora_a", "head.lora_b"]
    both = adapted(ffa_lora(modules=["body", "hea?"]))
    assert trained_names(both) == ["body.lora_b", "head.lora_b"]


def test_a_layer_that_stands_in_two_places_gets_one_adapter():
    shared = nn.Linear(3, 3)
    model = adapted(fedit(rank=2), nn.Sequential(shared, nn.Tanh(), shared))
    assert isinstance(model, nn.Sequential)
    assert model[0] is model[2]
    assert trained_names(model) == ["0.lora_a", "0.lora_b"]


def test_adapters_can_be_put_into_the_weights():
    model = adapted(fedit(rank=2)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(draw(*parameter.shape, seed=len(name)))
    x = draw(4, 3)
    before = model(x)
    plain = without_adapters(model)
    assert [type(part) for part in plain.children()] == [nn.Linear, nn.LayerNorm, nn.Linear]
    assert plain.state_dict().keys() == Net().state_dict().keys()
    torch.testing.assert_close(plain(x), before)


# ---- what is refused


@pytest.mark.parametrize("part", [nn.MultiheadAttention(4, 2), nn.TransformerEncoderLayer(4, 2, 8)])
def test_layers_whose_weights_are_read_without_a_call_are_refused(part):
    model = nn.ModuleDict({"attention": part, "head": nn.Linear(4, 2)})
    with pytest.raises(CompositionError) as raised:
        adapted(fedit(), model)
    assert "'attention' reads the weights of its layer 'attention." in str(raised.value) or (
        "'attention.self_attn' reads the weights of its layer" in str(raised.value)
    )
    assert trained_names(adapted(fedit(modules="head"), model)) == ["head.lora_a", "head.lora_b"]


@pytest.mark.parametrize(
    ("part", "model", "message"),
    [
        (
            fedit(),
            nn.Conv1d(1, 1, 1),
            (
                "adapters go on nn.Linear layers, and Conv1d has none; build it of some, or train "
                "all of it with fedavg"
            ),
        ),
        (
            ffa_lora(modules=["body", "*.query"]),
            Net(),
            "modules = '*.query' matches no nn.Linear of Net; it has body, head",
        ),
    ],
)
def test_a_model_without_layers_to_adapt_is_an_error(part, model, message):
    with pytest.raises(CompositionError) as raised:
        adapted(part, model)
    assert str(raised.value) == message


@pytest.mark.parametrize("make", [fedit, ffa_lora])
@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rank": 0}, "rank = 0 must be a whole number of at least 1"),
        ({"alpha": 0.0}, "alpha = 0.0 must be a finite number above 0"),
        ({"dropout": 1.0}, "dropout = 1.0 must be at least 0 and below 1"),
        ({"modules": []}, "modules names nothing; leave it out to adapt every nn.Linear"),
    ],
)
def test_knobs_out_of_range_are_refused(make, knobs: dict[str, Any], message):
    with pytest.raises(CompositionError) as raised:
        make(**knobs)
    assert str(raised.value) == message


class Doubling(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        return 2 * super().forward(input)


OWN = "a Doubling, with a forward of its own"
COMPUTED = "parametrized: its weight is computed from others"


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (lambda: Doubling(4, 4), OWN),
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), COMPUTED),
        (lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), COMPUTED),
        (lambda: torch.nn.utils.weight_norm(nn.Linear(4, 4)), COMPUTED),
    ],
)
def test_a_layer_that_computes_something_else_is_refused_unless_it_is_left_alone(layer, what):
    model = nn.Sequential(layer(), nn.Linear(4, 3))
    inputs = torch.randn(2, 4)
    before = model(inputs)
    with pytest.raises(CompositionError) as raised:
        adapted(fedit(), model)
    assert str(raised.value) == (
        f"the layer '0' is {what}, which an adapter there would not keep: choose other layers by "
        "`modules`"
    )
    after = adapted(fedit(modules="1"), model)
    torch.testing.assert_close(after.eval()(inputs), before)


def test_adapters_that_would_count_more_than_in_the_run_to_start_from_are_refused(tmp_path):
    short = ["rounds=1", "client.steps=1", "evaluation.clients=0", "cohort.size=2"]
    said = ["strategy.name=fedit", "strategy.rank=2", "strategy.alpha=4"]
    first = simulate(settings=[*short, *said], out=tmp_path / "first")
    going_on = [*short, *said, f"task.initial={first.path}"]
    assert len(simulate(settings=going_on, out=tmp_path / "second").rounds) == 1
    with pytest.raises(ConfigError) as raised:
        simulate(settings=[*going_on, "strategy.alpha=40"], out=tmp_path / "third")
    assert str(raised.value) == (
        f"task.initial = '{first.path}' has adapters that count alpha / rank = 2, and here they "
        "would count 20, so that training would start from another model: set strategy.alpha and "
        "strategy.rank as there"
    )
    # A file does not say, and neither does a run whose strategy was an object.
    file = f"task.initial={first.path}/model.safetensors"
    simulate(settings=[*going_on, "strategy.alpha=40", file], out=tmp_path / "third")
    pieces = Pieces(strategy=compose(fedit(rank=2, alpha=4)))
    given = simulate(settings=short, pieces=pieces, out=tmp_path / "given")
    again = [*going_on, "strategy.alpha=40", f"task.initial={given.path}"]
    simulate(settings=again, out=tmp_path / "fourth")


def test_the_model_of_a_strategy_that_was_an_object_comes_back_with_the_same_one(tmp_path):
    strategy = compose(fedit(rank=2))
    short = ["rounds=1", "client.steps=1", "evaluation.clients=0", "cohort.size=2"]
    run = simulate(settings=short, pieces=Pieces(strategy=strategy), out=tmp_path / "run")
    with pytest.raises(ParameterError) as raised:
        load_model(run.path)
    assert str(raised.value) == (
        f"the model in {run.path} is not one of the task 'digits' alone, and the strategy was "
        "given as an object, which no file can hold; give the same one in Python, as "
        "load_model(run, strategy=...)"
    )
    model = load_model(run.path, strategy=strategy)
    final = read_model(run.path)
    assert set(final) == set(model.state_dict())
    assert all(torch.equal(value, final[name]) for name, value in model.state_dict().items())


def test_two_kinds_of_adapters_are_refused():
    with pytest.raises(CompositionError, match="both put adapters on the model's layers"):
        compose(fedit(), ffa_lora())


# ---- federations


@pytest.mark.parametrize("make", [fedit, ffa_lora])
def test_gradients_are_limited_unless_the_experiment_does_so(make):
    phases = compose(make(clip_norm=0.5)).phases([Phase(), Phase(clip_norm=2.0)])
    assert [phase.clip_norm for phase in phases] == [0.5, 2.0]
    with pytest.raises(CompositionError, match="clip_norm = 0 must be a finite number above 0"):
        make(clip_norm=0)


@pytest.mark.parametrize(
    ("part", "numbers"),
    [
        # Rank 2: A of 2 x 3 and 2 x 5, B of 5 x 2 and 2 x 2.
        (fedit(rank=2, dropout=0.0), 6 + 10 + 10 + 4),
        (ffa_lora(rank=2, dropout=0.0), 10 + 4),
    ],
    ids=["fedit", "ffa_lora"],
)
def test_only_adapters_travel_and_only_they_move(part, numbers, tmp_path):
    clients = [labelled(1), labelled(2, count=12)]
    settings = {"rounds": 2, "steps": 3, "lr": 0.5, "batch_size": "full"}
    ran = federate(tmp_path, compose(fedavg(), part), TASK, clients, **settings)
    assert ran.history.series("bytes_up") == [2 * numbers * 8] * 2
    assert ran.history.series("bytes_down") == [2 * numbers * 8] * 2
    fresh = compose(part).adapted(TASK).new_model(0).state_dict()
    base = TASK.new_model(0).state_dict()
    for name, value in ran.model.items():
        if name.endswith("lora_b") or (part.name == "fedit" and name.endswith("lora_a")):
            assert not torch.equal(value, fresh[name])
        else:
            assert torch.equal(value, fresh[name])
        if name in base:
            assert torch.equal(value, base[name])


def trained_alone(state: dict[str, Tensor], examples: Examples, names: list[str]) -> None:
    """Take three full-batch steps of 0.5 along gradients of norm 1 at most, in place."""
    for _ in range(3):
        leaves = {n: v.clone().requires_grad_(n in names) for n, v in state.items()}

        def layer(name: str, x: Tensor) -> Tensor:
            change = leaves[f"{name}.lora_b"] @ leaves[f"{name}.lora_a"]  # noqa: B023
            return x @ (leaves[f"{name}.weight"] + 16.0 / 2 * change).T  # noqa: B023

        inside = layer("body", examples.inputs) + leaves["body.bias"]
        normed = functional.layer_norm(inside, (5,))
        outputs = layer("head", normed.tanh())
        loss = functional.cross_entropy(outputs, examples.targets)
        gradients = torch.autograd.grad(loss, [leaves[name] for name in names])
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for name, gradient in zip(names, gradients, strict=True):
            state[name].sub_(0.5 * gradient / norm.clamp(min=1.0))


@pytest.mark.parametrize(
    ("part", "factors"),
    [(fedit(rank=2, dropout=0.0), "ab"), (ffa_lora(rank=2, dropout=0.0), "b")],
    ids=["fedit", "ffa_lora"],
)
def test_a_federation_is_what_loops_on_the_formulas_give(part, factors, tmp_path):
    clients = [labelled(1), labelled(2, count=12)]
    settings = {"rounds": 2, "steps": 3, "lr": 0.5, "batch_size": "full"}
    ran = federate(tmp_path, compose(fedavg(), part), TASK, clients, **settings)
    state = dict(compose(part).adapted(TASK).new_model(0).state_dict())
    names = [f"{layer}.lora_{factor}" for layer in ("body", "head") for factor in factors]
    for _ in range(2):
        ends = [{name: value.clone() for name, value in state.items()} for _ in clients]
        for end, examples in zip(ends, clients, strict=True):
            trained_alone(end, examples, names)
        for name in names:
            state[name] = (6 * ends[0][name] + 12 * ends[1][name]) / 18
    for name in names:
        torch.testing.assert_close(ran.model[name], state[name])


def test_parameters_to_start_from_need_no_adapters_and_may_bring_them(tmp_path):
    learner = Learner(compose(fedit(rank=2)).adapted(TASK), seed=0)
    drawn = learner.initial.clone()
    with isolated_rng(9):
        base = Net().double().state_dict()
    learner.start_from(base, "a file")
    assert torch.equal(learner.model.state_dict()["body.weight"], base["body.weight"])
    assert torch.equal(learner.initial, drawn)
    all_of_it = {name: value + 1 for name, value in learner.model.state_dict().items()}
    learner.start_from(all_of_it, "another file")
    assert torch.equal(learner.initial, drawn + 1)


def test_runs_with_other_frozen_weights_have_other_fingerprints():
    def fingerprint(seed: int) -> str:
        def model() -> nn.Module:
            with isolated_rng(seed):
                return Net().double()

        task = Task(name="net", model=model, load=lambda _path: labelled(1, count=200))
        pieces = Pieces(task=task, strategy=compose(fedit()))
        return prepare(Experiment.model_validate({}), pieces).fingerprint

    assert fingerprint(1) == fingerprint(1)
    assert fingerprint(1) != fingerprint(2)


# ---- a transformer that has learned something, adapted


SETTINGS = [
    "task.name=characters",
    "task.model=transformer",
    "task.window=20",
    "partition.kind=natural",
    "cohort.size=2",
    "client.optimizer=adam",
    "client.batch_size=32",
    "evaluation.clients=0",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("base") / "run"
    settings = [*SETTINGS, "rounds=2", "client.steps=6", "client.lr=0.005", "evaluation.every=2"]
    return simulate(settings=settings, out=out).path


def adapting(base: Path, name: str) -> list[str]:
    return [
        *SETTINGS,
        f"task.initial={base}",
        f"strategy.name={name}",
        "strategy.rank=4",
        "rounds=3",
        "client.steps=4",
        "client.lr=0.01",
        "checkpoint.every_s=0",
        "evaluation.every=3",
    ]


# Two blocks of four layers of 64 x 64, one of 256 x 64 and one of 64 x 256; one of 97 x 64.
FACTOR_A = 2 * (4 * 64 + 64 + 256) + 64
FACTOR_B = 2 * (4 * 64 + 256 + 64) + 97


@pytest.mark.parametrize(
    ("name", "numbers"), [("fedit", 4 * (FACTOR_A + FACTOR_B)), ("ffa_lora", 4 * FACTOR_B)]
)
def test_a_transformer_learns_on_by_its_adapters_alone(base, name, numbers, tmp_path):
    settings = adapting(base, name)
    run = simulate(settings=settings, out=tmp_path / "whole")
    pretrained = read_model(base)
    final = load_file(tmp_path / "whole" / "model.safetensors")
    assert run.series("bytes_up") == run.series("bytes_down") == [2 * numbers * 4] * 3
    assert all(torch.equal(final[n], value) for n, value in pretrained.items())
    assert final.keys() - pretrained.keys() == {n for n in final if is_adapter(n)}
    assert run.rounds[-1]["loss"] < read_history(base).rounds[-1]["loss"]
    # The model comes back from its directory as it was judged.
    model = load_model(run.path)
    assert sum(isinstance(part, LoraLinear) for part in model.modules()) == 2 * 6 + 1
    assert set(final) == set(model.state_dict())


@pytest.mark.slow
def test_a_run_with_adapters_goes_on_and_is_replayed_with_the_same_bits(base, tmp_path):
    settings = adapting(base, "fedit")
    run = simulate(settings=settings, out=tmp_path / "whole")

    with killed_in(2) as die:
        simulate(settings=settings, out=tmp_path / "run", on_round=die)
    assert resume(tmp_path / "run").hashes == run.hashes
    final, resumed = (load_file(tmp_path / out / "model.safetensors") for out in ("whole", "run"))
    assert all(torch.equal(resumed[name], value) for name, value in final.items())
    client = next(line["client"] for line in run.clients() if line["round"] == 3)
    assert replay(run.path, 3, client).matches


# ---- what averaging factors loses


def test_the_mean_of_factors_is_not_the_factor_of_the_mean():
    # B A = [2] and [12], mean 7; mean B = 2, mean A = 3: 6; off by 1.
    factors_b = [torch.tensor([[1.0]]), torch.tensor([[3.0]])]
    factors_a = [torch.tensor([[2.0]]), torch.tensor([[4.0]])]
    assert mean_adapter(factors_b, factors_a, [1, 1]).tolist() == [[7.0]]
    assert averaged_adapter(factors_b, factors_a, [1, 1]).tolist() == [[6.0]]
    assert averaging_error(factors_b, factors_a, [1, 1]).tolist() == [[1.0]]
    # With weights 3 and 1: (3 * 2 + 12) / 4 = 4.5 and 1.5 * 2.5 = 3.75.
    assert averaging_error(factors_b, factors_a, [3, 1]).tolist() == [[0.75]]


def test_with_one_a_nothing_is_lost():
    factors_b, a = [draw(4, 2, seed=k) for k in range(3)], draw(2, 5)
    error = averaging_error(factors_b, [a] * 3, [1, 5, 2])
    torch.testing.assert_close(error, torch.zeros(4, 5, dtype=torch.float64))


def test_stacked_factors_of_any_ranks_are_exact():
    ranks, weights = (1, 3, 2), (2.0, 5.0, 1.0)
    factors_b = [draw(4, rank, seed=rank) for rank in ranks]
    factors_a = [draw(rank, 5, seed=10 + rank) for rank in ranks]
    stacked_b, stacked_a = stacked_adapters(factors_b, factors_a, weights)
    assert (stacked_b.shape, stacked_a.shape) == ((4, 6), (6, 5))
    mean = torch.zeros(4, 5, dtype=torch.float64)
    for b, a, weight in zip(factors_b, factors_a, weights, strict=True):
        mean += weight / 8 * b @ a
    torch.testing.assert_close(stacked_b @ stacked_a, mean)
    torch.testing.assert_close(mean_adapter(factors_b, factors_a, weights), mean)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0]])
def test_weights_that_do_not_fit_are_refused(weights):
    factors = [torch.ones(1, 1)] * 2
    with pytest.raises(ValueError, match="weight"):
        mean_adapter(factors, factors, weights)
