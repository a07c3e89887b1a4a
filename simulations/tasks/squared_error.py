"""The squared error as a metric."""

from torch import Tensor


def squared_error(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Sum each example's mean squared error over the batch: ``mse``.

    Args:
        outputs: Predictions, shape ``(B, ...)``.
        targets: True values of the same shape.
    """
    return {"mse": (outputs - targets).double().square().reshape(len(targets), -1).mean(1).sum()}
