"""K clients trained as one computation: their parameters are stacked along a leading axis.

`Stack.train` returns what `Learner.train` would for each job, up to rounding, several times faster
for small models: there the loop spends its time between operations and not in them. Where a model
or a strategy cannot be stacked, `why_not` says so in a sentence.

A step has two ways to find its gradients. Chains of plain layers are differentiated by hand on
stacks (`chain`); everything else goes through `torch.func` (`functional`).

`evaluate_together` judges many clients by one model, which needs no stack.
"""

from roundel.simulations.vectorized.chain import LARGEST_TRANSFORMED, convolves, layers_of
from roundel.simulations.vectorized.evaluation import evaluate_together
from roundel.simulations.vectorized.refusals import why_not
from roundel.simulations.vectorized.stack import Stack

__all__ = [
    "LARGEST_TRANSFORMED",
    "Stack",
    "convolves",
    "evaluate_together",
    "layers_of",
    "why_not",
]
