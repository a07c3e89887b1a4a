"""One client's local work: from a request and its data to an update and its next state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from hashlib import blake2b
from time import perf_counter

import torch
from torch import Tensor

from roundel.client.custom import own_state, train_by
from roundel.core.clientstate import ClientState
from roundel.core.data import Examples
from roundel.core.faults import fails
from roundel.core.job import LocalContext, LocalJob, Trained, placed
from roundel.core.learning import Learner
from roundel.core.messages import (
    BUFFERS,
    INTEGERS,
    PARAMS,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.noise import draw_secret
from roundel.core.params import ParamSpec
from roundel.core.recycling import empty
from roundel.core.rows import rows_of, stretches
from roundel.core.seeds import derive, isolated_rng
from roundel.core.training import TrainingContext
from roundel.strategies.compose import GRADIENT
from roundel.strategies.plan import Plan

_PERSONAL = "personal"
_COUNTERS = "personal integers"

Secret = Callable[[], bytes]

Whole = tuple[Tensor, Tensor]
"""A vector ``(D,)`` and its integer vector, personal layers included."""

Tamper = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""An update's channels before they are encoded to those that are sent in their place."""

JudgeTogether = Callable[[Tensor, Tensor, Sequence[Examples]], Sequence[Metrics]]
"""A vector ``(D,)``, its integer vector and the examples of several clients to each one's sums."""


class Trainer:
    """Trains and evaluates clients, one after another, on one reused model.

    Pure from the outside: what a call returns depends on its arguments alone. Requests, answers and
    states lie on the CPU, and so does a job; whoever does it takes it to the learner's device.
    """

    def __init__(self, plan: Plan, learner: Learner, secret: Secret = draw_secret) -> None:
        """Make a trainer.

        Args:
            plan: The experiment.
            learner: Its model.
            secret: Gives 256 bits that only this side knows, always the same; asked once they are
                needed.
        """
        self._plan = plan
        self._learner = learner
        self._secret = cache(secret)
        self._phases = lru_cache(maxsize=2)(plan.phases)

    def train(
        self,
        request: TrainRequest,
        examples: Examples,
        state: ClientState,
        tamper: Tamper | None = None,
    ) -> tuple[ClientUpdate, ClientState]:
        """Train on one client's examples.

        Args:
            request: What the server sent.
            examples: What the client trains on.
            state: Its state as of its last committed round.
            tamper: Changes the channels before they are encoded, as an attacker would.

        Returns:
            The update to send, and the state to keep if it is accepted.
        """
        began = perf_counter()
        job = self.job(request, examples, state)
        trained = self.trained(job, request.ticket)
        [delta] = self.deltas([job], [trained])
        seconds = perf_counter() - began
        return self.answer(request, job, trained, delta, tamper, seconds=seconds)

    def job(self, request: TrainRequest, examples: Examples, state: ClientState) -> LocalJob:
        """Return what there is to do for one client; the arguments are those of `train`."""
        strategy, ticket = self._plan.strategy, request.ticket
        phases = self._phases(ticket.round)
        whole, integers = self._whole(request.params, request.integers, state)
        context = LocalContext(
            spec=self._learner.spec,
            sent=whole,
            received=request.channels,
            state=state,
            lr=phases[0].optimizer.lr,
            innovations=strategy.innovations,
        )
        return LocalJob(
            context=context,
            integers=integers,
            examples=examples,
            phases=phases,
            corrections=strategy.corrections,
            loss_terms=strategy.loss_terms,
            pull=strategy.pull,
            wants_impulse=strategy.wants_impulse,
            seed=self._seed("batches", ticket),
        )

    def trained(self, job: LocalJob, ticket: Ticket) -> Trained:
        """Do one client's job, by itself."""
        with isolated_rng(self._seed("training", ticket)):
            return self._trained(job, ticket)

    def deltas(self, jobs: Sequence[LocalJob], trained: Sequence[Trained]) -> list[Tensor]:
        """Return ``trained - sent`` of what is shared, of each of several jobs, shape ``(S,)``."""
        where = self._learner.spec.shared
        return [
            delta
            for those in stretches(len(jobs), where.stop)
            for delta in _less(
                rows_of([each.vector for each in trained[those]])[:, where],
                rows_of([job.context.sent for job in jobs[those]])[:, where],
            ).unbind()
        ]

    def answer(
        self,
        request: TrainRequest,
        job: LocalJob,
        trained: Trained,
        delta: Tensor,
        tamper: Tamper | None = None,
        *,
        seconds: float,
    ) -> tuple[ClientUpdate, ClientState]:
        """Return what a client sends and keeps, once its job is done.

        Args:
            request: What the server sent.
            job: What `job` made of it.
            trained: What training made of the job, wherever that was done.
            delta: See `deltas`.
            tamper: As for `train`.
            seconds: How long the training took.
        """
        began = perf_counter()
        strategy, spec, context = self._plan.strategy, self._learner.spec, job.context
        ticket = request.ticket
        trained = self._measured(trained, job, ticket)
        channels = _channels(spec, delta, trained)
        scalars: dict[str, float] = {}
        kept: dict[str, Tensor] = dict(trained.state)
        if spec.personal.stop > spec.personal.start:
            kept[_PERSONAL] = trained.vector[spec.personal].clone()
        if spec.integer_size > spec.shared_integers.stop:
            kept[_COUNTERS] = trained.integers[spec.shared_integers.stop :].clone()
        for finish in strategy.finishers:
            finished = finish(trained, context)
            channels |= finished.channels
            scalars |= finished.scalars
            kept |= finished.state
        if strategy.side_work:
            with isolated_rng(self._seed("side work", ticket)):
                [here] = placed([job], self._learner.device)
                for work in strategy.side_work:
                    kept |= {n: value.cpu() for n, value in work(self._learner, here).items()}
        if tamper is not None:
            channels = dict(tamper(channels))
        sent, after = self._encoded(channels, context, ticket, tampered=tamper is not None)
        kept |= after
        if strategy.settlers:
            settled: Mapping[str, Tensor] = channels
            if tamper is None:
                settled = strategy.decoded(sent, strategy.decoding(spec, context.received))
            for settle in strategy.settlers:
                kept |= settle(settled, context)
        update = ClientUpdate(
            ticket=ticket,
            base_version=request.base_version,
            num_examples=len(job.examples),
            num_steps=sum(trained.steps),
            channels=sent,
            scalars=scalars,
            metrics=Metrics() if self._is_private else trained.metrics,
            seconds=seconds + perf_counter() - began,
        )
        return update, kept

    def fails(self, ticket: Ticket) -> bool:
        """Tell whether this client is to fail on purpose."""
        return fails(self._plan.experiment, ticket.round, ticket.client_id)

    def evaluate(
        self,
        request: EvaluateRequest,
        examples: Examples,
        state: ClientState,
        own: Examples | None = None,
    ) -> Evaluation:
        """Evaluate parameters on one client's held-out examples, with its personal layers.

        Args:
            request: What the server sent.
            examples: Those of the split that it asks for.
            state: The client's state as of its last committed round.
            own: What the client trains on, for strategies that tune what it received first.
        """
        whole = self._whole(request.params, request.integers, state)
        with isolated_rng(self._seed("evaluation", request.ticket)):
            if request.split != "train":  # that is asked about what was sent, as it is
                whole = self._adapted(whole, own, state, request.ticket)
            metrics = self._learner.evaluate(*whole, examples)
        return Evaluation(ticket=request.ticket, metrics=metrics)

    @cached_property
    def judges_alike(self) -> bool:
        """Whether clients are judged by what they received alone, by nothing of their own."""
        spec, strategy = self._learner.spec, self._plan.strategy
        own = spec.personal.stop > spec.personal.start
        counts = spec.integer_size > spec.shared_integers.stop
        return not (own or counts or strategy.evaluated or strategy.tuning)

    def evaluate_together(
        self,
        requests: Sequence[EvaluateRequest],
        examples: Sequence[Examples],
        judge: JudgeTogether,
    ) -> list[Evaluation]:
        """Evaluate the same parameters on the examples of several clients that are judged alike.

        Args:
            requests: What the server sent; the same parameters to all.
            examples: Each client's, of the split that it asks for.
            judge: Finds out what they are worth.
        """
        first = requests[0]
        with isolated_rng(self._seed("evaluation", first.ticket)):
            found = judge(first.params, first.integers, examples)
        return [
            Evaluation(ticket=request.ticket, metrics=metrics)
            for request, metrics in zip(requests, found, strict=True)
        ]

    def _adapted(
        self, whole: Whole, own: Examples | None, state: ClientState, ticket: Ticket
    ) -> Whole:
        """Return what a client is judged by, from what it received."""
        strategy, (vector, integers) = self._plan.strategy, whole
        if strategy.evaluated is not None:
            vector = strategy.evaluated(vector, state)
        if strategy.tuning is None or not own:
            return vector, integers
        phases = strategy.tuning(self._phases(ticket.round))
        job = LocalJob(
            context=LocalContext(spec=self._learner.spec, sent=vector, lr=phases[0].optimizer.lr),
            integers=integers,
            examples=own,
            phases=phases,
            wants_impulse=False,
            seed=self._seed("tuning", ticket),
        )
        tuned = self._learner.train(job)
        return tuned.vector, tuned.integers

    def _measured(self, trained: Trained, job: LocalJob, ticket: Ticket) -> Trained:
        """Add what the strategy wants to know about the received model."""
        wanted = self._plan.strategy.measures
        if not wanted:
            return trained
        with isolated_rng(self._seed("measures", ticket)):
            loss, gradient = self._learner.measure(job, gradient=GRADIENT in wanted)
        return replace(trained, loss_before=loss, gradient_before=gradient)

    @property
    def _is_private(self) -> bool:
        """Whether clients hide what they send even from the server."""
        privacy = self._plan.strategy.privacy
        return privacy is not None and privacy.local

    def _encoded(
        self,
        channels: Mapping[str, Tensor],
        context: LocalContext,
        ticket: Ticket,
        *,
        tampered: bool,
    ) -> tuple[Mapping[str, Tensor], ClientState]:
        """Pass the long channels through the codecs; return all, and what codecs want kept."""
        strategy = self._plan.strategy
        kept: dict[str, Tensor] = {}
        plain = {name: value for name, value in channels.items() if name not in strategy.vectors}
        sent = {name: value for name, value in channels.items() if name in strategy.vectors}
        for codec in strategy.codecs:
            if tampered and codec.voluntary:
                continue
            seed = self._secret_seed if codec.secret else self._seed
            encoded, after = codec.encode(sent, context, seed(codec.name, ticket))
            kept |= after
            plain |= {n: v for n, v in encoded.items() if not strategy.is_encoded(n)}
            sent = {n: v for n, v in encoded.items() if strategy.is_encoded(n)}
        return plain | sent, kept

    def _trained(self, job: LocalJob, ticket: Ticket) -> Trained:
        """Train by the strategy's solver, by the user's own function, or by the learning loop."""
        function = self._plan.task.train
        [job] = placed([job], self._learner.device)
        if function is None:
            return (self._plan.strategy.solver or Learner.train)(self._learner, job).on_cpu()
        context = TrainingContext(
            round=ticket.round,
            client_id=ticket.client_id,
            seed=self._seed("own training", ticket),
            state=own_state(job.context.state),
            device=self._learner.device,
            config=self._plan.experiment,
        )
        return train_by(function, self._learner, job, context).on_cpu()

    def _whole(self, params: Tensor, integers: Tensor, state: ClientState) -> Whole:
        """Return the whole vectors: what was sent, then what is personal."""
        spec, learner = self._learner.spec, self._learner
        if spec.personal.stop > spec.personal.start:
            personal = state.get(_PERSONAL, learner.initial[spec.personal])
            params = torch.cat([params, personal])
        if spec.integer_size > spec.shared_integers.stop:
            own = learner.initial_integers[spec.shared_integers.stop :]
            integers = torch.cat([integers, state.get(_COUNTERS, own)])
        return params, integers

    def _seed(self, purpose: str, ticket: Ticket) -> int:
        seed = self._plan.experiment.seed_for("training")
        return derive(seed, purpose, ticket.round, ticket.client_id)

    def _secret_seed(self, purpose: str, ticket: Ticket) -> int:
        about = f"{purpose} {ticket.run} {ticket.round} {ticket.client_id}".encode()
        return int.from_bytes(blake2b(about, key=self._secret(), digest_size=32).digest(), "little")


def _less(rows: Tensor, sent: Tensor) -> Tensor:
    """Return ``rows - sent``, both of shape ``(K, n)`` and one dtype."""
    return torch.sub(rows, sent, out=empty(rows.numel(), rows.dtype).view(rows.shape))


def _channels(spec: ParamSpec, delta: Tensor, trained: Trained) -> dict[str, Tensor]:
    """Return what a client has to send about the shared part, by channel."""
    if not spec.shared_buffers.stop:
        channels = {PARAMS: delta}
    else:
        channels = {PARAMS: delta[spec.shared_trainable], BUFFERS: delta[spec.shared_buffers]}
    if spec.shared_integers.stop:
        channels[INTEGERS] = trained.integers[spec.shared_integers]
    return channels
