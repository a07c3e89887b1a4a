"""Who attacks in an experiment, and how: from the section ``[attack]`` to what clients do."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from roundel.client.trainer import Tamper
from roundel.core.config import AttackConfig, Experiment
from roundel.core.data import ClientData, Examples, Population
from roundel.core.errors import ConfigError, DataError
from roundel.core.messages import PARAMS, Ticket
from roundel.core.seeds import derive, sample
from roundel.simulations.attacks.kinds import ATTACKS, Attack, settled_knobs
from roundel.simulations.population import PartitionedPopulation

SHARE = 0.2
"""The share of malicious clients unless the experiment says who they are."""


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """The malicious clients of a run.

    Attributes:
        attack: What they do.
        clients: Their numbers, the same all through the run.
        seed: Of what is random in it.
    """

    attack: Attack
    clients: frozenset[int]
    seed: int

    @classmethod
    def of(cls, experiment: Experiment, population: int) -> "Adversary | None":
        """Return the adversary of an experiment that says every knob; None if nobody attacks.

        Args:
            experiment: As `settled` leaves it.
            population: N.

        Raises:
            ConfigError: The malicious clients are none, or are not among the population.
        """
        config = experiment.attack
        if config.kind is None:
            return None
        return cls(
            attack=ATTACKS[config.kind](**config.knobs),
            clients=_malicious(config, population, experiment.seed_for("sampling")),
            seed=experiment.seed_for("training"),
        )

    @property
    def plots(self) -> bool:
        """Whether they look at the updates of others, which must then all be at one place."""
        return self.attack.together is not None

    def poisoned(self, population: Population) -> Population:
        """Return the clients as they train: malicious ones on other labels, if that is the attack.

        What they hold out stays as it is.
        """
        return population if self.attack.relabel is None else _Poisoned(population, self)

    def tamper(self, ticket: Ticket) -> Tamper | None:
        """Return what a client does to its update, if it needs nobody else for that."""
        alone = self.attack.alone
        if alone is None or ticket.client_id not in self.clients:
            return None
        seed = derive(self.seed, "attack", ticket.round, ticket.client_id)

        def tampered(channels: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return _sending(channels, alone(channels[PARAMS].double(), seed))

        return tampered


def sending(crafted: Tensor) -> Tamper:
    """Return what puts a crafted delta ``(D,)`` in the place of a client's own."""
    return lambda channels: _sending(channels, crafted)


def check_apart(adversary: Adversary | None) -> None:
    """Refuse an attack that clients on different nodes cannot agree on.

    Raises:
        ConfigError: It is made from several clients' updates.
    """
    if adversary is not None and adversary.plots:
        raise ConfigError(
            f"attack.kind = {adversary.attack.name!r} is made from the updates of several clients, "
            "which no node sees; simulate it in one process, or choose an attack that each client "
            "does by itself, such as sign_flip"
        )


def settled(config: AttackConfig, population: Population | None = None) -> AttackConfig:
    """Return the section with every knob of its attack, defaults included.

    Args:
        config: What the experiment says.
        population: The clients, if they are known, to count the classes of a pool.

    Raises:
        ConfigError: The kind or a knob is unknown, or a value does not fit.
    """
    if config.kind is None:
        return config
    knobs = settled_knobs(config.kind, config.knobs)
    if "classes" in knobs and knobs["classes"] is None:
        knobs["classes"] = _classes(population)
    share = SHARE if config.share is None and config.clients is None else config.share
    about = {"kind": config.kind, "share": share, "clients": config.clients}
    return AttackConfig.model_validate({**knobs, **about})


def _sending(channels: Mapping[str, Tensor], delta: Tensor) -> dict[str, Tensor]:
    return {**channels, PARAMS: delta.to(channels[PARAMS].dtype)}


def _malicious(config: AttackConfig, population: int, seed: int) -> frozenset[int]:
    if config.clients is not None:
        strangers = [client for client in config.clients if client >= population]
        if len(set(config.clients)) < len(config.clients):
            raise ConfigError(f"attack.clients = {config.clients} names a client twice")
        if strangers or not config.clients:
            raise ConfigError(
                f"attack.clients = {config.clients} must name clients of the population, which "
                f"are 0 to {population - 1}"
            )
        return frozenset(config.clients)
    share = SHARE if config.share is None else config.share
    count = round(share * population)
    if not count:
        raise ConfigError(
            f"attack.share = {share:g} of {population} clients is nobody; raise it, or leave "
            "attack.kind out"
        )
    return frozenset(sample(population, count, derive(seed, "malicious")))


def _classes(population: Population | None) -> int | None:
    """Count the classes of a pool by its largest label."""
    if not isinstance(population, PartitionedPopulation):
        return None
    _check_labels(population.pool.targets)
    return int(population.pool.targets.max()) + 1


def _check_labels(targets: Tensor) -> None:
    if targets.is_floating_point():
        raise DataError(
            f"targets of dtype {targets.dtype} are no class numbers, and attack.kind = "
            "'label_flip' needs these; choose another attack"
        )


@dataclass(frozen=True)
class _Poisoned:
    """A population some of whose clients train on other targets."""

    honest: Population
    adversary: Adversary

    @property
    def size(self) -> int:
        return self.honest.size

    def client(self, client_id: int) -> ClientData:
        data = self.honest.client(client_id)
        relabel = self.adversary.attack.relabel
        if relabel is None or client_id not in self.adversary.clients:
            return data
        _check_labels(data.train.targets)
        targets = relabel(data.train.targets)
        if bool((targets < 0).any()):
            raise DataError(
                f"client {client_id} has the label {int(data.train.targets.max())}, which is none "
                "of the classes that attack.classes counts; raise it"
            )
        return replace(data, train=Examples(data.train.inputs, targets, data.train.users))
