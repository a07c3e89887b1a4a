"""Who takes part in a round: parts for the selector."""

from collections.abc import Sequence
from itertools import islice
from math import ceil, isfinite
from typing import Literal, get_args

from roundel.core.errors import CompositionError
from roundel.core.seeds import derive
from roundel.strategies.compose import Part
from roundel.strategies.sampling import UNIFORM, by_weight, each_by_chance, in_random_order
from roundel.strategies.server_optimizers import not_negative, one_of
from roundel.strategies.sites import Selection, Selector
from roundel.strategies.weighers import EQUAL

Drawn = Literal["size", "uniform"]

_FORGIVING = 20
_ALWAYS = 1000
_UNIT = 2.0**63


def uniform() -> Part:
    """Select ``cohort.size`` clients uniformly at random without replacement.

    This is what happens without any selector; naming it keeps other parts from bringing theirs.

        S ~ uniform over the subsets of m of N clients

    Needs:
        Nothing.

    Verified:
        By counting how often each pair of clients is drawn.

    Source:
        B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
        Data", AISTATS 2017, Algorithm 1.
    """
    return Part(name="uniform", selector=UNIFORM)


def poisson() -> Part:
    """Let each client take part on its own, with probability ``cohort.size / N``.

        P(k in S) = q = m / N,  independently for each of the N clients

    The cohort's size varies around ``cohort.size``. The round waits for all of it, and if it is
    empty the server steps without an update. Privacy accounts count on this kind of sampling.
    The gaps between those that take part are drawn from the geometric distribution, which is
    exact and costs what the cohort costs.

    Needs:
        Nothing.

    Verified:
        Against the binomial distribution of the cohort's size, by counting clients and pairs, and
        with empty cohorts end to end.

    Source:
        H. B. McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR
        2018, Algorithm 1.
    """
    return Part(name="poisson", selector=Selector(name="poisson", select=_poisson, poisson=True))


def _poisson(selection: Selection) -> list[int]:
    share = selection.size / selection.population
    return each_by_chance(selection.population, share, selection.seed)


def by_size() -> Part:
    """Select clients with probability proportional to their examples, and average them equally.

    Clients are drawn one after another without replacement:

        P(next is k) = n_k / sum(n_j of those not drawn yet)

    Weighting by ``n_k`` as well would count large clients twice, so all weights are equal. Draws
    *with* replacement ("MD sampling"), under which the equal mean is unbiased, can take one client
    several times; a cohort is a set here, and large clients come a little too seldom as it nears
    the population. Clients without examples are never drawn.

    Needs:
        That the server knows how many training examples each client has: in a simulation it counts
        them once, which costs what the whole population costs.

    Verified:
        Against the probabilities of each ordered draw, by counting.

    Source:
        T. Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 1,
        which draws with replacement; P. Efraimidis and P. Spirakis, "Weighted random sampling with
        a reservoir", 2006, for draws without.
    """
    selector = Selector(name="by_size", select=_by_size, asks=True)
    return Part(name="by_size", selector=selector, weigher=EQUAL)


def _by_size(selection: Selection) -> list[int]:
    return by_weight(_sizes(selection), selection.size, selection.seed)


def _sizes(selection: Selection) -> Sequence[int]:
    sizes = selection.sizes()
    if not any(sizes):
        raise CompositionError(
            "no client has training examples, so none can be drawn by their number; give some "
            "client data, or select uniformly"
        )
    return sizes


def round_robin() -> Part:
    """Go through the clients in the order of their numbers, ``cohort.size`` a round, over and over.

        S_t = {(t - 1) m, ..., t m - 1} modulo N

    No client takes part again before all others have. Where neighbouring numbers have similar data,
    as in partitions by rank or by rotation, cohorts are unlike the population.

    Needs:
        Nothing.

    Verified:
        In closed form.

    Source:
        Cyclic participation: Y. J. Cho et al., "On the Convergence of Federated Averaging with
        Cyclic Client Participation", ICML 2023.
    """
    return Part(name="round_robin", selector=Selector(name="round_robin", select=_round_robin))


def _round_robin(selection: Selection) -> list[int]:
    first = (selection.round - 1) * selection.size
    return sorted((first + place) % selection.population for place in range(selection.size))


def power_of_choice(*, candidates: int | None = None, drawn: Drawn = "size") -> Part:
    """Ask some candidates for the loss of the current model, and take those with the highest.

        A = d candidates, drawn by n_k without replacement
        S = the m of A with the highest F_k(w)

    The mean over S is unweighted, as candidates were drawn by size. Equal losses are settled by the
    lower client number. A candidate that does not answer, or whose loss is not finite, is not
    chosen; if none answers, the first m take part and the round tells why they fail.

    Args:
        candidates: d, at least ``cohort.size``; None for twice that. More of them follow the loss
            more closely, and learn faster from a more biased cohort.
        drawn: ``"size"``, the paper's; or ``"uniform"`` with the strategy's usual weights, for a
            server that does not know how many examples clients have.

    Needs:
        From each candidate, whether chosen or not: the parameters down and one pass over its
        training examples. Unless `drawn` is ``"uniform"``: sizes, as `by_size` does.

    Verified:
        On losses by hand, with candidates that fail, and in simulated rounds on quadratics.

    Source:
        Y. J. Cho, J. Wang and G. Joshi, "Towards Understanding Biased Client Selection in Federated
        Learning", AISTATS 2022 (arXiv:2010.01243), section 3.1.
    """
    one_of("drawn", drawn, get_args(Drawn))
    if candidates is not None and candidates < 1:
        raise CompositionError(
            f"candidates = {candidates} must be at least 1, and at least cohort.size"
        )

    def select(selection: Selection) -> list[int]:
        wanted = 2 * selection.size if candidates is None else candidates
        if wanted < selection.size:
            raise CompositionError(
                f"power_of_choice cannot choose cohort.size = {selection.size} clients from "
                f"candidates = {wanted}; raise strategy.candidates"
            )
        count = min(wanted, selection.population)
        if drawn == "size":
            asked = by_weight(_sizes(selection), count, selection.seed)
        else:
            asked = sorted(islice(in_random_order(selection.population, selection.seed), count))
        losses = zip(asked, selection.losses(asked), strict=True)
        known = [(-loss, client) for client, loss in losses if isfinite(loss)]
        if not known:
            return asked[: selection.size]
        return sorted(client for _, client in sorted(known)[: selection.size])

    return Part(
        name="power_of_choice",
        selector=Selector(name="power_of_choice", select=select, asks=True),
        weigher=EQUAL if drawn == "size" else None,
    )


def availability(*, share: float = 0.5, period: int = 24) -> Part:
    """Select uniformly among the clients that are available, each in a window of every period.

        k is available in round t  if  (t / period + phase_k) mod 1 < share

    Each client's phase is uniform in [0, 1), drawn once from the seed: devices that are charging
    and idle at some hours of the day, in a world with all time zones. If fewer than ``cohort.size``
    are available, they all take part.

    Args:
        share: The part of each period in which a client is available, above 0 and at most 1.
        period: Rounds from one window to the next, at least 1.

    Needs:
        Nothing.

    Verified:
        Against the window of each client, by counting how often each is selected, and with nobody
        available.

    Source:
        The model is Roundel's own, after the daily cycle described in K. Bonawitz et al., "Towards
        Federated Learning at Scale: System Design", MLSys 2019, section 9.
    """
    if not 0 < share <= 1:
        raise CompositionError(f"share = {share!r} must be above 0 and at most 1")
    if period < 1:
        raise CompositionError(f"period = {period!r} must be at least 1")

    def select(selection: Selection) -> list[int]:
        # Looking at one client more succeeds with probability `share`: the limit is only ever met
        # where nearly nobody is available.
        limit = ceil(_ALWAYS + _FORGIVING * selection.size / share)
        some = islice(in_random_order(selection.population, selection.seed), limit)
        available = (client for client in some if _is_available(client, selection, share, period))
        cohort = sorted(islice(available, selection.size))
        if not cohort:
            looked = min(limit, selection.population)
            raise CompositionError(
                f"availability(share={share:g}, period={period}) leaves none of {looked} clients "
                f"available in round {selection.round}; raise strategy.share"
            )
        return cohort

    return Part(
        name=f"availability(share={share:g}, period={period})",
        selector=Selector(name="availability", select=select),
    )


def _is_available(client: int, selection: Selection, share: float, period: int) -> bool:
    phase = derive(selection.run_seed, "phase", client=client) / _UNIT
    return (selection.round % period / period + phase) % 1 < share


def over_selection(*, extra: float = 0.3) -> Part:
    """Select more clients than are needed, and go on once ``cohort.size`` updates have arrived.

        |S| = min(N, ceil((1 + extra) m)),  uniform;  the round takes the first m updates

    The others' work is lost, so who is slow is seldom heard. They are asked in random order: where
    no time passes, as in a simulation, those asked first arrive first.

    Args:
        extra: How many more, as a share of ``cohort.size``; at least 0. The paper selects 130 %.

    Needs:
        The parameters down to each client that is asked, whether its update counts or not.

    Verified:
        By counting who is asked and who is heard.

    Source:
        K. Bonawitz et al., "Towards Federated Learning at Scale: System Design", MLSys 2019,
        section 9.
    """
    not_negative("extra", extra)

    def select(selection: Selection) -> list[int]:
        count = min(selection.population, ceil(selection.size * (1 + extra) - 1e-9))
        return list(islice(in_random_order(selection.population, selection.seed), count))

    return Part(
        name=f"over_selection(extra={extra:g})",
        selector=Selector(name="over_selection", select=select),
    )
