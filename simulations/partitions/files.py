"""The files that a division of examples leaves in a run directory."""

import json
from pathlib import Path

from roundel.core.files import write_atomic
from roundel.core.runfiles import PARTITION
from roundel.simulations.partitions.archive import save_partition
from roundel.simulations.partitions.picture import picture_svg
from roundel.simulations.partitions.report import PartitionReport

ARCHIVE = "partition.npz"
PICTURE = "partition.svg"


def write_report(report: PartitionReport, path: Path) -> None:
    """Write figures, picture and, if there is a partition, the partition itself.

    Of clients that bring their own examples there is nothing to draw.

    Args:
        report: What to write.
        path: The run directory.

    Raises:
        RunDirectoryError: It cannot be written.
    """
    if report.archive is not None:
        save_partition(report.archive.partition, report.archive.targets_sha256, path / ARCHIVE)
    if report.sampled != 0:
        write_atomic(path / PICTURE, picture_svg(report).encode())
    write_atomic(path / PARTITION, json.dumps(report.line(), indent=2).encode() + b"\n")


def is_described(path: Path) -> bool:
    """Tell whether `write_report` has done its work in a run directory."""
    return (path / PARTITION).exists()
