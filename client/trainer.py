"""One client's local work: from a request and its data to an update and its next state."""

from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter

import torch
from torch import Tensor

from roundel.client.custom import own_state, train_by
from roundel.core.clientstate import ClientState
from roundel.core.data import Examples
from roundel.core.faults import fails
from roundel.core.learning import Learner, LocalContext, LocalJob, Trained
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
from roundel.core.params import ParamSpec
from roundel.core.seeds import derive, isolated_rng
from roundel.core.training import TrainingContext
from roundel.strategies.plan import Plan

_PERSONAL = "personal"


class Trainer:
    """Trains and evaluates clients, one after another, on one reused model.

    Pure from the outside: what a call returns depends on its arguments alone.
    """

    def __init__(self, plan: Plan, learner: Learner) -> None:
        self._plan = plan
        self._learner = learner
        self._phases = lru_cache(maxsize=2)(plan.phases)

    def train(
        self, request: TrainRequest, examples: Examples, state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        """Train on one client's examples.

        Args:
            request: What the server sent.
            examples: What the client trains on.
            state: Its state as of its last committed round.

        Returns:
            The update to send, and the state to keep if it is accepted.
        """
        began = perf_counter()
        strategy, spec = self._plan.strategy, self._learner.spec
        ticket = request.ticket
        context = LocalContext(
            spec=spec,
            sent=self._start(request.params, state),
            received=request.channels,
            state=state,
        )
        job = LocalJob(
            context=context,
            integers=request.integers,
            examples=examples,
            phases=self._phases(ticket.round),
            corrections=strategy.corrections,
            loss_terms=strategy.loss_terms,
            seed=self._seed("batches", ticket),
        )
        with isolated_rng(self._seed("training", ticket)):
            trained = self._trained(job, ticket)
        channels = _deltas(spec, context.sent, trained)
        scalars: dict[str, float] = {}
        kept: dict[str, Tensor] = dict(trained.state)
        if spec.personal.stop > spec.personal.start:
            kept[_PERSONAL] = trained.vector[spec.personal].clone()
        for finish in strategy.finishers:
            finished = finish(trained, context)
            channels |= finished.channels
            scalars |= finished.scalars
            kept |= finished.state
        sent: Mapping[str, Tensor] = channels
        for codec in strategy.codecs:
            sent, after = codec.encode(sent, state, self._seed(codec.name, ticket))
            kept |= after
        update = ClientUpdate(
            ticket=ticket,
            base_version=request.base_version,
            num_examples=len(examples),
            num_steps=sum(trained.steps),
            channels=sent,
            scalars=scalars,
            metrics=trained.metrics,
            seconds=perf_counter() - began,
        )
        return update, kept

    def fails(self, ticket: Ticket) -> bool:
        """Tell whether this client is to fail on purpose."""
        return fails(self._plan.experiment, ticket.round, ticket.client_id)

    def evaluate(
        self, request: EvaluateRequest, examples: Examples, state: ClientState
    ) -> Evaluation:
        """Evaluate parameters on one client's held-out examples, with its personal layers."""
        vector = self._start(request.params, state)
        with isolated_rng(self._seed("evaluation", request.ticket)):
            metrics = self._learner.evaluate(vector, request.integers, examples)
        return Evaluation(ticket=request.ticket, metrics=metrics)

    def _trained(self, job: LocalJob, ticket: Ticket) -> Trained:
        """Train by the strategy's solver, by the user's own function, or by the learning loop."""
        function = self._plan.task.train
        if function is None:
            return (self._plan.strategy.solver or Learner.train)(self._learner, job)
        context = TrainingContext(
            round=ticket.round,
            client_id=ticket.client_id,
            seed=self._seed("own training", ticket),
            state=own_state(job.context.state),
            device=job.context.sent.device,
            config=self._plan.experiment,
        )
        return train_by(function, self._learner, job, context)

    def _start(self, params: Tensor, state: ClientState) -> Tensor:
        """Return the whole vector: what was sent, then what is personal."""
        spec = self._learner.spec
        if spec.personal.stop == spec.personal.start:
            return params
        personal = state.get(_PERSONAL, self._learner.initial[spec.personal])
        return torch.cat([params, personal])

    def _seed(self, purpose: str, ticket: Ticket) -> int:
        seed = self._plan.experiment.seed_for("training")
        return derive(seed, purpose, ticket.round, ticket.client_id)


def _deltas(spec: ParamSpec, sent: Tensor, trained: Trained) -> dict[str, Tensor]:
    """Return ``trained - sent`` of the shared part, by channel."""
    delta = trained.vector[spec.shared] - sent[spec.shared]
    channels = {PARAMS: delta[spec.shared_trainable]}
    if spec.shared_buffers.stop:
        channels[BUFFERS] = delta[spec.shared_buffers]
    if spec.integers:
        channels[INTEGERS] = trained.integers
    return channels
