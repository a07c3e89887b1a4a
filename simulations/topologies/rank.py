"""One further process of an all-reduce run: ``python -m roundel.simulations.topologies.rank``."""

import sys
from pathlib import Path

from roundel.core.errors import RoundelError
from roundel.core.runfiles import read_run
from roundel.simulations.prepare import Pieces, prepare_again
from roundel.simulations.simulate import intra_op_threads
from roundel.simulations.topologies.allreduce import Rank, ready, shard
from roundel.simulations.topologies.peers import union
from roundel.simulations.topologies.ring import Ring, meeting_point


def main(run: Path, rank: int, port: int) -> int:
    """Train along with rank 0, which listens at a port, until it says that it is over.

    Args:
        run: The run directory; nothing is written to it.
        rank: This one, from 1.
        port: On this machine.

    Returns:
        The exit code.
    """
    store = meeting_point(port)
    try:
        experiment, environment = read_run(run)
        simulation = prepare_again(run, environment, experiment, Pieces(), load_test=False)
        ranks = experiment.topology.ranks
        examples = shard(union(simulation.population), rank, ranks)
        store.set(ready(rank), "")
        with intra_op_threads(experiment.engine.threads):
            Rank(
                plan=simulation.plan,
                learner=simulation.learner,
                examples=examples,
                ring=Ring(store, rank, ranks),
            ).follow()
    except RoundelError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
