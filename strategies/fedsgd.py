"""FedSGD: one gradient of everything that a client has, and one step of the server."""

from collections.abc import Sequence
from dataclasses import replace

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext, Phase, Trained
from roundel.core.messages import PARAMS
from roundel.core.optimizers import OptimizerSpec
from roundel.strategies.compose import REACH, RESCALES, Part
from roundel.strategies.fedavg import changed_mean
from roundel.strategies.server_optimizers import server_lr as scaled
from roundel.strategies.sites import Finished
from roundel.strategies.weighers import Weights, weigher


def fedsgd(*, server_lr: float = 0.1, weights: Weights | None = None) -> Part:
    """Average full-batch gradients and let the server step: large-batch SGD.

        g_k = gradient of F_k(w)                  on all examples of client k
        w  -= server_lr * sum(p_k g_k)            p_k = n_k / sum(n_j)

    Clients take one step of plain SGD on all their examples in each phase of their local training,
    at that phase's own learning rate, and send how far they moved divided by how far a gradient of
    1 would have moved them: ``-g_k``. So server optimizers beside this part see gradients, and what
    stays at the client (personal layers, personal models) learns at the client's rate. Of the
    phases, which tensors they move, weight decay and the limit on the gradient's norm remain. With
    float32 parameters a delta carries their rounding: an error of about ``6e-8 |w| / lr`` in a
    gradient.

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
        phases=_one_step_each,
        finishers=(_gradient,),
        weigher=weigher(weights),
        server=scaled(server_lr, "fedsgd"),
        provides=frozenset({RESCALES}),
        refuses_after=changed_mean(server_lr),
        refuses={RESCALES: "each decides how long a client's update is; leave one of them out"},
        needs={
            REACH: "clients send gradients, which are read off how far the learning loop moved; "
            "leave the solver out"
        },
    )


def _one_step_each(phases: Sequence[Phase]) -> Sequence[Phase]:
    return [_one_step(phase) for phase in phases]


def _one_step(phase: Phase) -> Phase:
    asked = phase.optimizer
    plain = OptimizerSpec(name="sgd", lr=asked.lr, weight_decay=asked.weight_decay)
    return replace(phase, optimizer=plain, epochs=None, steps=1, batch_size=None)


def _gradient(trained: Trained, context: LocalContext) -> Finished:
    where = context.spec.shared_trainable
    delta = trained.vector[..., where] - context.sent[..., where]
    if trained.impulse is None:
        raise CompositionError(
            "fedsgd's local training must move all shared tensors alike; leave out the part that "
            "trains some of them longer than others"
        )
    return Finished(channels={PARAMS: delta / trained.impulse})
