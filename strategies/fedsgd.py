"""FedSGD: one gradient of everything that a client has, and one step of the server."""

from collections.abc import Sequence
from dataclasses import replace

from roundel.core.learning import Phase
from roundel.core.optimizers import OptimizerSpec
from roundel.strategies.compose import Part
from roundel.strategies.fedavg import changed_mean
from roundel.strategies.server_optimizers import server_lr as scaled
from roundel.strategies.weighers import Weights, weigher


def fedsgd(*, server_lr: float = 0.1, weights: Weights | None = None) -> Part:
    """Average full-batch gradients and let the server step: large-batch SGD.

        g_k = gradient of F_k(w)                  on all examples of client k
        w  -= server_lr * sum(p_k g_k)            p_k = n_k / sum(n_j)

    Clients take one step of plain SGD at learning rate 1 on all their examples, so that their delta
    is ``-g_k`` and server optimizers beside this part see gradients, not gradients times a client's
    learning rate. Of the experiment's local training only weight decay and the limit on the
    gradient's norm remain. With float32 parameters a delta carries their rounding: an error of
    about ``6e-8 |w|`` in a gradient.

    Args:
        server_lr: The learning rate, above 0. The paper tunes it for every model; 0.1 is only where
            to start.
        weights: As in `fedavg`.

    Needs:
        Nothing but memory for a forward and backward pass over all of a client's examples at once.

    Verified:
        The oracle case, cases drawn at random, centralised gradient descent in closed form, and
        equality with FedAvg of one full-batch step at the same learning rate.

    Source:
        B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
        Data", AISTATS 2017, section 2.
    """
    return Part(
        name="fedsgd",
        phases=_one_step,
        weigher=weigher(weights),
        server=scaled(server_lr, "fedsgd"),
        refuses_after=changed_mean(server_lr),
    )


def _one_step(phases: Sequence[Phase]) -> Sequence[Phase]:
    first = phases[0]
    plain = OptimizerSpec(name="sgd", lr=1.0, weight_decay=first.optimizer.weight_decay)
    return (replace(first, optimizer=plain, epochs=None, steps=1, batch_size=None, trains=None),)
