"""Server optimizers: links of the server's chain that shape the step.

All work on ``aggregate["params"]``, the mean delta, whose sign is that of a descent *step*: the
server adds it. Where a paper writes a gradient, read its negative.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.messages import PARAMS
from roundel.strategies.sites import Aggregate, RoundContext, ServerTransform, State, stateless

BiasCorrection = Literal["none", "kingma", "textbook", "flower"]
SecondMoment = Callable[[Tensor, Tensor], Tensor]
"""Second moment before and squared aggregate to second moment after."""


def server_lr(lr: float, of: str) -> tuple[ServerTransform, ...]:
    """Multiply the step by the server learning rate of a strategy; no link at all for 1."""
    positive("server_lr", lr)

    def update(
        aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        return {**aggregate, PARAMS: lr * aggregate[PARAMS]}, state

    if lr == 1.0:
        return ()
    return (ServerTransform(name=f"{of}.server_lr", init=stateless, update=update),)


def heavy_ball(beta: float, *, nesterov: bool = False) -> ServerTransform:
    """Accumulate steps: ``v = beta v + delta``, then step ``v`` (or ``delta + beta v``).

    Without dampening or bias correction, as in Hsu et al. 2019, section 4, and `torch.optim.SGD`.
    """
    unit_interval("momentum", beta)

    def init(params: Tensor) -> State:
        return {"velocity": torch.zeros_like(params)}

    def update(
        aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        delta = aggregate[PARAMS]
        velocity = beta * state["velocity"] + delta
        step = delta + beta * velocity if nesterov else velocity
        return {**aggregate, PARAMS: step}, {"velocity": velocity}

    return ServerTransform(name="momentum", init=init, update=update)


def adaptive(
    name: str,
    second_moment: SecondMoment,
    *,
    beta_1: float,
    beta_2: float,
    tau: float,
    v_init: float | None,
    bias_correction: BiasCorrection = "none",
) -> ServerTransform:
    """Divide by the root of a second moment (Reddi et al. 2021, Algorithm 2).

        m = beta_1 m + (1 - beta_1) delta
        v = second_moment(v, delta**2)
        step = m / (sqrt(v) + tau)

    Args:
        name: Names the state.
        second_moment: How v moves; this is where Adagrad, Adam and Yogi differ.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment, for the bias corrections.
        tau: Degree of adaptivity; keeps the denominator away from 0.
        v_init: Where v starts; None for the paper's ``tau**2``.
        bias_correction: ``"none"`` is Algorithm 2. With t = 1, 2, ... rounds, ``"kingma"`` scales
            the step by ``sqrt(1 - beta_2**t) / (1 - beta_1**t)``, ``"flower"`` does so with t + 1,
            and ``"textbook"`` corrects m and v apart, before tau is added.
    """
    unit_interval("beta_1", beta_1)
    unit_interval("beta_2", beta_2)
    positive("tau", tau)
    start = tau**2 if v_init is None else v_init
    not_negative("v_init", start)
    one_of("bias_correction", bias_correction, get_args(BiasCorrection))

    def init(params: Tensor) -> State:
        return {
            "m": torch.zeros_like(params),
            "v": torch.full_like(params, start),
            "t": torch.zeros((), dtype=torch.int64),
        }

    def update(
        aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        delta = aggregate[PARAMS]
        t = int(state["t"]) + 1
        m = beta_1 * state["m"] + (1 - beta_1) * delta
        v = second_moment(state["v"], delta.square())
        if bias_correction == "textbook":
            step = (m / (1 - beta_1**t)) / ((v / (1 - beta_2**t)).sqrt() + tau)
        else:
            exponent = {"none": None, "kingma": t, "flower": t + 1}[bias_correction]
            step = m / (v.sqrt() + tau)
            if exponent is not None:
                step = step * ((1 - beta_2**exponent) ** 0.5 / (1 - beta_1**exponent))
        return {**aggregate, PARAMS: step}, {"m": m, "v": v, "t": torch.tensor(t)}

    return ServerTransform(name=name, init=init, update=update)


def positive(knob: str, value: float) -> None:
    """Raise `CompositionError` unless the value is finite and above 0."""
    if not 0 < value < float("inf"):
        raise CompositionError(f"{knob} = {value!r} must be a finite number above 0")


def not_negative(knob: str, value: float) -> None:
    """Raise `CompositionError` unless the value is finite and at least 0."""
    if not 0 <= value < float("inf"):
        raise CompositionError(f"{knob} = {value!r} must be a finite number of at least 0")


def at_least_one(knob: str, value: int) -> None:
    """Raise `CompositionError` unless the number is at least 1."""
    if value < 1:
        raise CompositionError(f"{knob} = {value!r} must be a whole number of at least 1")


def unit_interval(knob: str, value: float) -> None:
    """Raise `CompositionError` unless the value is in [0, 1)."""
    if not 0 <= value < 1:
        raise CompositionError(f"{knob} = {value!r} must be at least 0 and below 1")


def one_of(knob: str, value: str, choices: Sequence[str]) -> None:
    """Raise `CompositionError` unless the value is one of the choices."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise CompositionError(f"{knob} = {value!r} must be one of {listed}")
