"""What a confusion matrix says about each class; without torch, so that reports can ask too."""

from collections.abc import Sequence


def precision_recall(confusion: Sequence[Sequence[int]]) -> dict[str, list[float | None]]:
    """Return precision and recall of each class.

    Args:
        confusion: Rows are true classes, columns what they were taken for.

    Returns:
        ``precision`` and ``recall``, a list by class each; None for a class that nothing was taken
        for, or that does not occur.
    """
    right = [row[k] for k, row in enumerate(confusion)]
    columns = [sum(column) for column in zip(*confusion, strict=True)]
    rows = [sum(row) for row in confusion]
    return {
        name: [r / total if total else None for r, total in zip(right, totals, strict=True)]
        for name, totals in (("precision", columns), ("recall", rows))
    }
