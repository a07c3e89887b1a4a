"""Failures made on purpose, to see what a strategy and a deployment do about them.

Each is drawn from (seed, round, client), so it strikes the same clients in the same rounds in every
engine, and again when a run is resumed or a client is replayed.
"""

from roundel.core.config import Experiment
from roundel.core.seeds import derive


def drops(experiment: Experiment, round: int, client_id: int) -> bool:
    """Tell whether a client of the cohort drops out: it is asked and never answers."""
    return _strikes(experiment, experiment.faults.drop, "drop", round, client_id)


def fails(experiment: Experiment, round: int, client_id: int) -> bool:
    """Tell whether a client's training ends in an error."""
    return _strikes(experiment, experiment.faults.fail, "fail", round, client_id)


def _strikes(
    experiment: Experiment, probability: float, purpose: str, round: int, client_id: int
) -> bool:
    if probability == 0:
        return False
    draw = derive(experiment.seed_for("sampling"), purpose, round, client_id)
    return draw < probability * 2**63
