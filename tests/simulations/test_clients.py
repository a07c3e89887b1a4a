"""A population that is trained in blocks, on one rank or several."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import pytest
import torch

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientStore
from roundel.core.config import Experiment
from roundel.core.data import ClientData, Examples
from roundel.core.job import LocalJob, Trained
from roundel.core.learning import Learner
from roundel.core.messages import EvaluateRequest, Evaluation, Ticket
from roundel.core.ranks import ALONE, Ranks
from roundel.server.aggregation import ServerState
from roundel.server.loop import StartOver
from roundel.server.open_round import OpenRound
from roundel.server.round import RoundTerms
from roundel.simulations.blocks import Widths
from roundel.simulations.clients import BlockClients
from roundel.simulations.executor import LoopClients
from roundel.simulations.states import SharedStates
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.coordinatewise import median
from roundel.strategies.fedavg import fedavg
from roundel.strategies.plan import Plan
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import RoundContext
from tests.companies import on_ranks
from tests.federations import Quadratic, quadratic_task

TASK = quadratic_task(torch.zeros(2, dtype=torch.float64))
EXPERIMENT = Experiment.model_validate({"client": {"steps": 1, "lr": 0.5}})
LEARNER = Learner(TASK, 0)


@dataclass
class Population:
    """Client k has k + 1 examples, and its optimum is ``(k / 3, 0)``; some are broken."""

    broken: Sequence[int] = ()
    size: int = 10
    asked: list[int] = field(default_factory=list[int])

    def client(self, client_id: int) -> ClientData:
        self.asked.append(client_id)
        if client_id in self.broken:
            raise ValueError(f"client {client_id} is broken")
        examples = Quadratic.of([1.0, 1.0], [client_id / 3, 0.0]).examples(client_id + 1)
        none = Examples(examples.inputs[:0], examples.targets[:0])
        return ClientData(train=examples, validation=none, test=examples)


def block_clients(
    population: Population, strategy: Strategy, ranks: Ranks = ALONE, **more: Any
) -> BlockClients:
    return BlockClients(
        trainer=Trainer(Plan.of(EXPERIMENT, TASK, strategy), LEARNER),
        population=population,
        store=SharedStates(ranks, ClientStore(), ClientStore, any_yet=False),
        cost=lambda client_id: client_id + 1,
        ranks=ranks,
        **more,
    )


def opened(strategy: Strategy, *cohort: int, target: int | None = None) -> OpenRound:
    state = ServerState(
        round=0,
        params=LEARNER.initial,
        integers=LEARNER.initial_integers,
        transforms={link.name: link.init(LEARNER.initial) for link in strategy.server},
    )
    terms = RoundTerms(run="r", round=1, cohort=cohort, target=target or len(cohort), quorum=1)
    return OpenRound(terms, strategy, LEARNER.spec, state)


def told(round: OpenRound) -> list[Any]:
    """Return everything about a round but how long it took."""
    records = [{**vars(record), "seconds": None} for record in round.client_records()]
    return [records, vars(round.train_metrics()), round.bytes_up, round.bytes_down]


def aggregate(round: OpenRound) -> dict[str, list[float]]:
    """Return what the round's updates come to, bit for bit."""
    completed = len(round.accepted())
    context = RoundContext(
        round=1, population=10, selected=6, completed=completed, wanted=3, states={}, seed=0
    )
    finished = round.accumulators.finish(context)
    return {channel: value.tolist() for channel, value in finished.items()}


def questions(*client_ids: int) -> list[EvaluateRequest]:
    return [
        EvaluateRequest(
            ticket=Ticket(run="r", round=1, client_id=client_id),
            params=LEARNER.initial,
            integers=LEARNER.initial_integers,
        )
        for client_id in client_ids
    ]


@pytest.mark.parametrize("make", [fedavg, scaffold, lambda: compose(median())])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("width", [1, 2])
def test_a_round_comes_out_as_the_loop_says_on_any_number_of_ranks(make, ranks, width):
    strategy = make()
    cohort, broken = (0, 2, 3, 5, 6, 8), (2, 8)
    reference = opened(strategy, *cohort, target=3)
    plan = Plan.of(EXPERIMENT, TASK, strategy)
    loop = LoopClients(Trainer(plan, LEARNER), Population(broken), ClientStore())
    loop.train(reference)
    loop.commit(1, reference.accepted())
    expected = aggregate(reference)
    states = {str(k): [v.tolist() for v in s.values()] for k, s in loop.states().items()}

    def work(group):
        clients = block_clients(Population(broken), strategy, group, widths=Widths(width))
        round = opened(strategy, *cohort, target=3)
        clients.train(round)
        clients.commit(1, round.accepted())
        held = {str(k): [v.tolist() for v in s.values()] for k, s in clients.states().items()}
        return told(round) == told(reference), aggregate(round) == expected, held

    first, *others = on_ranks(ranks, work) if ranks > 1 else [work(ALONE)]
    assert list(first) == [True, True, states]
    assert others == [[True, True, {}]] * (ranks - 1)


def test_only_as_many_are_trained_as_the_round_still_wants():
    population = Population(broken=(1,))
    round = opened(fedavg(), 1, 4, 6, 7, 8, target=2)
    block_clients(population, fedavg()).train(round)
    assert sorted(population.asked) == [1, 4, 6]
    assert round.accepted() == [4, 6]


def test_a_block_is_trained_at_once():
    widths = []

    def together(jobs: Sequence[LocalJob]) -> list[Trained]:
        widths.append(len(jobs))
        return [LEARNER.train(job) for job in jobs]

    round = opened(fedavg(), *range(7))
    block_clients(Population(), fedavg(), widths=Widths(3), together=together).train(round)
    assert sorted(widths) == [1, 2, 2, 2]
    assert round.accepted() == list(range(7))


def test_evaluations_are_shared_and_come_in_the_order_asked():
    requests = questions(6, 4, 3, 0)

    def work(ranks):
        population = Population(broken=(4,))
        answers = block_clients(population, fedavg(), ranks).evaluate(requests)
        return [
            answer.metrics.count if isinstance(answer, Evaluation) else answer.error
            for answer in answers
        ], population.asked

    answers = [7, "ValueError: client 4 is broken", 4, 1]
    assert on_ranks(2, work) == [[answers, [6, 3]], [answers, [4, 0]]]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_same_clients_are_judged_together_on_any_number_of_ranks(ranks):
    def work(group):
        blocks: list[list[int]] = []

        def judge(vector, integers, examples):
            blocks.append([len(each) for each in examples])
            return [LEARNER.evaluate(vector, integers, each) for each in examples]

        more = {"widths": Widths(3), "judge": judge}
        answers = block_clients(Population(), fedavg(), group, **more).evaluate(
            questions(6, 4, 3, 9, 0)
        )
        counts = [each.metrics.count for each in answers if isinstance(each, Evaluation)]
        return counts, blocks

    found = [work(ALONE)] if ranks == 1 else on_ranks(ranks, work)
    assert [list(answers) for answers, _ in found] == [[7, 5, 4, 10, 1]] * ranks
    assert [block for _, blocks in found for block in blocks] == [[7, 5, 4], [10, 1]]


def test_clients_with_a_model_of_their_own_are_judged_one_by_one():
    def judge(_vector, _integers, _examples):
        raise AssertionError("they were judged together")

    strategy = compose(Part(name="own", evaluated=lambda received, _state: received + 1.0))
    more = {"widths": Widths(3), "judge": judge}
    asked = questions(2, 5)
    answers = block_clients(Population(), strategy, **more).evaluate(asked)
    assert list(answers) == list(block_clients(Population(), strategy).evaluate(asked))


def test_a_client_that_took_long_gets_a_rank_for_itself_the_next_time():
    def together(jobs: Sequence[LocalJob]) -> list[Trained]:
        if any(len(job.examples) == 1 for job in jobs):
            sleep(0.2)  # client 0, of which its examples do not tell
        return [LEARNER.train(job) for job in jobs]

    def work(ranks):
        population = Population()
        clients = block_clients(population, fedavg(), ranks, together=together)
        trained = []
        for _ in range(2):
            population.asked.clear()
            clients.train(opened(fedavg(), *range(6)))
            trained.append(sorted(population.asked))
        return trained

    (_, first), (_, second) = on_ranks(2, work)
    assert [0] in (list(first), list(second))


@pytest.mark.parametrize("ranks", [1, 3])
def test_all_ranks_start_over_if_one_of_them_is_short_of_memory(ranks):
    def together(jobs: Sequence[LocalJob]) -> list[Trained]:
        if len(jobs) > 1 and any(len(job.examples) == 10 for job in jobs):
            raise torch.OutOfMemoryError("out of memory")
        return [LEARNER.train(job) for job in jobs]

    def work(group):
        widths = Widths(4)
        clients = block_clients(Population(), fedavg(), group, widths=widths, together=together)
        with pytest.raises(StartOver):
            clients.train(opened(fedavg(), *range(10)))
        round = opened(fedavg(), *range(10))
        clients.train(round)  # in which the largest client is a block of its own
        return [widths.of(1), round.width, round.accepted()]

    found = on_ranks(ranks, work) if ranks > 1 else [work(ALONE)]
    assert [list(each) for each in found] == [[2, 2, list(range(10))]] * ranks
