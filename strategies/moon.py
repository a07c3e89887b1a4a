"""MOON: representations close to the global model's, and away from the client's last ones."""

from math import log

import torch
from torch import Tensor
from torch.nn import functional

from roundel.core.job import Batch, LocalContext, Trained
from roundel.strategies.compose import Part
from roundel.strategies.server_optimizers import not_negative, positive
from roundel.strategies.sites import Finished

_STATE = "moon.previous"


def moon(*, mu: float = 1.0, temperature: float = 0.5) -> Part:
    """Model-contrastive learning: ``F_k`` plus mu times a contrastive loss of representations.

    With z, z_g and z_p what the last ``nn.Linear`` that a model calls is given, in the model in
    training, the one received in this round, and the client's own of the last round it took part
    in:

        l = -log(e**(s(z, z_g) / T) / (e**(s(z, z_g) / T) + e**(s(z, z_p) / T)))

    s is the cosine. z_g and z_p are computed in evaluation mode and carry no gradient. A client
    that takes part for the first time has z_p = z_g, which adds the constant ``mu log 2`` to the
    loss and nothing to its gradient. The paper's models have a projection head before the last
    layer: give yours one too.

    Args:
        mu: Weight of the contrastive loss, at least 0. The paper tries 0.1, 1, 5 and 10; 1 is the
            default of the authors' code.
        temperature: T, above 0; 0.5 in the paper.

    Needs:
        A model whose output layer is the last ``nn.Linear`` that it calls; two more forward passes
        a batch; state at the client as large as the whole model.

    Verified:
        The oracle case of its loss, cases drawn at random, gradients against finite differences,
        and equality with FedAvg in a client's first round and for mu = 0.

    Source:
        Q. Li et al., "Model-Contrastive Federated Learning", CVPR 2021, equations 3 and 4.
    """
    not_negative("mu", mu)
    positive("temperature", temperature)

    def term(batch: Batch) -> Tensor:
        spec, context = batch.context.spec, batch.context
        last, z = context.state.get(_STATE), batch.representation()
        if last is None:  # z_p = z_g: a constant
            return batch.outputs.new_tensor(mu * log(2))
        received, own = (batch.represent(spec.views(one)) for one in (context.sent, last))
        return mu * contrastive_loss(z, received, own, temperature)

    return Part(
        name=f"moon(mu={mu:g}, temperature={temperature:g})",
        loss_terms=(term,),
        finishers=(_keep,),
    )


def contrastive_loss(z: Tensor, z_global: Tensor, z_previous: Tensor, temperature: float) -> Tensor:
    """Return the mean contrastive loss of a batch, by cross-entropy, which cannot overflow.

    Args:
        z: Representations of the model in training, shape ``(..., F)``.
        z_global: Those of the model that was received.
        z_previous: Those of the client's model of its last round.
        temperature: Above 0.
    """
    cosines = [functional.cosine_similarity(z, other, dim=-1) for other in (z_global, z_previous)]
    logits = torch.stack(cosines, dim=-1) / temperature
    return -logits.log_softmax(dim=-1)[..., 0].mean()


def _keep(trained: Trained, _context: LocalContext) -> Finished:
    return Finished(state={_STATE: trained.vector.clone()})
