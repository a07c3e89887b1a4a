"""The experiment file: a tree of sections, each key with its default and its bounds.

Every key is set in TOML or with ``-s section.key=value``. A key that does not exist is an error.
The resolved tree is written into the run directory, so that a run says everything it ran with.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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
    "own",
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
    """Which clients take part in which round, and which drop out, fail or attack on purpose."""
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
    """The task's own unless it is set: ``dirichlet`` where targets are class numbers. ``own``:
    nothing is divided, each node of a federation brings the examples of one client."""
    clients: PositiveInt | None = None
    """N, the population; 100 unless the data says how many there are. With ``own``, how many nodes
    take part."""
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

    @model_validator(mode="after")
    def _know_how_many_bring_their_own(self) -> Self:
        if self.kind == "own" and self.clients is None:
            raise ValueError(
                "partition.kind = 'own' needs partition.clients: how many nodes take part, each "
                "with the examples of one client; set it"
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

    @field_validator("parts", mode="before")
    @classmethod
    def _each_has_a_name(cls, parts: object) -> object:
        if not isinstance(parts, list | tuple):
            raise ValueError(  # noqa: TRY004 - pydantic takes no other
                f"strategy.parts = {parts!r} is not a list of names and tables; write "
                f"'{json.dumps([str(parts).strip('[]')])}'"
            )
        for place, part in enumerate(parts):
            named = isinstance(part, dict) and isinstance(part.get("name"), str)
            if not (named or isinstance(part, str)):
                said = "does not say its name" if isinstance(part, dict) else "is no part"
                raise ValueError(
                    f"strategy.parts[{place}] = {part!r} {said}; write a name, or a table such as "
                    '{name = "prox", mu = 0.1}'
                )
        return parts

    @property
    def knobs(self) -> dict[str, Any]:
        """Everything but the name and the parts."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def title(self) -> str:
        """The name and those of the parts, as in ``fedadam+prox``."""
        parts = (part if isinstance(part, str) else part["name"] for part in self.parts)
        return "+".join([self.name, *parts])


class CohortConfig(Section):
    """Who takes part in a round, and how long it waits."""

    size: PositiveInt = 10
    """How many clients a round asks."""
    quorum: PositiveInt = 1
    """How many must answer for a round to count."""
    deadline_s: PositiveFloat | None = None
    """After how many seconds a round goes on with those that answered."""
    deadline_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """The same as a multiple: of the median time that those took who have answered, once they are
    half of the cohort."""

    @model_validator(mode="after")
    def _one_deadline(self) -> Self:
        if self.deadline_s is not None and self.deadline_factor is not None:
            raise ValueError(
                f"cohort.deadline_s = {self.deadline_s:g} and cohort.deadline_factor = "
                f"{self.deadline_factor:g} both say how long a round waits; set one of them"
            )
        return self


class TopologyConfig(Section):
    """Who talks to whom. Every kind but ``star`` is there to be compared with it."""

    kind: Literal[
        "star", "hierarchical", "local", "centralised", "gossip", "all-reduce", "split"
    ] = "star"
    """``star``: clients around one server. ``hierarchical``: edge servers between them. ``local``:
    every client alone. ``centralised``: one learner with all examples. ``gossip``: clients and
    their neighbours, no server. ``all-reduce``: synchronous SGD over processes. ``split``: clients
    run the first layers and the server the rest."""
    edges: PositiveInt = 5
    """Edge servers, for ``hierarchical``; client k belongs to edge ``k mod edges``."""
    edge_rounds: PositiveInt = 1
    """Rounds at the edges between two of the cloud, for ``hierarchical``."""
    graph: Literal["ring", "torus", "complete", "star", "erdos-renyi"] = "ring"
    """Which clients are neighbours, for ``gossip``."""
    probability: Probability = 0.3
    """How likely two clients are neighbours, for the graph ``erdos-renyi``."""
    order: Literal["d-psgd", "adapt-then-combine", "combine-then-adapt"] = "d-psgd"
    """Whether clients mix beside, after or before their training, for ``gossip``."""
    ranks: Annotated[int, Field(gt=0, le=256)] = 2
    """Processes, for ``all-reduce``."""
    scale_lr: bool = False
    """Whether the learning rate is multiplied by the number of ranks, for ``all-reduce``."""
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    """Over how many rounds the scaled learning rate is reached, for ``all-reduce``."""
    cut: Annotated[int, Field(gt=0)] | str | None = None
    """Where the model is cut, for ``split``: how many layers the client keeps, or the name of its
    last one; by default those of the first half of the layers that have parameters."""
    handover: Literal["sequential", "splitfed-v1", "splitfed-v2"] = "sequential"
    """What becomes of the client's layers, for ``split``: handed from client to client, or averaged
    over clients that all start from the same ones."""


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

    executor: Literal["auto", "loop", "vectorized"] = "auto"
    """``loop`` trains one client after another, ``vectorized`` many at once; ``auto`` chooses by
    the fixed rule of `roundel.simulations.engine`."""
    width: Literal["auto"] | Annotated[int, Field(gt=0, le=4096)] = "auto"
    """The most clients that the vectorized executor trains at once. Bits depend on it."""
    workers: Literal["auto"] | Annotated[int, Field(gt=0, le=1024)] = "auto"
    """Processes that share the work; ``auto`` is one for short runs, else one for each core."""
    threads: Annotated[int, Field(gt=0, le=1024)] = 1
    """Threads inside one operation. Bits depend on it, so it is set and not left to the machine."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where a simulation computes; ``auto`` takes a GPU if there is one. Bits depend on it."""
    state_memory_mb: PositiveFloat = 512.0
    """Most megabytes of client states in memory; what is more lies in files."""

    @property
    def state_memory_bytes(self) -> int:
        """The same in bytes."""
        return int(self.state_memory_mb * 1e6)


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


class AttackConfig(BaseModel):
    """Clients that attack on purpose; the attack's own knobs stand beside its kind."""

    model_config = ConfigDict(  # numbers, since TOML reads the kind nan as one
        frozen=True, extra="allow", ser_json_inf_nan="constants", coerce_numbers_to_str=True
    )

    kind: str | None = None
    """What malicious clients do: ``sign_flip``, ``gaussian``, ``label_flip``, ``alie``, ``ipm``,
    ``min_max``, ``min_sum`` or ``nan``; nobody attacks unless it is set."""
    share: Probability | None = None
    """Share of the population that is malicious, drawn from the seed once; 0.2 unless `clients` is
    set."""
    clients: list[Annotated[int, Field(ge=0)]] | None = None
    """The numbers of the malicious clients, in place of a share."""

    @property
    def knobs(self) -> dict[str, Any]:
        """Everything that only this kind of attack knows."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _say_once_who_attacks(self) -> Self:
        if self.share is not None and self.clients is not None:
            raise ValueError(
                f"attack.share = {self.share:g} and attack.clients = {self.clients} both say who "
                "is malicious; set one of them"
            )
        said = {"share": self.share, "clients": self.clients, **self.knobs}
        for key, value in said.items():
            if self.kind is None and value is not None:
                raise ValueError(
                    f"attack.{key} = {value!r} has no effect while nobody attacks; set attack.kind "
                    "too, or leave it out"
                )
        return self


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
    topology: TopologyConfig = TopologyConfig()
    client: ClientConfig = ClientConfig()
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    stop: StopConfig = StopConfig()
    faults: FaultsConfig = FaultsConfig()
    attack: AttackConfig = AttackConfig()
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
