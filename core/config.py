"""The experiment file: a tree of sections, each key with its default and its bounds.

Every key is set in TOML or with ``-s section.key=value``. A key that does not exist is an error.
The resolved tree is written into the run directory, so that a run says everything it ran with.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
PartitionKind = Literal[
    "iid",
    "dirichlet",
    "class-prior",
    "shards",
    "classes",
    "lognormal",
    "power-law",
    "natural",
    "file",
]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="constants", coerce_numbers_to_str=True
    )


class SeedsConfig(Section):
    """Seeds that can be varied apart; each is the experiment's `seed` unless set."""

    data: Seed | None = None
    """Partition, and each client's split into train, validation and test."""
    model: Seed | None = None
    """Initial parameters."""
    sampling: Seed | None = None
    """Which clients take part in which round, and which drop out or fail on purpose."""
    training: Seed | None = None
    """Order of batches, dropout, augmentation."""


class TaskConfig(BaseModel):
    """What is learned; the task's own knobs stand beside its name."""

    model_config = ConfigDict(
        frozen=True, extra="allow", ser_json_inf_nan="constants", coerce_numbers_to_str=True
    )

    name: str = "digits"
    """A built-in task, or ``package.module:function`` that returns a `Task`."""
    model: str | None = None
    """One of the task's models; its first one by default."""
    path: Path | None = None
    """Where its data lies, for tasks whose data does not ship."""
    initial: Path | None = None
    """Parameters to start from: a safetensors file, or a run directory with a final model."""

    @property
    def knobs(self) -> dict[str, Any]:
        """Everything that only this task knows."""
        return dict(self.__pydantic_extra__ or {})


class PartitionConfig(Section):
    """How the pool of examples is divided over clients."""

    kind: PartitionKind | None = None
    """The task's own unless it is set: ``dirichlet`` where targets are class numbers."""
    clients: PositiveInt | None = None
    """N, the population; 100 unless the data says how many there are."""
    alpha: PositiveFloat = 0.3
    """Concentration of the Dirichlet distributions; small is heterogeneous."""
    shards: PositiveInt = 2
    """Shards a client, for ``shards``."""
    classes: PositiveInt = 2
    """Classes a client, for ``classes``."""
    sigma: PositiveFloat = 1.0
    """Standard deviation of the logarithm of the sizes, for ``lognormal``."""
    exponent: PositiveFloat = 1.0
    """How fast sizes fall with the client's rank, for ``power-law``: as ``rank ** -exponent``."""
    path: Path | None = None
    """Another run or its ``partition.npz``, for ``file``."""
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Feature skew: Gaussian noise on inputs, from 0 at the first client to this at the last."""
    rotations: PositiveInt = 1
    """Feature skew: images are turned by one of so many angles, by client number."""
    root: Annotated[int, Field(ge=0)] = 100
    """Examples of the pool that the server keeps for itself, if the strategy trains there."""
    min_examples: Annotated[int, Field(ge=0)] = 1
    """The least that a client may get; 0 allows clients without any."""
    validation: Fraction = 0.0
    """Share of each client's examples held out for validation."""
    test: Fraction = 0.1
    """Share of each client's examples held out for its own test."""

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"partition.validation + partition.test = {self.validation + self.test:g} leaves "
                "no example to train on; make them less than 1 together"
            )
        return self


class StrategyConfig(BaseModel):
    """The federated algorithm; its knobs stand beside its name."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")

    name: str = "fedavg"
    """One of the strategies that `roundel strategies` lists, or ``package.module:function`` that
    returns a `Part` or a `Strategy`."""
    parts: list[str | dict[str, Any]] = []
    """Further strategies to compose it with, in this order: names, or tables with a name and
    knobs, such as ``{name = "clip", norm = 1.0}``."""

    @property
    def knobs(self) -> dict[str, Any]:
        """Everything but the name and the parts."""
        return dict(self.__pydantic_extra__ or {})


class CohortConfig(Section):
    """Who takes part in a round, and how long it waits."""

    size: PositiveInt = 10
    """How many clients a round asks."""
    quorum: PositiveInt = 1
    """How many must answer for a round to count."""
    deadline_s: PositiveFloat | None = None
    """After how many seconds a round goes on with those that answered."""


class ClientConfig(Section):
    """Local training."""

    optimizer: str = "sgd"
    """Any optimizer of torch.optim."""
    lr: PositiveFloat = 0.2
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    options: dict[str, float | int | bool | str | list[float]] = {}
    """Further keyword arguments of the optimizer, such as ``betas``."""
    epochs: PositiveInt | None = None
    """Local epochs a round; 5 unless `steps` is set."""
    steps: PositiveInt | None = None
    """Local steps a round, instead of epochs."""
    batch_size: PositiveInt | Literal["full"] = 10
    clip_norm: PositiveFloat | None = None
    """Largest Euclidean norm of a gradient."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """How the learning rate changes over rounds."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Factor of the step schedule."""
    gamma_every: PositiveInt = 1
    """Rounds between two steps of the step schedule."""

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"client.epochs = {self.epochs} and client.steps = {self.steps} both say how long "
                "to train; set one of them"
            )
        return self


class EngineConfig(Section):
    """How it is computed. Results depend on nothing here but what `environment.json` records."""

    executor: Literal["auto", "loop"] = "auto"
    """``loop`` trains one client after another; ``auto`` chooses by a fixed rule."""
    workers: Literal["auto", 1] = "auto"
    """Processes that share the work."""
    threads: Annotated[int, Field(gt=0, le=1024)] = 1
    """Threads inside one operation. Bits depend on it, so it is set and not left to the machine."""
    device: Literal["cpu"] = "cpu"


class EvaluationConfig(Section):
    """What is measured, and how often."""

    every: PositiveInt = 1
    """Rounds between two evaluations on the global test set; the last round always has one."""
    clients_every: Annotated[int, Field(ge=0)] | None = None
    """Rounds between two evaluations on the clients' own examples; 0 for the last round only, which
    is the default if there is a global test set; without one it is `every`."""
    clients: Annotated[int, Field(ge=0)] = 100
    """How many clients such an evaluation asks at most; 0 for none."""
    split: Literal["test", "validation"] = "test"
    """Which of a client's held-out examples."""
    min_examples: PositiveInt = 5
    """A client with fewer held-out examples has no figure of its own: it is pooled with others."""
    metrics: list[str] = []
    """Further metrics, each ``package.module:function``: outputs and targets of a batch to sums."""


class StopConfig(Section):
    """When a run ends before its last round."""

    metric: str = "accuracy"
    """A key of the lines of ``metrics.jsonl``; dots lead inside, as in ``clients.accuracy.p10``."""
    goal: Literal["auto", "max", "min"] = "auto"
    """Whether it should be large or small; ``auto`` knows losses and errors by their names."""
    target: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Stop once it is reached."""
    patience: PositiveInt | None = None
    """Stop after so many evaluations without a new best one."""
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """By how much a new best one must be better."""

    @property
    def is_set(self) -> bool:
        """Whether anything can end a run early."""
        return self.target is not None or self.patience is not None


class FaultsConfig(Section):
    """Failures that are made on purpose, drawn from the seed for each client and round."""

    drop: Probability = 0.0
    """How likely a client of the cohort drops out: it is asked and never answers."""
    fail: Probability = 0.0
    """How likely its training ends in an error."""


class CheckpointConfig(Section):
    """What a killed run goes on from."""

    every_s: Annotated[float, Field(ge=0)] = 10.0
    """Least seconds between two checkpoints; what lies between is recomputed."""
    keep: PositiveInt = 2
    """How many to keep."""


class Experiment(Section):
    """One experiment, complete."""

    name: str = "experiment"
    seed: Seed = 0
    rounds: PositiveInt = 50
    seeds: SeedsConfig = SeedsConfig()
    task: TaskConfig = TaskConfig()
    partition: PartitionConfig = PartitionConfig()
    strategy: StrategyConfig = StrategyConfig()
    cohort: CohortConfig = CohortConfig()
    client: ClientConfig = ClientConfig()
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    stop: StopConfig = StopConfig()
    faults: FaultsConfig = FaultsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _quorum_fits_the_cohort(self) -> Self:
        if self.cohort.quorum > self.cohort.size:
            raise ValueError(
                f"cohort.quorum = {self.cohort.quorum} cannot be reached by a cohort of "
                f"{self.cohort.size}; lower it or raise cohort.size"
            )
        return self

    def seed_for(self, purpose: Literal["data", "model", "sampling", "training"]) -> int:
        """Return the seed of one purpose."""
        own: int | None = getattr(self.seeds, purpose)
        return self.seed if own is None else own
