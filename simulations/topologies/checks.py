"""What an experiment may ask of a topology, found out before anything is trained."""

from collections.abc import Mapping, Sequence

from roundel.core.config import Experiment, TopologyConfig
from roundel.core.errors import ConfigError
from roundel.core.learning import Learner
from roundel.core.task import Task
from roundel.simulations.topologies.gossip import Network
from roundel.simulations.topologies.hierarchical import check_hierarchical
from roundel.simulations.topologies.ring import has_gloo
from roundel.simulations.topologies.split import halves
from roundel.strategies.compose import Strategy

WITH_A_SERVER = frozenset({"star", "hierarchical"})

_KEYS: Mapping[str, Sequence[str]] = {
    "star": (),
    "hierarchical": ("edges", "edge_rounds"),
    "local": (),
    "centralised": (),
    "gossip": ("graph", "probability", "order"),
    "all-reduce": ("ranks", "scale_lr", "warmup_rounds"),
    "split": ("cut", "handover"),
}
_EQUAL = frozenset({"local", "gossip"})
"""Kinds in which clients count the same, however many examples they have."""


def check_settings(experiment: Experiment, task: Task, given: Sequence[str]) -> None:
    """Refuse what a topology cannot honour.

    Args:
        experiment: What the user asks for.
        task: What is learned.
        given: Which pieces take the place of named ones.

    Raises:
        ConfigError: A key has no effect with this kind of topology.
    """
    settings = experiment.topology
    _check_own_keys(settings)
    if settings.kind != "star" and experiment.attack.kind is not None:
        raise ConfigError(
            f"attack.kind = {experiment.attack.kind!r} is about updates that reach one server, and "
            f"topology.kind = {settings.kind!r} has none that they all reach; leave it out, or set "
            "topology.kind = 'star'"
        )
    if settings.kind in WITH_A_SERVER:
        return
    kind = f"topology.kind = {settings.kind!r}"
    _check_strategy(experiment, given)
    remedies = {
        "faults.drop": (experiment.faults.drop, 0.0),
        "faults.fail": (experiment.faults.fail, 0.0),
        "cohort.quorum": (experiment.cohort.quorum, 1),
        "cohort.deadline_s": (experiment.cohort.deadline_s, None),
        "cohort.deadline_factor": (experiment.cohort.deadline_factor, None),
    }
    for key, (value, usual) in remedies.items():
        if value != usual:
            raise ConfigError(
                f"{key} = {value!r} is about clients that answer a server, and {kind} has no such "
                "server; leave it out"
            )
    if settings.kind == "all-reduce" and not has_gloo():
        raise ConfigError(
            f"{kind} needs torch with gloo, and this build has none; install another build of torch"
        )
    if settings.kind == "all-reduce" and given:
        raise ConfigError(
            f"{kind} starts processes that make everything from the experiment file, and the "
            f"{given[0]} is given as an object; name it in the experiment"
        )
    if task.train is not None and settings.kind not in {"local", "gossip"}:
        raise ConfigError(
            f"{kind} trains step by step itself, and the task {task.name!r} brings a training "
            "function of its own; leave that out"
        )
    if settings.kind == "split":
        _check_split(experiment)


def _check_own_keys(settings: TopologyConfig) -> None:
    usual = TopologyConfig()
    for key in TopologyConfig.model_fields:
        value = getattr(settings, key)
        if key != "kind" and value != getattr(usual, key) and key not in _KEYS[settings.kind]:
            (kind,) = (kind for kind, keys in _KEYS.items() if key in keys)
            raise ConfigError(
                f"topology.{key} = {value!r} has no effect with topology.kind = "
                f"{settings.kind!r}; leave it out, or set topology.kind = {kind!r}"
            )
    if settings.probability != usual.probability and settings.graph != "erdos-renyi":
        raise ConfigError(
            f"topology.probability = {settings.probability:g} has no effect with topology.graph = "
            f"{settings.graph!r}; leave it out, or set topology.graph = 'erdos-renyi'"
        )
    if settings.warmup_rounds and not settings.scale_lr:
        raise ConfigError(
            f"topology.warmup_rounds = {settings.warmup_rounds} leads up to a scaled learning "
            "rate, and topology.scale_lr is false; set it to true"
        )


def _check_strategy(experiment: Experiment, given: Sequence[str]) -> None:
    said, kind = experiment.strategy, f"topology.kind = {experiment.topology.kind!r}"
    equal = experiment.topology.kind in _EQUAL
    plain: Mapping[str, Sequence[object]] = {
        "server_lr": (1.0,),
        "weights": (None, "uniform" if equal else "examples"),
    }
    if "strategy" in given:
        raise ConfigError(
            f"{kind} has no server for a strategy to work at, and one is given as an object; leave "
            "it out, or set topology.kind = 'star'"
        )
    wrong = {"strategy.name": said.name} if said.name != "fedavg" else {}
    wrong |= {"strategy.parts": str(said.parts)} if said.parts else {}
    for knob, value in said.knobs.items():
        if knob in plain and value not in plain[knob]:
            wrong[f"strategy.{knob}"] = value
    for key, value in wrong.items():
        raise ConfigError(
            f"{key} = {value!r} is about what a server does, and {kind} has none; leave it out, "
            "or set topology.kind = 'star'"
        )


def _check_split(experiment: Experiment) -> None:
    client = experiment.client
    if client.clip_norm is not None:
        raise ConfigError(
            f"client.clip_norm = {client.clip_norm:g} is about the norm of a whole gradient, and "
            "with topology.kind = 'split' nobody has one; leave it out"
        )
    if client.optimizer.lower() == "lbfgs":
        raise ConfigError(
            f"client.optimizer = {client.optimizer!r} evaluates the loss several times in one "
            "step, which neither half of a split model can; take 'sgd'"
        )


def check_fit(experiment: Experiment, learner: Learner, strategy: Strategy, clients: int) -> None:
    """Find out whether a topology fits the model and the clients.

    Raises:
        ConfigError: It does not.
        CompositionError: The strategy does not go with edges.
    """
    settings, spec = experiment.topology, learner.spec
    if settings.kind == "hierarchical":
        if settings.edges > clients:
            raise ConfigError(
                f"topology.edges = {settings.edges} is more than the {clients} clients; lower it"
            )
        check_hierarchical(strategy, settings.edge_rounds)
    elif settings.kind != "star" and spec.personal.stop > spec.personal.start:
        raise ConfigError(
            f"topology.kind = {settings.kind!r} has no personal layers, and those of this task "
            "stay with their clients; set topology.kind = 'star'"
        )
    if settings.kind == "gossip":
        size, probability = experiment.cohort.size, settings.probability
        if size != clients:
            raise ConfigError(
                f"cohort.size = {size} is not the {clients} clients, who all take part in every "
                "round with topology.kind = 'gossip'; leave it out, or lower partition.clients"
            )
        Network.of(settings.graph, clients, probability, experiment.seed_for("sampling"))
    if settings.kind == "split":
        halves(learner.model, settings.cut)


def with_cohort(experiment: Experiment, clients: int) -> Experiment:
    """Return the experiment with everybody in the cohort where nobody is left out.

    A cohort that the user has set stays as it is, so that `check_fit` can refuse it.
    """
    if experiment.topology.kind != "gossip" or "size" in experiment.cohort.model_fields_set:
        return experiment
    cohort = experiment.cohort.model_copy(update={"size": clients})
    return experiment.model_copy(update={"cohort": cohort})


def check_star(experiment: Experiment, what: str) -> None:
    """Refuse other topologies where only a server and its clients are known.

    Args:
        experiment: What is to be run.
        what: What cannot do it, such as ``"roundel serve"``.

    Raises:
        ConfigError: It is not a star.
    """
    if experiment.topology.kind != "star":
        raise ConfigError(
            f"topology.kind = {experiment.topology.kind!r} is simulated in one piece, and {what} "
            "knows only a server and its clients; use roundel simulate, or leave it out"
        )
