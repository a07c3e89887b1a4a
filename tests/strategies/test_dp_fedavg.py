"""Private averaging: clipped sums over a fixed denominator, and the noise on them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, inf, sqrt
from typing import Any

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS, ClientUpdate
from roundel.core.noise import key_of, standard_normal
from roundel.core.params import Entry, ParamSpec
from roundel.server.admission import Admission
from roundel.server.aggregation import Accumulators, aggregate_updates, initial_state
from roundel.strategies.aggregators import Mean
from roundel.strategies.clipping import joint_norm
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.coordinatewise import median
from roundel.strategies.dp_fedavg import (
    CLIP_NORM,
    WITHIN,
    dp_adaptive,
    dp_fedavg,
    split_noise,
)
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadam
from roundel.strategies.local_dp import local_dp
from roundel.strategies.quantisation import qsgd
from roundel.strategies.scaffold import scaffold
from roundel.strategies.selectors import by_size, power_of_choice
from roundel.strategies.sites import RoundContext
from roundel.strategies.topk import topk
from tests.federations import Quadratic, drawn_to, federate, quadratic_task
from tests.strategies.updates import update, vec

BOTH = pytest.mark.parametrize("make", [dp_fedavg, dp_adaptive])


def spec_of(size: int) -> ParamSpec:
    entry = Entry(name="w", shape=(size,), dtype=torch.float64, trainable=True)
    return ParamSpec((entry,), dtype=torch.float64)


def context_of(*, wanted: int, noise: dict[str, torch.Tensor] | None = None) -> RoundContext:
    return RoundContext(
        round=1, population=99, selected=3, completed=3, wanted=wanted, noise=noise or {}
    )


def admitted(
    strategy: Strategy, deltas: Sequence[Sequence[float]], clip_norm: float = 1.0
) -> list[ClientUpdate]:
    """Return what the gate makes of updates of clients that do not clip but say all is well."""
    spec = spec_of(len(deltas[0]))
    received = {CLIP_NORM: vec(clip_norm)}
    gate = Admission(
        strategy=strategy, spec=spec, base_version=0, selected=len(deltas), broadcast=received
    )
    updates = []
    for k, delta in enumerate(deltas):
        sent = update(k, *delta, within=[0.5])
        if WITHIN not in strategy.aggregators:
            sent = update(k, *delta)
        updates.append(gate(sent))
    assert not any(isinstance(one, str) for one in updates)
    return [one for one in updates if not isinstance(one, str)]


def sums(
    strategy: Strategy, updates: Sequence[ClientUpdate], wanted: int
) -> dict[str, list[float]]:
    """Return the aggregates without noise."""
    size = len(updates[0].channels[PARAMS]) if updates else 3
    accumulators = Accumulators(strategy, spec_of(size))
    for one in updates:
        accumulators.add(one)
    finished = accumulators.finish(context_of(wanted=wanted))
    return {channel: value.tolist() for channel, value in finished.items()}


# ---- sums


def test_all_weigh_the_same_and_the_denominator_is_fixed():
    # ||(3, 4)|| is clipped to 1, (0, 0.5) stays; of 4 that were wanted 2 came.
    updates = admitted(compose(dp_fedavg()), [[3, 4], [0, 0.5]])
    found = sums(compose(dp_fedavg()), updates, wanted=4)
    assert found == {PARAMS: pytest.approx([0.6 / 4, 1.3 / 4], rel=1e-12)}


def test_a_round_to_which_nobody_came_is_noise_alone():
    noise = {f"dp_fedavg/{PARAMS}": vec(1, -2, 0.5)}
    strategy = compose(dp_fedavg(noise_multiplier=0.5, clip_norm=4.0))
    start = vec(1, 1, 1)
    state = initial_state(strategy, spec_of(3), start, torch.empty(0, dtype=torch.int64))
    after = aggregate_updates(strategy, spec_of(3), state, [], 99, wanted=8, noise=noise)
    assert after.params.tolist() == [1.25, 0.5, 1.125]  # a std of 0.5 * 4 / 8 = 1/4


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_one_client_moves_the_sum_by_no_more_than_the_norm(seed, per_layer):
    generator = torch.Generator().manual_seed(seed)
    strategy = compose(dp_fedavg(clip_norm=0.7, per_layer=per_layer))
    scales = [0.0, 1e-6, 0.1, 1.0, 1e6]
    deltas = [(s * torch.randn(5, generator=generator)).tolist() for s in scales]
    whole = vec(*sums(strategy, admitted(strategy, deltas), wanted=3)[PARAMS])
    for k in range(len(deltas)):
        without = admitted(strategy, deltas[:k] + deltas[k + 1 :])
        moved = whole - vec(*sums(strategy, without, wanted=3)[PARAMS])
        assert float(moved.norm()) * 3 <= 0.7 * (1 + 1e-9)
        other = [
            *deltas[:k],
            (1e9 * torch.randn(5, generator=generator)).tolist(),
            *deltas[k + 1 :],
        ]
        replaced = vec(*sums(strategy, admitted(strategy, other), wanted=3)[PARAMS])
        assert float((whole - replaced).norm()) * 3 <= 2 * 0.7 * (1 + 1e-9)


@BOTH
def test_without_noise_and_clipping_it_is_the_uniform_mean(make):
    knobs = {"clip_norm": inf} if make is dp_fedavg else {"initial_clip": 1e30}
    strategy = compose(make(noise_multiplier=0.0, **knobs))
    deltas = [[3.0, 4.0, -1.0], [0.0, 0.5, 2.0], [1e6, 0.0, 0.0]]
    updates = admitted(strategy, deltas, clip_norm=1e30)
    spec, start = spec_of(3), vec(7, 8, 9)
    states = []
    for each in (strategy, fedavg(weights="uniform")):
        before = initial_state(each, spec, start, torch.empty(0, dtype=torch.int64))
        states.append(aggregate_updates(each, spec, before, updates, 99))
    assert states[0].params.equal(states[1].params)
    assert strategy.privacy is None


def test_a_model_of_a_run_is_as_noisy_as_it_says(tmp_path):
    # Nobody has anything to learn: what moves is noise, of a variance of (z C / m)**2 a round.
    size, rounds, wanted = 500, 4, 2
    flat = Quadratic(torch.zeros(size, size, dtype=torch.float64), vec(*([0.0] * size)))
    ran = federate(
        tmp_path,
        compose(dp_fedavg(noise_multiplier=3.0, clip_norm=0.5, delta=1e-3, noise="seeded")),
        quadratic_task(torch.zeros(size, dtype=torch.float64)),
        [flat.examples() for _ in range(4)],
        rounds=rounds,
        cohort=wanted,
        steps=1,
    )
    scaled = ran.model["w"] / (sqrt(rounds) * 3.0 * 0.5 / wanted)
    assert abs(float(scaled.square().mean()) - 1) < 3 * sqrt(2 / size)
    assert abs(float(scaled.mean())) < 3 / sqrt(size)


def test_noise_has_the_right_scale_over_many_draws():
    (link,) = dp_fedavg(noise_multiplier=1.1, clip_norm=0.5).server
    drawn = []
    for number in range(200):
        noise = {f"dp_fedavg/{PARAMS}": standard_normal(key_of(number), 50)}
        mean = {PARAMS: torch.full((50,), 7.0, dtype=torch.float64)}
        after, _ = link.update(mean, {}, mean[PARAMS], context_of(wanted=50, noise=noise))
        drawn.append(after[PARAMS] - 7.0)
    values = torch.cat(drawn)
    std = 1.1 * 0.5 / 50
    assert abs(float(values.std()) / std - 1) < 3 / sqrt(2 * len(values))


def test_noise_is_added_in_double_precision_to_models_of_floats():
    (link,) = dp_fedavg(noise_multiplier=1.0, clip_norm=1.0).server
    noise = {f"dp_fedavg/{PARAMS}": vec(1 + 2**-30)}
    mean = torch.ones(1)
    after, _ = link.update({PARAMS: mean}, {}, mean, context_of(wanted=1, noise=noise))
    assert after[PARAMS].dtype == torch.float32
    assert after[PARAMS].item() == 2.0


def test_a_mean_of_floats_is_rounded_once_and_after_the_noise():
    # In floats 1/3 of (1 + 2**-23) would be rounded before the noise takes 1/3 off again.
    strategy = compose(dp_fedavg(clip_norm=10.0))
    spec = ParamSpec((Entry(name="w", shape=(1,), dtype=torch.float32, trainable=True),))
    start = torch.zeros(1)
    state = initial_state(strategy, spec, start, torch.empty(0, dtype=torch.int64))
    sent = replace(update(0), channels={PARAMS: torch.tensor([1 + 2.0**-23])})
    noise = {f"dp_fedavg/{PARAMS}": vec(-0.1)}  # times a std of 10 / 3
    after = aggregate_updates(strategy, spec, state, [sent], 99, wanted=3, noise=noise)
    assert after.params.dtype == torch.float32
    assert after.params.item() == pytest.approx(2.0**-23 / 3, rel=1e-7)


def test_noise_comes_before_every_other_link():
    strategy = compose(fedadam(), dp_fedavg())
    assert strategy.server[0].name == "dp_fedavg"
    assert len(strategy.server) > 1


# ---- the clipping norm that adapts


def encoded(norm: float, *delta: float) -> tuple[list[float], float]:
    (codec,) = dp_adaptive().codecs
    context = LocalContext(
        spec=spec_of(len(delta)), sent=vec(*delta), received={CLIP_NORM: vec(norm)}
    )
    sent, state = codec.encode({PARAMS: vec(*delta)}, context, 0)
    assert state == {}
    return sent[PARAMS].tolist(), sent[WITHIN].item()


def test_a_client_clips_and_says_whether_it_had_to():
    assert encoded(5.0, 3, 4) == ([3, 4], 0.5)
    assert encoded(2.5, 3, 4) == (pytest.approx([1.5, 2], rel=1e-12), -0.5)
    assert encoded(0.1, 0, 0) == ([0, 0], 0.5)


def test_a_stack_of_clients_is_encoded_row_by_row():
    (codec,) = dp_adaptive().codecs
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    context = LocalContext(spec=spec_of(2), sent=rows, received={CLIP_NORM: vec(1)})
    stacked, _ = codec.encode({PARAMS: rows}, context, 0)
    for k in range(3):
        alone, _ = codec.encode({PARAMS: rows[k]}, context, 0)
        assert stacked[WITHIN][k].equal(alone[WITHIN])
        torch.testing.assert_close(stacked[PARAMS][k], alone[PARAMS], rtol=1e-12, atol=0)


def adapted(deltas: Sequence[float], *, wanted: int, clip: float, **knobs: Any) -> float:
    """Return the norm after a round without noise, of clients with updates of these norms."""
    strategy = compose(dp_adaptive(noise_multiplier=0.0, initial_clip=clip, **knobs))
    spec, start = spec_of(1), vec(0)
    state = initial_state(strategy, spec, start, torch.empty(0, dtype=torch.int64))
    updates = []
    for k, delta in enumerate(deltas):
        (sent,), within = encoded(clip, delta)
        updates.append(update(k, sent, within=[within]))
    after = aggregate_updates(strategy, spec, state, updates, 99, wanted=wanted)
    return float(after.transforms["dp_adaptive"][CLIP_NORM])


def test_too_many_within_the_norm_make_it_smaller_and_too_few_larger():
    # 3 of 4 are within: exp(-0.2 (0.75 - 0.5)); 1 of 4 is: the inverse.
    assert adapted([1, 1, 1, 9], wanted=4, clip=2.0) == pytest.approx(2 * exp(-0.05), rel=1e-12)
    assert adapted([1, 9, 9, 9], wanted=4, clip=2.0) == pytest.approx(2 * exp(0.05), rel=1e-12)
    found = adapted([1, 9, 9, 9], wanted=4, clip=2.0, target_quantile=0.25, clip_lr=1.0)
    assert found == pytest.approx(2, rel=1e-12)


def test_those_who_did_not_come_count_as_half_within():
    # 2 of 8 came, both within: 1/2 + 2 (1/2) / 8 = 5/8.
    assert adapted([1, 1], wanted=8, clip=2.0) == pytest.approx(2 * exp(-0.2 / 8), rel=1e-12)
    assert adapted([], wanted=8, clip=2.0) == 2.0


@pytest.mark.parametrize("start", [0.1, 10.0])
def test_the_norm_finds_the_quantile_from_both_sides(start):
    # Norms from 0.5 to 1.5: their median is 1. Feedback of the wrong sign ends at 0.002 or 546.
    norms = [0.5 + k / 20 for k in range(21)]
    norm = start
    for _ in range(60):
        norm = adapted(norms, wanted=21, clip=norm)
    assert norm == pytest.approx(1.0, abs=0.08)


def test_both_sums_get_their_noise_and_that_of_updates_has_the_rounds_norm():
    # z = 1, s_b = 1: z_d = (1 - 1/4)**(-1/2). C = 3 moves to C exp(-0.2 (share - 0.5)).
    (link,) = dp_adaptive(noise_multiplier=1.0, count_noise=1.0).server
    noise = {f"dp_adaptive/{PARAMS}": vec(1, -2), f"dp_adaptive/{WITHIN}": vec(4)}
    aggregate = {PARAMS: vec(10, 10), WITHIN: vec(0.25)}
    after, state = link.update(
        aggregate, {CLIP_NORM: vec(3)}, vec(0, 0), context_of(wanted=20, noise=noise)
    )
    std = (4 / 3) ** 0.5 * 3 / 20
    assert after.keys() == {PARAMS}
    assert after[PARAMS].tolist() == pytest.approx([10 + std, 10 - 2 * std], rel=1e-12)
    share = 0.5 + 0.25 + 1.0 * 4 / 20
    assert state[CLIP_NORM].item() == pytest.approx(3 * exp(-0.2 * (share - 0.5)), rel=1e-12)
    assert aggregate[WITHIN].tolist() == [0.25]


@pytest.mark.parametrize("z", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("count_noise", [None, 2.5])
def test_one_client_is_as_hidden_in_both_sums_as_in_one_with_the_whole_noise(z, count_noise):
    # In units of each sum's noise a client moves both by (C / (z_d C), (1/2) / s_b): 1 / z.
    for m in (1, 10, 1000):
        for_updates, for_count = split_noise(z, count_noise, m)
        assert sqrt(for_updates**-2 + (0.5 / for_count) ** 2) == pytest.approx(1 / z, rel=1e-12)


def test_the_count_has_a_twentieth_of_the_cohort_as_noise_unless_that_is_too_little():
    assert split_noise(1.0, None, 200) == (pytest.approx((1 - 1 / 400) ** -0.5), 10.0)
    assert split_noise(1.0, None, 10) == (pytest.approx((4 / 3) ** 0.5), 1.0)


@pytest.mark.parametrize("lie", [0.5, 1e6, 3.0])
def test_nobody_counts_for_more_than_one(lie):
    strategy = compose(dp_adaptive(noise_multiplier=0.0))
    updates = [update(0, 0.0, within=[lie]), update(1, 0.0, within=[-1e9])]
    assert sums(strategy, updates, wanted=2)[WITHIN] == [0.0]
    assert sums(strategy, updates[:1], wanted=1)[WITHIN] == [0.5]


def test_counts_of_several_workers_merge():
    strategy = compose(dp_adaptive(noise_multiplier=0.0))
    workers = [Accumulators(strategy, spec_of(1)) for _ in range(2)]
    workers[0].add(update(0, 1.0, within=[0.5]))
    workers[1].add(update(1, 1.0, within=[-0.5]))
    workers[1].add(update(2, 1.0, within=[-0.5]))
    workers[0].merge(workers[1])
    assert workers[0].finish(context_of(wanted=4))[WITHIN].tolist() == [-0.125]


def test_the_server_clips_by_the_norm_that_it_has_sent():
    (one,) = admitted(compose(dp_adaptive()), [[3.0, 4.0]], clip_norm=2.5)
    assert float(joint_norm([one.channels[PARAMS]])) == pytest.approx(2.5, rel=1e-12)


def test_the_norm_goes_from_round_to_round_and_to_every_client(tmp_path):
    # Both clients move by 8 in the first round: C = 16 is cut by exp(-0.2 (1 - 1/2)).
    strategy = compose(dp_adaptive(noise_multiplier=0.0, initial_clip=16.0, sampling="fixed"))
    ran = drawn_to([16.0, 16.0], tmp_path, strategy, rounds=2, lr=0.5)
    assert ran.model["w"].tolist() == [12.0]
    assert ran.history.rounds[0]["bytes_down"] == 2 * (8 + 8)
    assert ran.history.rounds[0]["bytes_up"] == 2 * (8 + 8)
    assert "epsilon" not in ran.history.rounds[0]


@BOTH
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (topk(share=0.2), None),
        (None, qsgd(levels=127)),
        (None, topk(share=0.2, error_feedback=False)),
    ],
    ids=["topk first", "qsgd after", "topk after"],
)
def test_with_other_codecs_no_update_is_longer_than_the_norm(make, before, after):
    strategy = compose(*(part for part in (before, make(), after) if part is not None))
    spec, generator = spec_of(40), torch.Generator().manual_seed(2)
    broadcast = {CLIP_NORM: vec(1.0)}
    gate = Admission(strategy=strategy, spec=spec, base_version=0, selected=1, broadcast=broadcast)
    for scale in (1e-3, 1.0, 1e3):
        delta = scale * torch.randn(40, generator=generator, dtype=torch.float64)
        context = LocalContext(spec=spec, sent=delta, received=broadcast)
        channels: Mapping[str, torch.Tensor] = {PARAMS: delta}
        plain: dict[str, torch.Tensor] = {}
        for codec in strategy.codecs:
            channels, _ = codec.encode(channels, context, 1)
            if WITHIN in channels:
                plain[WITHIN] = channels[WITHIN]
            channels = {name: v for name, v in channels.items() if name != WITHIN}
        taken = gate(replace(update(0), channels={**plain, **channels}))
        assert not isinstance(taken, str), taken
        assert 0 < float(joint_norm([taken.channels[PARAMS]])) <= 1
        if make is dp_adaptive:
            assert taken.channels[WITHIN].item() == (0.5 if scale < 1 else -0.5)


# ---- what goes together


@BOTH
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (median(), "for sums; leave the rule out, or let each client add noise, by local_dp"),
        (scaffold(), "all it sends, by local_dp"),
        (fedavg(weights="examples"), "both set the weigher: leave it out of one of them"),
        (
            Part(name="plain", aggregators={PARAMS: Mean(weighted=False)}),
            "use one of them, or give one another name",
        ),
        (by_size(), "leave it out of one of them"),
        (power_of_choice(), "both set the selector: leave it out of one of them"),
        (local_dp(), "both set the privacy guarantee: leave it out of one of them"),
        (topk(error_feedback=True), "name it before the clip"),
        (qsgd(), "use int8, or qsgd with more levels, such as 127"),
    ],
    ids=lambda value: value.name if isinstance(value, Part | Strategy) else "",
)
def test_what_would_break_the_guarantee_is_refused_with_the_fix(make, other, said):
    with pytest.raises(CompositionError) as raised:
        compose(make(), other)
    assert str(raised.value).endswith(said)


def test_a_clip_per_layer_comes_before_what_leaves_numbers_out():
    compose(topk(), dp_fedavg())
    with pytest.raises(CompositionError, match="before topk, or leave per_layer out"):
        compose(topk(), dp_fedavg(per_layer=True))


@BOTH
def test_cohorts_are_drawn_by_poisson_sampling_or_have_a_fixed_size(make):
    assert compose(make()).selector.poisson
    assert not compose(make(sampling="fixed")).selector.poisson


@BOTH
@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier = -1.0 must be"),
        ({"noise_multiplier": 1e-3}, "a noise multiplier of 0.001 is beyond"),
        ({"noise_multiplier": 1e9}, "a noise multiplier of 1e.09 is beyond"),
        ({"delta": 0.0}, "delta = 0.0 must be at least 1e-12 and below 1"),
        ({"delta": 1.0}, "delta = 1.0 must be"),
        ({"epsilon_budget": 0.0}, "epsilon_budget = 0.0 must be"),
        ({"epsilon_budget": 1.0, "noise_multiplier": 0.0}, "guarantees nothing"),
        ({"sampling": "uniform"}, "sampling = 'uniform' must be one of 'poisson', 'fixed'"),
        ({"accountant": "moments"}, "accountant = 'moments' must be one of 'pld', 'rdp'"),
        ({"noise": "none"}, "noise = 'none' must be one of 'secure', 'seeded'"),
    ],
)
def test_a_bad_knob_is_an_error(make, knobs, said):
    with pytest.raises(CompositionError, match=said):
        make(**knobs)


@pytest.mark.parametrize(
    ("make", "knobs", "said"),
    [
        (dp_fedavg, {"clip_norm": 0.0}, "clip_norm = 0.0 must be"),
        (dp_fedavg, {"clip_norm": inf}, "clip_norm = inf must be"),
        (dp_adaptive, {"initial_clip": 0.0}, "initial_clip = 0.0 must be"),
        (dp_adaptive, {"target_quantile": 0.0}, "target_quantile = 0.0 must be"),
        (dp_adaptive, {"target_quantile": 1.0}, "target_quantile = 1.0 must be"),
        (dp_adaptive, {"clip_lr": 0.0}, "clip_lr = 0.0 must be"),
        (
            dp_adaptive,
            {"noise_multiplier": 1.0, "count_noise": 0.5},
            "count_noise = 0.5 must be a finite number above",
        ),
        (dp_adaptive, {"count_noise": inf}, "count_noise = inf must be"),
    ],
)
def test_a_bad_knob_of_its_own_is_an_error(make, knobs, said):
    with pytest.raises(CompositionError, match=said):
        make(**knobs)
