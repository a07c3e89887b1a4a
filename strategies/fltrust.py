"""FLTrust: trust clients as far as they agree with the server's own examples."""

from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.messages import PARAMS
from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import RESCALES, Part
from roundel.strategies.coordinatewise import MEDIAN
from roundel.strategies.distances import norms_from
from roundel.strategies.fedavg import changed_mean
from roundel.strategies.server_optimizers import server_lr as scaled
from roundel.strategies.sites import RoundContext


def fltrust(*, server_lr: float = 1.0) -> Part:
    """Weigh updates by how far they point where training on root examples points.

    The server trains on a few clean examples of its own, as a client would, which gives d_0:

        TS_k = max(0, cos(delta_k, d_0))
        step = server_lr * sum(TS_k |d_0| / |delta_k| delta_k) / sum(TS_k)

    Where nobody is trusted the model stays as it is; the paper does not say. Every other channel of
    floats takes the median of each coordinate, since the server's training gives no other.

    Args:
        server_lr: Server learning rate; 1 is the paper's.

    Needs:
        Nothing from the client. The server needs root examples and time to train on them, with the
        client's phases and without corrections of other parts.

    Verified:
        By hand, with clients along, across and against the root's update, at random against a slow
        loop, and in a run whose step is worked out; scales of single clients change nothing.

    Source:
        X. Cao et al., "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS
        2021, Algorithm 2.
    """
    return Part(
        name="fltrust",
        root=True,
        aggregators={PARAMS: OverRows("fltrust", _rule)},
        rule=MEDIAN,
        server=scaled(server_lr, "fltrust"),
        refuses={
            RESCALES: "it gives clients' updates the length of the server's own, which is a plain "
            "delta; leave one of them out"
        },
        refuses_after=changed_mean(server_lr),
    )


def _rule(rows: Tensor, _weights: Tensor, context: RoundContext) -> Tensor:
    if context.root is None:
        raise CompositionError(
            "fltrust compares updates with the server's own, and there is none: give the server "
            "root examples"
        )
    own = context.root[PARAMS].to(rows.dtype)
    length, lengths = own.norm(), norms_from(rows, own.new_zeros(()).expand_as(own))
    agreement = (rows @ own).clamp(min=0)  # TS_k |delta_k| |d_0|
    moves = lengths > 0
    trust = (agreement[moves] / lengths[moves]).clone()
    total = trust.sum()
    if not bool(total > 0):
        return own.new_zeros(own.shape)
    factors = lengths.new_zeros(lengths.shape)
    factors[moves] = trust / lengths[moves] * (length / total)
    return factors @ rows
