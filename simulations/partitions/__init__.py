"""How examples are divided over clients, and what the division looks like."""

from roundel.simulations.partitions.files import is_described, write_report
from roundel.simulations.partitions.make import make_partition
from roundel.simulations.partitions.own import own_partition
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.picture import picture_svg
from roundel.simulations.partitions.report import PartitionReport, describe
from roundel.simulations.partitions.terminal import picture_text

__all__ = [
    "Partition",
    "PartitionReport",
    "describe",
    "is_described",
    "make_partition",
    "own_partition",
    "picture_svg",
    "picture_text",
    "write_report",
]
