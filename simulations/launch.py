"""A run whose ranks torchrun has started, on one machine or on several.

    torchrun --nnodes 2 --nproc-per-node 8 ... -m roundel.cli simulate experiment.toml

Every rank prepares the experiment by itself. Rank 0 has the run directory, and tells the others
where the run begins; no other rank writes anything.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from roundel.core.errors import ConfigError
from roundel.core.history import History
from roundel.core.ranks import Ranks
from roundel.core.tensorfiles import pack, unpack
from roundel.server.aggregation import ServerState
from roundel.server.run import Start
from roundel.simulations.engine import Engine, Legacy
from roundel.simulations.prepare import Simulation
from roundel.simulations.share import Opening, Share


def check_can_share(simulation: Simulation) -> None:
    """Refuse several ranks for what one process computes.

    Raises:
        ConfigError: Its clients do not stand around one server, or look at each other's updates.
    """
    kind, adversary = simulation.plan.experiment.topology.kind, simulation.adversary
    if kind != "star":
        what = f"topology.kind = {kind!r}"
    elif adversary is not None and adversary.plots:
        what = f"attack.kind = {adversary.attack.name!r}"
    else:
        return
    raise ConfigError(f"{what} is computed by one process; start it without torchrun")


def announce(ranks: Ranks, opening: Opening) -> None:
    """Tell the other ranks where the run begins."""
    ranks.gathered(packed(opening))


def heard(simulation: Simulation, ranks: Ranks) -> Opening:
    """Return where the run begins, as rank 0 announces it.

    Raises:
        ConfigError: This rank has another model or other data.
    """
    opening = unpacked(ranks.gathered(b"")[0])
    if opening.environment.get("fingerprint") != simulation.fingerprint:
        raise ConfigError(
            f"rank {ranks.rank} has another model or other data than rank 0; give all ranks the "
            "same code and the same files"
        )
    return opening


def followed(simulation: Simulation, engine: Engine, opening: Opening, ranks: Ranks) -> History:
    """Do the share of a rank that torchrun has started.

    Args:
        simulation: The experiment with its data at hand.
        engine: How it is computed, as the run records it.
        opening: Where it begins.
        ranks: This one and the others.

    Returns:
        The run as this rank has seen it.
    """
    lines = Share(simulation=simulation, engine=engine, opening=opening).follow(ranks)
    return History(
        path=opening.path,
        experiment=simulation.plan.experiment,
        environment=opening.environment,
        rounds=[*opening.start.past, *lines],
    )


def packed(opening: Opening) -> bytes:
    """Return an opening as bytes, without the states of clients."""
    state = opening.start.state
    tensors = {"params": state.params, "integers": state.integers}
    for link, values in state.transforms.items():
        tensors |= {f"{link}/{name}": value for name, value in values.items()}
    about = {
        "path": str(opening.path),
        "environment": dict(opening.environment),
        "round": state.round,
        "links": list(state.transforms),
        "past": [dict(line) for line in opening.start.past],
        "stateful": opening.legacy.stateful,
        "key": opening.key.hex(),
        "narrowed": list(opening.legacy.narrowed.items()),
    }
    return pack(tensors, {"about": json.dumps(about)})


def unpacked(data: bytes) -> Opening:
    """Return the opening that `packed` made bytes of."""
    tensors, metadata = unpack(data)
    about: dict[str, Any] = json.loads(metadata["about"])
    params, integers = tensors.pop("params"), tensors.pop("integers")
    transforms: dict[str, dict[str, Tensor]] = {link: {} for link in about["links"]}
    for key, value in tensors.items():
        link, _, name = key.partition("/")
        transforms[link][name] = value
    state = ServerState(
        round=about["round"], params=params, integers=integers, transforms=dict(transforms)
    )
    return Opening(
        path=Path(about["path"]),
        environment=about["environment"],
        start=Start(state=state, clients={}, past=about["past"]),
        key=bytes.fromhex(about["key"]),
        legacy=Legacy(stateful=about["stateful"], narrowed=dict(about["narrowed"])),
    )
