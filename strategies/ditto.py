"""Ditto: a personal model beside the global one, and its plain relative, local fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from roundel.core.job import LocalJob, Phase
from roundel.core.learning import Learner
from roundel.strategies.compose import Part
from roundel.strategies.fedprox import pull_to
from roundel.strategies.server_optimizers import at_least_one, not_negative, positive
from roundel.strategies.sites import State

_PERSONAL = "ditto.personal"
_INTEGERS = "ditto.integers"


def ditto(*, lam: float = 0.1, lr: float | None = None, epochs: int | None = None) -> Part:
    """Beside any global method, train a model of its own at each client, pulled to the global one.

        w    by the global method, which does not notice
        v_k <- v_k - lr (grad F_k(v_k) + lam (v_k - w))     each step; w as it was received

    v_k starts where w was when client k first took part. A client is judged by its v_k, and before
    it has one by what it receives. Corrections and loss terms of the global method are not v_k's.

    Args:
        lam: Strength of the pull, 0 or more; 0 is training alone. The paper tries 0.05 to 2, and
            the default is the fixed value of FedLab's implementation.
        lr: Learning rate of v_k; None for the client's, with its schedule.
        epochs: Passes over the examples for v_k; None for as long as the client trains w.

    Needs:
        As much training again. State at the client: one whole vector.
    Verified:
        Oracle case (steps of v_k), lam = 0 against training alone, and the global model bit for bit
        against the method without Ditto.
    Source:
        T. Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML
        2021, Algorithm 1.
    """
    not_negative("lam", lam)
    longer = _said("lr", lr, epochs)

    def train_own(learner: Learner, job: LocalJob) -> State:
        state = job.context.state
        own = replace(
            job,
            context=replace(job.context, sent=state.get(_PERSONAL, job.context.sent)),
            integers=state.get(_INTEGERS, job.integers),
            phases=longer(job.phases),
            corrections=(pull_to(lam, job.context.sent_trainable),),
            loss_terms=(),
            pull=0.0,
            wants_impulse=False,
        )
        trained = learner.train(own)
        integers = {_INTEGERS: trained.integers} if learner.spec.integers else {}
        return {_PERSONAL: trained.vector, **integers}

    return Part(name=f"ditto(lam={lam:g})", side_work=(train_own,), evaluated=_own)


def fine_tune(*, epochs: int = 1, lr: float | None = None) -> Part:
    """Judge each client by what it received, trained further on its own examples first.

        v_k = local training from w,  thrown away after the evaluation

    The baseline that every personal method is to be held against. Nothing changes in the rounds: a
    client that is evaluated trains what it has just received for `epochs` passes over its training
    examples, and is judged on those that it holds out. The server's test set sees w as it is.

    Args:
        epochs: Passes over the client's training examples, 1 or more.
        lr: Learning rate; None for the client's in the round.

    Needs:
        `epochs` passes over the data for each client that is evaluated.
    Verified:
        Closed form, and parameters bit for bit against FedAvg.
    Source:
        S. Wu et al., "Motley: Benchmarking Heterogeneity and Personalization in Federated
        Learning", arXiv:2206.09262, 2022.
    """
    return Part(name=f"fine_tune(epochs={epochs})", tuning=_said("lr", lr, epochs))


def _own(received: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    return state.get(_PERSONAL, received)


def _said(
    knob: str, lr: float | None, epochs: int | None
) -> Callable[[Sequence[Phase]], Sequence[Phase]]:
    """Return phases with another learning rate and length, where they are said."""
    if lr is not None:
        positive(knob, lr)
    if epochs is not None:
        at_least_one("epochs", epochs)

    def rewrite(phases: Sequence[Phase]) -> Sequence[Phase]:
        if lr is not None:
            phases = [replace(p, optimizer=replace(p.optimizer, lr=lr)) for p in phases]
        if epochs is not None:
            phases = [replace(phase, epochs=epochs, steps=None) for phase in phases]
        return phases

    return rewrite
