"""The sentences below a picture of a division."""

from roundel.simulations.partitions.report import PartitionReport


def title(report: PartitionReport) -> str:
    """Return what it is, in one line."""
    whole = f"{report.kind}: {report.clients:,} clients"
    if report.sampled is None:
        return f"{whole}, {report.examples:,} examples"
    if report.sampled == 0:
        return f"{whole}, each with examples that it brings itself"
    return f"{whole}, of which {report.sampled} were looked at"


def statistics(report: PartitionReport) -> list[str]:
    """Return the realised statistics, a sentence each."""
    said = []
    if sizes := report.sizes:
        none = f"; {_clients(report.empty)} none" if report.empty else ""
        said.append(
            f"Examples a client: {sizes['min']:,.0f} to {sizes['max']:,.0f}, median "
            f"{sizes['p50']:,.4g}, mean {sizes['mean']:,.4g} ± {sizes['std']:,.3g}{none}."
        )
    if distance := report.distance:
        said.append(
            f"Distance of a client's labels from those of all: mean {distance['mean']:.2f}, for "
            f"80% within {distance['p10']:.2f} to {distance['p90']:.2f} (0 the same, 1 disjoint)."
        )
    if report.skew.noise:
        said.append(f"Noise on inputs: standard deviation up to {report.skew.noise:g}.")
    if report.skew.rotations > 1:
        said.append(f"Inputs turned by one of {report.skew.rotations} angles.")
    if report.unreadable:
        said.append(f"The data of {len(report.unreadable)} could not be made.")
    return said


def _clients(count: int) -> str:
    return "1 client has" if count == 1 else f"{count:,} clients have"
