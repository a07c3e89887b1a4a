"""One further process of an all-reduce run: ``python -m roundel.simulations.topologies.rank``."""

import os
import sys
import threading
from pathlib import Path

from roundel.core.errors import RoundelError
from roundel.core.runfiles import read_run
from roundel.core.threads import intra_op_threads
from roundel.simulations.prepare import Pieces, prepare_again
from roundel.simulations.topologies.allreduce import Rank, ready, shard
from roundel.simulations.topologies.peers import union
from roundel.simulations.topologies.ring import Ring, meeting_point


def main(run: Path, rank: int, place: Path) -> int:
    """Train along with rank 0 until it says that it is over.

    Args:
        run: The run directory; nothing is written to it.
        rank: This one, from 1.
        place: The directory where they meet.

    Returns:
        The exit code.
    """
    try:
        experiment, environment = read_run(run)
        simulation = prepare_again(run, environment, experiment, Pieces(), load_test=False)
        ranks = experiment.topology.ranks
        store = meeting_point(place, ranks)
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


def end_with_the_run() -> None:
    """End this process as soon as the one that started it is gone, whatever it is doing.

    Rank 0 holds the other end of standard input open for as long as it lives.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        sys.stderr.write("the process of rank 0 is gone\n")
        sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_the_run()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
