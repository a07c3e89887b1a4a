"""The same Flower app by `roundel flower run`."""

import os
import sys
from pathlib import Path

from contenders.jobs import Job

from roundel.cli.main import main as roundel

APP = Path(__file__).parent / "flower_rounds"


def main() -> None:
    """Run the job."""
    job = Job.of_command()
    os.environ["FLOWER_JOB"] = sys.argv[1]
    sys.argv = [
        *("roundel", "flower", "run", str(APP), "--clients", str(job.workload.cohort)),
        *("--workers", str(job.workers), "--out", str(Path(job.folder) / "run")),
    ]
    roundel()


if __name__ == "__main__":
    main()
