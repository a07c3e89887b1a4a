"""A federation small enough to compute by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roundel.core.clientstate import ClientState
from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.data import Examples
from roundel.core.learning import Learner
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.params import ParamSpec
from roundel.core.records import RoundReport
from roundel.core.task import Task
from roundel.server.aggregation import ServerState, initial_state
from roundel.server.loop import Server
from roundel.server.open_round import Absence, OpenRound, nobody
from roundel.server.round import (
    Assign,
    ClientFailed,
    RoundTerms,
    UpdateArrived,
)
from roundel.strategies.compose import Strategy
from roundel.strategies.fedavg import fedavg
from roundel.strategies.plan import Plan


class Toy(nn.Module):
    """Two weights, one float buffer and one integer buffer: the vector is (mean, w0, w1)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.mean: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.tensor([10.0]))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def absolute_error(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {"accuracy": (outputs - targets).abs().sum()}


TASK = Task(name="toy", model=Toy, loss=squared_error, metrics=absolute_error)
SPEC = ParamSpec.of(Toy())
STRATEGY = fedavg()
ROWS = Examples(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 4.0]))
"""The initial weights miss the first by 0 and the second by 2."""


def ticket_of(client_id: int, *, run="r", round=1, stage=0, attempt=0) -> Ticket:
    return Ticket(run=run, round=round, client_id=client_id, stage=stage, attempt=attempt)


def update_of(client_id: int, delta: Sequence[float] = (0.5, -0.5), **changes) -> ClientUpdate:
    """An update of round 1 that the gate lets through, but for the changes."""
    fields = {
        "ticket": ticket_of(client_id),
        "base_version": 0,
        "num_examples": 2,
        "num_steps": 1,
        "channels": {
            "params": torch.tensor(delta),
            "buffers": torch.tensor([1.0]),
            "integers": torch.tensor([4]),
        },
        "metrics": Metrics({"loss": 3.0}, 2),
    }
    return ClientUpdate(**{**fields, **changes})


def state_of(strategy: Strategy = STRATEGY) -> ServerState:
    vector, integers = SPEC.read(Toy())
    return initial_state(strategy, SPEC, vector, integers)


def round_of(
    cohort: Sequence[int] = (1, 2),
    strategy: Strategy = STRATEGY,
    *,
    quorum: int = 1,
    deadline_s: float | None = None,
    target: int | None = None,
    absence: Absence = nobody,
) -> OpenRound:
    terms = RoundTerms(
        run="r",
        round=1,
        cohort=cohort,
        target=target or len(cohort),
        quorum=quorum,
        deadline_s=deadline_s,
    )
    return OpenRound(terms, strategy, SPEC, state_of(strategy), absence)


def bits(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Everything that tensors are, for comparisons in which 0.0 is not -0.0."""
    return {
        name: (t.dtype, tuple(t.shape), t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, t in tensors.items()
    }


def experiment_of(*settings: str) -> Experiment:
    base = ["partition.clients=4", "cohort.size=2", "evaluation.clients=0"]
    return load_experiment(None, [*base, *settings])


class FakeClock:
    """Time that passes when it is told to, or by a step at each look."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def server_of(
    experiment: Experiment,
    clock: FakeClock | None = None,
    *,
    strategy: Strategy = STRATEGY,
    test: Examples | None = ROWS,
    root: Examples | None = None,
) -> Server:
    return Server(
        plan=Plan.of(experiment, TASK, strategy),
        learner=Learner(TASK, seed=0),
        run="r",
        clock=clock or FakeClock(),
        test=test,
        root=root,
    )


Train = Callable[[TrainRequest], ClientUpdate | ClientFailure]
Evaluate = Callable[[EvaluateRequest], Evaluation | ClientFailure]


def half_a_step(request: TrainRequest) -> ClientUpdate:
    """Every client moves the first weight by 0.5."""
    return update_of(
        request.ticket.client_id,
        (0.5, 0.0),
        ticket=request.ticket,
        base_version=request.base_version,
    )


def fail(request: TrainRequest) -> ClientFailure:
    return ClientFailure(
        ticket=request.ticket,
        stage="train",
        error="ValueError: bad row",
        location="task.py:7",
        traceback="Traceback\n  task.py:7\nValueError: bad row\n",
    )


class FakeClients:
    """A population that answers at once, by two functions, and remembers what it was asked."""

    def __init__(
        self,
        train: Train = half_a_step,
        evaluate: Evaluate | None = None,
        states: Mapping[int, ClientState] | None = None,
    ) -> None:
        self._train = train
        self._evaluate = evaluate
        self._states = states
        self.requests: list[TrainRequest] = []
        self.log: list[Any] = []

    @property
    def size(self) -> int:
        return 4

    def train(self, open_round: OpenRound) -> None:
        self.log.append(("train", open_round.machine.terms.round))
        for instruction in open_round.start(now_s=0.0):
            if isinstance(instruction, Assign) and open_round.ended is None:
                request = open_round.request(instruction.ticket)
                self.requests.append(request)
                answer = self._train(request)
                failed = isinstance(answer, ClientFailure)
                open_round.handle(ClientFailed(answer) if failed else UpdateArrived(answer))

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        self.log.append(("commit", round, list(accepted)))

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        self.log.append(("evaluate", [request.ticket for request in requests]))
        assert self._evaluate is not None
        return [self._evaluate(request) for request in requests]

    def states(self) -> Mapping[int, ClientState] | None:
        return self._states


def run(server: Server, clients: FakeClients) -> list[tuple[ServerState, RoundReport]]:
    """Run all rounds; return the state and the report after each."""
    return list(server.rounds(clients, server.initial_state()))


def figures(**sums: float) -> Evaluate:
    """Make every client answer with these sums over two examples."""

    def evaluate(request: EvaluateRequest) -> Evaluation:
        return Evaluation(ticket=request.ticket, metrics=Metrics(sums, 2))

    return evaluate
