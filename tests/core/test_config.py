"""The experiment's keys, their defaults and their bounds."""

import ast
import inspect
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

from roundel.core import config
from roundel.core.config import (
    AttackConfig,
    ClientConfig,
    CohortConfig,
    EvaluationConfig,
    Experiment,
    FaultsConfig,
    PartitionConfig,
    SeedsConfig,
    StopConfig,
    StrategyConfig,
    TaskConfig,
)

SELF_EXPLAINING = {
    "name",
    "seed",
    "rounds",
    "kind",
    "lr",
    "momentum",
    "nesterov",
    "weight_decay",
    "batch_size",
    "device",
    "model_config",  # pydantic's, not a key
}


def keys(model: type[BaseModel] = Experiment, prefix: str = "") -> Iterator[str]:
    """Yield every key with the section in front, sections themselves left out."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize(
    "key",
    [
        *["name", "seed", "rounds"],
        *["task.name", "task.model", "task.path"],
        *["partition.kind", "partition.clients", "partition.alpha"],
        *["strategy.name", "cohort.size"],
        *["client.optimizer", "client.lr", "client.epochs", "client.steps", "client.batch_size"],
        *["engine.executor", "engine.workers", "engine.device"],
        "evaluation.every",
    ],
)
def test_the_keys_that_everything_relies_on_exist(key: str) -> None:
    assert key in set(keys())


def test_every_key_explains_itself_by_its_name_or_a_docstring() -> None:
    bare = []
    for section in ast.parse(inspect.getsource(config)).body:
        if not isinstance(section, ast.ClassDef) or section.name == "Experiment":
            continue
        for key, after in zip(section.body, [*section.body[1:], None], strict=True):
            if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name):
                explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if not explained and key.target.id not in SELF_EXPLAINING:
                    bare.append(f"{section.name}.{key.target.id}")
    assert bare == []


def test_every_section_says_what_it_is_about() -> None:
    kinds = [field.annotation for field in Experiment.model_fields.values()]
    sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    assert len(sections) >= 9
    assert all(section.__doc__ for section in sections)


def test_an_experiment_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Experiment().rounds = 3  # type: ignore[misc]


def test_the_knobs_of_a_strategy_stand_beside_its_name() -> None:
    strategy = StrategyConfig.model_validate({"name": "fedprox", "mu": 0.1, "deep": {"x": 1}})
    assert strategy.name == "fedprox"
    assert strategy.knobs == {"mu": 0.1, "deep": {"x": 1}}
    assert StrategyConfig().knobs == {}


def test_changing_the_returned_knobs_does_not_change_the_experiment() -> None:
    strategy = StrategyConfig.model_validate({"mu": 0.1})
    strategy.knobs["mu"] = 9.0
    assert strategy.knobs == {"mu": 0.1}


def test_each_purpose_has_the_experiments_seed_unless_it_has_its_own() -> None:
    experiment = Experiment(seed=7, seeds=SeedsConfig(data=1, sampling=0))
    assert [
        experiment.seed_for("data"),
        experiment.seed_for("model"),
        experiment.seed_for("sampling"),
        experiment.seed_for("training"),
    ] == [1, 7, 0, 7]


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_is_positive_and_finite(alpha: float) -> None:
    with pytest.raises(ValidationError):
        PartitionConfig(alpha=alpha)


def test_epochs_and_steps_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match=r"client\.epochs = 1 and client\.steps = 2 both"):
        ClientConfig(epochs=1, steps=2)


def test_a_quorum_beyond_the_cohort_is_refused() -> None:
    Experiment(cohort=CohortConfig(size=5, quorum=5))
    with pytest.raises(ValidationError, match="quorum = 6 cannot be reached by a cohort of 5"):
        Experiment(cohort=CohortConfig(size=5, quorum=6))


def test_held_out_shares_leave_something_to_train_on() -> None:
    PartitionConfig(validation=0.5, test=0.4)
    with pytest.raises(ValidationError, match="= 1 leaves no example to train on"):
        PartitionConfig(validation=0.5, test=0.5)


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1])
def test_seeds_are_64_bit_integers(seed: int) -> None:
    assert Experiment(seed=seed).seed == seed
    with pytest.raises(ValidationError):
        Experiment(seed=2 * seed)


def test_the_knobs_of_a_task_stand_beside_its_name() -> None:
    task = TaskConfig.model_validate({"name": "birds:task", "model": "cnn", "classes": ["a"]})
    assert (task.name, task.model) == ("birds:task", "cnn")
    assert task.knobs == {"classes": ["a"]}
    task.knobs["classes"] = []
    assert task.knobs == {"classes": ["a"]}
    assert TaskConfig().knobs == {}


def test_nothing_fails_and_nothing_stops_unless_it_is_asked_for() -> None:
    experiment = Experiment()
    assert experiment.faults == FaultsConfig(drop=0.0, fail=0.0)
    assert (experiment.stop.target, experiment.stop.patience) == (None, None)


@pytest.mark.parametrize("key", ["drop", "fail"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_faults_are_probabilities(key: str, value: float) -> None:
    assert FaultsConfig.model_validate({key: 1.0}) != FaultsConfig()
    with pytest.raises(ValidationError):
        FaultsConfig.model_validate({key: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 0},
        {"min_delta": -0.1},
        {"target": float("nan")},
        {"target": float("inf")},
        {"goal": "up"},
    ],
    ids=str,
)
def test_what_stops_a_run_is_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StopConfig.model_validate(settings)


def test_a_client_needs_an_example_for_a_figure_of_its_own() -> None:
    with pytest.raises(ValidationError):
        EvaluationConfig(min_examples=0)


def test_the_knobs_of_an_attack_stand_beside_its_kind() -> None:
    attack = AttackConfig.model_validate({"kind": "alie", "z": "auto", "clients": [3]})
    assert (attack.kind, attack.share, attack.clients) == ("alie", None, [3])
    assert attack.knobs == {"z": "auto"}


def test_how_many_nodes_bring_their_own_examples_must_be_said() -> None:
    assert PartitionConfig(kind="own", clients=3).clients == 3
    with pytest.raises(ValidationError, match=r"'own' needs partition\.clients: how many nodes"):
        PartitionConfig(kind="own")


@pytest.mark.parametrize("kind", [float("nan"), "nan"])
def test_an_attack_may_be_called_what_toml_takes_for_a_number(kind: object) -> None:
    assert AttackConfig.model_validate({"kind": kind}).kind == "nan"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "nan", "share": 0.1, "clients": [1]},
            "attack.share = 0.1 and attack.clients = [1] both say who is malicious; set one",
        ),
        (
            {"share": 0.1},
            "attack.share = 0.1 has no effect while nobody attacks; set attack.kind too, or leave",
        ),
        (
            {"scale": 2},
            "attack.scale = 2 has no effect while nobody attacks; set attack.kind too, or leave",
        ),
        ({"kind": "nan", "share": 1.5}, "Input should be less than or equal to 1"),
        ({"kind": "nan", "clients": [-1]}, "Input should be greater than or equal to 0"),
    ],
)
def test_who_attacks_is_said_once_and_only_if_somebody_does(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        AttackConfig.model_validate(settings)
    assert message in str(caught.value)


def test_a_cohort_has_one_deadline():
    with pytest.raises(ValidationError, match=r"deadline_s = 5 and cohort\.deadline_factor = 2 b"):
        CohortConfig(deadline_s=5, deadline_factor=2)
    assert CohortConfig(deadline_factor=2).deadline_factor == 2.0
