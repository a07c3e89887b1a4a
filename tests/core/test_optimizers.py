"""Client optimizers over slices of the flat vector."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roundel.core.data import Examples
from roundel.core.errors import ConfigError
from roundel.core.job import LocalContext, LocalJob, Phase
from roundel.core.learning import Learner
from roundel.core.optimizers import OptimizerSpec, Option, as_pieces
from roundel.core.params import ParamSpec
from roundel.core.seeds import torch_generator
from roundel.core.task import Task

OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
)
MATRICES_ONLY = {"Muon"}
SPARSE_ONLY = {"SparseAdam"}


def matrices() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False))


def with_biases() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def learn(model: Any, optimizer: OptimizerSpec) -> tuple[float, float]:
    """Train on 8 separable examples; return the loss before and after."""
    generator = torch_generator(0)
    inputs = torch.randn(8, 3, generator=generator)
    examples = Examples(inputs, (inputs[:, 0] > 0).long())
    learner = Learner(Task(name="toy", model=model), seed=0)
    trained = learner.train(
        LocalJob(
            context=LocalContext(spec=learner.spec, sent=learner.initial),
            integers=learner.initial_integers,
            examples=examples,
            phases=[Phase(optimizer=optimizer, epochs=None, steps=5, batch_size=None)],
        )
    )
    before, after = (
        learner.evaluate(vector, learner.initial_integers, examples).means()["loss"]
        for vector in (learner.initial, trained.vector)
    )
    return before, after


def test_torch_has_the_optimizers_that_this_file_knows() -> None:
    assert {"SGD", "Adam", "AdamW", "LBFGS", "RMSprop"} <= set(OPTIMIZERS)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in SPARSE_ONLY])
def test_every_optimizer_of_torch_trains_a_small_model(name: str) -> None:
    model = matrices if name in MATRICES_ONLY else with_biases
    before, after = learn(model, OptimizerSpec(name=name, lr=0.02))
    assert after < before


@pytest.mark.parametrize("name", sorted(MATRICES_ONLY & set(OPTIMIZERS)))
def test_an_optimizer_of_matrices_refuses_a_bias_and_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' refuses its options: .*2D parameters"):
        learn(with_biases, OptimizerSpec(name=name, lr=0.02))


def test_an_optimizer_of_sparse_gradients_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"'SparseAdam' takes sparse gradients.*use 'adam'"):
        OptimizerSpec(name="SparseAdam")


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (OptimizerSpec(name="SGD"), {}),
        (OptimizerSpec(name="SGD", momentum=0.9), {"momentum": 0.9}),
        (
            OptimizerSpec(name="SGD", momentum=0.9, nesterov=True, weight_decay=0.01),
            {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        ),
        (
            OptimizerSpec(name="SGD", momentum=0.5, options={"dampening": 0.25}),
            {"momentum": 0.5, "dampening": 0.25},
        ),
        (OptimizerSpec(name="Adam"), {}),
        (
            OptimizerSpec(name="Adam", weight_decay=0.01, options={"betas": [0.8, 0.9]}),
            {"weight_decay": 0.01, "betas": (0.8, 0.9)},
        ),
        (OptimizerSpec(name="Adam", options={"amsgrad": True}), {"amsgrad": True}),
        (OptimizerSpec(name="AdamW", weight_decay=0.1), {"weight_decay": 0.1}),
        (OptimizerSpec(name="RMSprop", momentum=0.9), {"momentum": 0.9}),
        (OptimizerSpec(name="AdamW"), {"weight_decay": 0.0}),
        (OptimizerSpec(name="AdamW", weight_decay=0.2), {"weight_decay": 0.2}),
        *[
            (OptimizerSpec(name=name), {})
            for name in [
                "Adamax",
                "NAdam",
                "RAdam",
                "Adagrad",
                "Adadelta",
                "Rprop",
                "ASGD",
            ]
        ],
        *[(OptimizerSpec(name=name, lr=0.01), {}) for name in ["Adafactor", "LBFGS"]],
    ],
    ids=lambda value: value.name if isinstance(value, OptimizerSpec) else str(value),
)
def test_pieces_of_the_vector_move_as_the_models_own_tensors_would(
    spec: OptimizerSpec, options: Mapping[str, Any]
) -> None:
    model = with_biases()
    layout = ParamSpec.of(model)
    vector, _ = layout.read(model)
    names = [entry.name for entry in layout.entries]
    parts = spec.pieces(layout, names)
    pieces = as_pieces(vector, parts)
    ours = spec.build(pieces)
    own = dict(model.named_parameters())
    theirs = getattr(torch.optim, spec.name)(list(own.values()), lr=spec.lr, **options)
    generator = torch_generator(1)

    for _ in range(5):
        gradient = torch.randn(layout.size, generator=generator)

        def piecewise(gradient: Tensor = gradient) -> Tensor:
            for piece, (where, shape) in zip(pieces, parts, strict=True):
                piece.grad = gradient[where].view(shape).clone()
            return gradient.sum()

        def tensorwise(gradient: Tensor = gradient) -> Tensor:
            for name, view in layout.views(gradient).items():
                own[name].grad = view.clone()
            return gradient.sum()

        ours.step(piecewise)
        theirs.step(tensorwise)

    assert torch.allclose(vector, layout.read(model)[0], rtol=0, atol=1e-6)
    if spec.name == "SGD":
        assert torch.equal(vector, layout.read(model)[0])


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd", "adam"])
def test_nothing_decays_unless_the_experiment_says_so(name: str) -> None:
    def after(**more: Any) -> list[list[float]]:
        piece = nn.Parameter(torch.ones(2, 2))
        piece.grad = torch.zeros(2, 2)
        OptimizerSpec(name=name, lr=0.5, **more).build([piece]).step(lambda: torch.zeros(()))
        return piece.tolist()

    assert after() == [[1, 1], [1, 1]]
    assert after(options={"weight_decay": 0.5}) != [[1, 1], [1, 1]]
    assert after(weight_decay=0.5) == after(options={"weight_decay": 0.5})


def test_an_elementwise_optimizer_gets_neighbours_as_one_flat_piece() -> None:
    layout = ParamSpec.of(with_biases())  # 0.weight 12, 0.bias 4, 2.weight 8, 2.bias 2
    everything = ["0.weight", "0.bias", "2.weight", "2.bias"]
    pieces = OptimizerSpec(name="adam").pieces
    assert pieces(layout, everything) == [(slice(0, 26), (26,))]
    assert pieces(layout, ["0.bias", "2.weight"]) == [(slice(12, 24), (12,))]
    assert pieces(layout, ["0.weight", "2.weight", "2.bias"]) == [
        (slice(0, 12), (12,)),
        (slice(16, 26), (10,)),
    ]
    assert pieces(layout, []) == []


def test_an_optimizer_that_looks_at_shapes_gets_each_tensor_in_its_own() -> None:
    layout = ParamSpec.of(with_biases())
    assert OptimizerSpec(name="Muon").pieces(layout, ["0.weight", "2.weight"]) == [
        (slice(0, 12), (4, 3)),
        (slice(16, 24), (2, 4)),
    ]
    assert OptimizerSpec(name="Adafactor").pieces(layout, ["2.bias"]) == [(slice(24, 26), (2,))]


def test_pieces_share_the_vectors_memory() -> None:
    vector = torch.arange(6.0)
    (piece,) = as_pieces(vector, [(slice(2, 6), (2, 2))])
    with torch.no_grad():
        piece.mul_(10)
    assert vector.tolist() == [0, 1, 20, 30, 40, 50]


def displaced(spec: OptimizerSpec, options: Mapping[str, Option], steps: int) -> float:
    """Return how far torch's own SGD moves under a gradient of 1."""
    coordinate = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    kwargs: dict[str, Any] = dict(options)
    optimizer = torch.optim.SGD([coordinate], lr=spec.lr, **kwargs)
    for _ in range(steps):
        coordinate.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    return -coordinate.item()


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "dampening": 0.25},
        {"dampening": 0.25},
        {"maximize": True},
        {"momentum": 0.9, "maximize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("as_options", [False, True], ids=["fields", "options"])
def test_the_impulse_is_the_displacement_under_a_gradient_of_one(
    options: dict[str, Any], steps: int, *, as_options: bool
) -> None:
    own = {} if as_options else {k: v for k, v in options.items() if k in ("momentum", "nesterov")}
    rest = {k: v for k, v in options.items() if k not in own}
    spec = OptimizerSpec(name="SGD", lr=0.1, **own, options=rest)
    assert spec.impulse(steps) == pytest.approx(displaced(spec, options, steps), rel=1e-12)


def test_the_impulse_of_plain_sgd_is_steps_times_the_learning_rate() -> None:
    assert OptimizerSpec(lr=0.25).impulse(8) == 2.0
    # Momentum 0.5: velocities 1, 1.5, 1.75.
    assert OptimizerSpec(lr=0.5, momentum=0.5).impulse(3) == 2.125


def test_weight_decay_is_no_part_of_the_impulse() -> None:
    assert OptimizerSpec(lr=0.25, weight_decay=0.5).impulse(8) == 2.0


def test_adam_goes_one_learning_rate_a_step_under_a_constant_gradient() -> None:
    spec = OptimizerSpec(name="adam", lr=0.5, options={"eps": 0.0})
    assert spec.impulse(3) == pytest.approx(1.5, abs=1e-12)


def test_a_pull_shortens_the_way_as_fednova_says() -> None:
    # (1 - (1 - lr mu)**steps) / mu, with lr = 0.1, mu = 2, steps = 3
    assert OptimizerSpec(lr=0.1).impulse(3, pull=2.0) == pytest.approx((1 - 0.8**3) / 2, abs=1e-15)


def test_momentum_and_a_pull_together_are_counted_once() -> None:
    # v = 1, 1.875, 2.615625 with momentum 0.9 and lr mu = 0.025: together 5.490625
    way = OptimizerSpec(lr=0.05, momentum=0.9).impulse(3, pull=0.5) / 0.05
    assert way == pytest.approx(5.490625, abs=1e-14)


def test_the_way_goes_on_from_where_an_earlier_phase_ended() -> None:
    spec = OptimizerSpec(lr=0.1)
    assert spec.impulse(2, 1.0, spec.impulse(3, 1.0)) == pytest.approx(spec.impulse(5, 1.0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "sdg"}, "'sdg' is not in torch.optim; did you mean 'sgd'"),
        ({"name": "Optimizer"}, "'Optimizer' is not in torch.optim"),
        ({"name": "lr_scheduler"}, "is not in torch.optim"),
        ({"options": {"momentun": 0.9}}, "has no option 'momentun'; did you mean 'momentum'"),
        ({"name": "adam", "momentum": 0.9}, "'adam' has no option 'momentum'"),
        ({"name": "adam", "nesterov": True}, "'adam' has no option 'nesterov'"),
        ({"name": "lbfgs", "weight_decay": 0.1}, "'lbfgs' has no option 'weight_decay'"),
    ],
)
def test_an_unknown_name_or_option_is_refused_at_once(
    arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        OptimizerSpec(**arguments)


@pytest.mark.parametrize(
    "spec",
    [
        OptimizerSpec(momentum=-0.5),
        OptimizerSpec(weight_decay=-1.0),
        OptimizerSpec(options={"nesterov": True}),
        OptimizerSpec(name="adam", options={"betas": [2.0, 0.9]}),
        OptimizerSpec(name="adam", options={"betas": 0.9}),
        OptimizerSpec(lr=-1.0),
        OptimizerSpec(options={"lr": 1.0}),
    ],
)
def test_a_value_that_the_optimizer_refuses_is_an_error_of_the_configuration(
    spec: OptimizerSpec,
) -> None:
    with pytest.raises(ConfigError, match=f"{spec.name!r} refuses its options: "):
        spec.build([nn.Parameter(torch.zeros(1))])


def test_nesterov_without_momentum_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"client\.nesterov = true needs client\.momentum"):
        OptimizerSpec(nesterov=True).build([nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize("name", ["rmsprop", "RMSprop", "RMSPROP"])
def test_the_case_of_a_name_does_not_matter(name: str) -> None:
    built = OptimizerSpec(name=name).build([nn.Parameter(torch.zeros(1))])
    assert isinstance(built, torch.optim.RMSprop)


def test_a_built_optimizer_remembers_nothing_of_the_one_before() -> None:
    spec = OptimizerSpec(lr=1.0, momentum=0.5)
    moved = []
    for _ in range(2):
        piece = nn.Parameter(torch.zeros(1))

        def closure(piece: nn.Parameter = piece) -> Tensor:
            piece.grad = torch.ones(1)
            return torch.zeros(())

        optimizer = spec.build([piece])
        optimizer.step(closure)
        optimizer.step(closure)
        moved.append(piece.item())
    assert moved == [-2.5, -2.5]


@pytest.mark.parametrize(
    "spec",
    [
        OptimizerSpec(),
        OptimizerSpec(momentum=0.25),
        OptimizerSpec(momentum=0.25, nesterov=True),
        OptimizerSpec(weight_decay=0.5),
        OptimizerSpec(name="adam"),
    ],
    ids=str,
)
def test_an_optimizer_does_not_write_to_the_gradients_it_is_given(spec: OptimizerSpec) -> None:
    piece = nn.Parameter(torch.ones(1))
    gradient = torch.ones(1)  # a correction may hand out a tensor that others read

    def closure() -> Tensor:
        piece.grad = gradient
        return torch.zeros(())

    optimizer = spec.build([piece])
    for _ in range(3):
        optimizer.step(closure)
    assert gradient.item() == 1.0


def test_options_are_any_sequence_of_numbers() -> None:
    betas: Sequence[float] = (0.5, 0.5)
    optimizer = OptimizerSpec(name="adam", options={"betas": betas}).build(
        [nn.Parameter(torch.zeros(1))]
    )
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["betas"] == (0.5, 0.5)
