"""Clipping by hand, and against the definition on random updates."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from math import inf, nan, sqrt

import pytest
import torch

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.core.params import Entry, ParamSpec
from roundel.server.admission import Admission
from roundel.strategies.cast import half
from roundel.strategies.clipping import bounded, clip, joint_norm
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.quantisation import int8, qsgd
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import Codec, Decoding
from roundel.strategies.topk import topk
from tests.federations import Point
from tests.strategies.toys import affine
from tests.strategies.updates import points, update, vec

SPEC = ParamSpec(
    (
        Entry(name="mean", shape=(1,), dtype=torch.float64, trainable=False),
        Entry(name="body", shape=(2, 1), dtype=torch.float64, trainable=True),
        Entry(name="bias", shape=(1,), dtype=torch.float64, trainable=True),
        Entry(name="head", shape=(4,), dtype=torch.float64, trainable=True, personal=True),
    ),
    dtype=torch.float64,
)
CONTEXT = LocalContext(spec=SPEC, sent=vec(*range(8)))
DECODING = Decoding(spec=SPEC, kinds={})


def codec_of(part: Part) -> Codec:
    (codec,) = part.codecs
    return codec


def encoded(part: Part, **channels: torch.Tensor) -> dict[str, torch.Tensor]:
    sent, state = codec_of(part).encode(channels, CONTEXT, 0)
    assert state == {}
    return dict(sent)


def decoded(part: Part, **channels: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(codec_of(part).decode(channels, DECODING))


def close(value: torch.Tensor, *numbers: float) -> None:
    torch.testing.assert_close(value, vec(*numbers), rtol=1e-12, atol=0)


def test_a_long_update_is_scaled_down_to_the_norm():
    close(encoded(clip(norm=2.5), params=vec(3, 0, 4))[PARAMS], 1.5, 0, 2)


@pytest.mark.parametrize("numbers", [(0.3, 0.0, 0.4), (3.0, 0.0, 4.0), (0.0, 0.0, 0.0)])
def test_an_update_within_the_norm_is_left_as_it_is(numbers):
    assert encoded(clip(norm=5), params=vec(*numbers))[PARAMS].tolist() == list(numbers)


def test_the_norm_is_that_of_all_vectors_together_and_one_factor_scales_them():
    # ||(1, 2, 2), (4, 0, 0)|| = 5, so everything is halved.
    sent = encoded(clip(norm=2.5), params=vec(1, 2, 2), control=vec(4, 0, 0))
    close(sent[PARAMS], 0.5, 1, 1)
    close(sent["control"], 2, 0, 0)


def test_per_layer_each_tensor_has_its_share_of_the_norm():
    # Two shared layers, (3, 4) and (1): a limit of 2 sqrt(2) / sqrt(2) = 2 each.
    sent = encoded(clip(norm=2 * sqrt(2), per_layer=True), params=vec(3, 4, 1))
    close(sent[PARAMS], 1.2, 1.6, 1)


def test_per_layer_vectors_share_the_limit_of_a_layer():
    sent = encoded(
        clip(norm=5 * sqrt(2), per_layer=True), params=vec(0, 6, 9), control=vec(8, 0, 12)
    )
    close(sent[PARAMS], 0, 3, 3)
    close(sent["control"], 4, 0, 4)


def test_what_codecs_put_beside_a_vector_is_left_alone():
    places = torch.tensor([0, 7])
    sent, _ = codec_of(clip(norm=2.5)).encode(
        {PARAMS: vec(3, 4), "params/places": places}, CONTEXT, 0
    )
    close(sent[PARAMS], 1.5, 2)
    assert sent["params/places"] is places


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_clipping_is_the_definition_and_twice_is_once(dtype):
    generator = torch.Generator().manual_seed(3)
    for size, norm in itertools.product([1, 2, 17, 1000], [1e-3, 0.7, 30.0]):
        for scale in (1e-3, 1.0, 50.0):
            value = (scale * torch.randn(size, generator=generator)).to(dtype)
            exact = value.double()
            factor = min(1.0, norm / sqrt(float(exact.square().sum())))
            once = bounded({PARAMS: value}, norm)[PARAMS]
            eps = torch.finfo(dtype).eps
            tiny = torch.finfo(dtype).smallest_normal
            torch.testing.assert_close(
                once.double(), factor * exact, rtol=4 * eps + 1e-13, atol=2 * tiny
            )
            assert float(joint_norm([once])) <= norm
            assert bounded({PARAMS: once}, norm)[PARAMS].equal(once)


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_stack_of_clients_is_clipped_row_by_row(per_layer):
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    rows[0] = 0
    controls = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    part = clip(norm=1.0, per_layer=per_layer)
    stacked = encoded(part, params=rows, control=controls)
    for k in range(6):
        alone = encoded(part, params=rows[k], control=controls[k])
        for name in alone:
            torch.testing.assert_close(stacked[name][k], alone[name], rtol=1e-12, atol=0)


# ---- at the server


def gate_of(strategy: Strategy) -> Admission:
    spec = ParamSpec((Entry(name="w", shape=(3,), dtype=torch.float64, trainable=True),))
    spec = ParamSpec(spec.entries, dtype=torch.float64)
    return Admission(strategy=strategy, spec=spec, base_version=0, selected=4)


def test_the_server_clips_what_a_client_did_not():
    strategy = compose(clip(norm=2.5))
    admitted = gate_of(strategy)(update(0, 3, 0, 4))
    assert not isinstance(admitted, str)
    close(admitted.channels[PARAMS], 1.5, 0, 2)


def test_an_honest_update_keeps_its_bits_at_the_server():
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        value = torch.randn(3, generator=generator)
        sent = encoded(clip(norm=0.5), params=value)
        assert decoded(clip(norm=0.5), **sent)[PARAMS].equal(sent[PARAMS])


def test_a_codec_after_the_clip_that_lengthens_updates_gains_nothing():
    strategy = compose(clip(norm=1.0), affine(factor=0.5, shift=-7.0))
    clipping, lengthening = strategy.codecs
    sent, _ = clipping.encode({PARAMS: vec(0.6, 0, 0.8)}, CONTEXT, 0)
    sent, _ = lengthening.encode(sent, CONTEXT, 0)
    honest = gate_of(strategy)(update(0, *sent[PARAMS].tolist()))
    lying = gate_of(strategy)(update(0, 1e6, 0, 0))
    assert not isinstance(honest, str)
    assert not isinstance(lying, str)
    torch.testing.assert_close(honest.channels[PARAMS], vec(0.6, 0, 0.8), rtol=1e-12, atol=1e-12)
    assert float(lying.channels[PARAMS].norm()) <= 1


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_not_finite_stays_so_and_is_refused(bad):
    refused = gate_of(compose(clip()))(update(0, 1, bad, 2))
    assert refused == "its channel 'params' holds values that are not finite"


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ({PARAMS: torch.zeros(3, dtype=torch.int64)}, "holds torch.int64"),
        ({PARAMS: vec(1, 2, 3).reshape(1, 3)}, "has the shape"),
        ({PARAMS: vec(1, 2)}, "has 2 numbers where the layers have 3"),
    ],
)
def test_what_cannot_be_clipped_is_refused_with_a_sentence(channels, said):
    with pytest.raises(ParameterError, match=said):
        decoded(clip(per_layer=True), **channels)


def test_an_update_without_parameters_is_refused_by_the_gate():
    refused = gate_of(compose(clip()))(replace(update(0, 1, 2, 3), channels={}))
    assert refused == "it has the channels [], not ['params']"


# ---- in a round


def test_the_mean_of_clipped_updates():
    # (3, 4) becomes (0.6, 0.8); (0, 0.5) and (0, 0) stay: their mean.
    strategy = compose(clip(norm=1.0))
    sent = [encoded(clip(norm=1.0), params=v)[PARAMS] for v in (vec(3, 4), vec(0, 0.5), vec(0, 0))]
    updates = [update(k, *value.tolist()) for k, value in enumerate(sent)]
    ((x, y),) = points(strategy, vec(0, 0), updates)
    assert (x, y) == (pytest.approx(0.2, rel=1e-12), pytest.approx(1.3 / 3, rel=1e-12))


# ---- what goes together


@pytest.mark.parametrize("norm", [0.0, -1.0, inf, nan])
def test_a_norm_that_is_none_is_an_error(norm):
    with pytest.raises(CompositionError, match=r"norm = .* must be a finite number above 0"):
        clip(norm=norm)


def test_it_goes_with_control_variates():
    assert {"params", "control"} <= compose(scaffold(), clip()).vectors


def test_the_server_cuts_what_error_feedback_after_it_has_added_up():
    # The client clips (0, 3) to (0, 1), adds the (4, 1) that it held back before, and sends 4 of
    # (4, 2): more than the limit, to which the server cuts it.
    strategy = compose(clip(norm=1.0), topk(share=0.5))
    spec = ParamSpec.of(Point(vec(0, 0)))
    context = LocalContext(spec=spec, sent=vec(0, 0), state={"topk.params": vec(4, 1)})
    channels, kept = {PARAMS: vec(0, 3)}, {}
    for codec in strategy.codecs:
        channels, state = codec.encode(channels, context, 0)
        kept |= state
    assert channels[PARAMS].tolist() == [4.0]
    assert kept["topk.params"].tolist() == pytest.approx([0.0, 2.0])
    decoding = Decoding(spec=spec, kinds=strategy.channels(spec))
    for codec in reversed(strategy.codecs):
        channels = codec.decode(channels, decoding)
    assert channels[PARAMS].tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("codes", [qsgd(levels=127), int8(), half()], ids=lambda p: p.name)
def test_codes_that_are_no_plain_numbers_come_after_it(codes):
    compose(clip(), codes)
    with pytest.raises(CompositionError):
        compose(codes, clip())


@pytest.mark.parametrize("codes", [qsgd(), qsgd(levels=1), qsgd(levels=127, bucket=None)])
def test_codes_that_stand_for_much_longer_updates_are_refused(codes):
    with pytest.raises(CompositionError, match="use int8, or qsgd with more levels, such as 127"):
        compose(clip(), codes)


@pytest.mark.parametrize("codes", [qsgd(levels=127), int8(), half()], ids=lambda p: p.name)
def test_codes_that_may_come_after_it_hardly_shorten_honest_updates(codes):
    strategy = compose(clip(norm=1.0), codes)
    spec = ParamSpec((Entry(name="w", shape=(2048,), dtype=torch.float64, trainable=True),))
    spec = ParamSpec(spec.entries, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2048, generator=generator, dtype=torch.float64)
    context = LocalContext(spec=spec, sent=value)
    kept = []
    for seed in range(5):
        channels: Mapping[str, torch.Tensor] = {PARAMS: value}
        for codec in strategy.codecs:
            channels, _ = codec.encode(channels, context, seed)
        for codec in reversed(strategy.codecs):
            decoding = Decoding(spec=spec, kinds=strategy.channels(spec))
            channels = codec.decode(channels, decoding)
        kept.append(float(channels[PARAMS] @ value / value.norm()))
    assert sum(kept) / len(kept) == pytest.approx(1.0, abs=0.02)  # 0.31 with 1 level


def test_per_layer_it_comes_before_what_leaves_numbers_out():
    compose(topk(), clip())
    compose(clip(per_layer=True), topk())
    with pytest.raises(CompositionError) as raised:
        compose(topk(), clip(per_layer=True))
    assert str(raised.value) == (
        "clip(norm=1, per_layer) cannot come after topk(share=0.01): it works layer by layer, and "
        "of some layers nothing may be left; name it before topk, or leave per_layer out"
    )


def test_weights_by_examples_are_not_bounded_and_equal_ones_are_a_word_away():
    # A client that claims 98 of 100 examples moves the mean by 0.98, and by 1/3 of equal weights.
    gate = gate_of(compose(clip(norm=1.0)))
    sent = [replace(update(k, 0, 0, 1), num_examples=1) for k in range(2)]
    sent.append(replace(update(2, 5, 0, 0), num_examples=98))
    updates = [taken for u in sent if not isinstance(taken := gate(u), str)]
    ((x, _, _),) = points(compose(clip(norm=1.0)), vec(0, 0, 0), updates)
    assert x == pytest.approx(0.98, rel=1e-12)
    equal = compose(fedavg(weights="uniform"), clip(norm=1.0))
    ((x, _, _),) = points(equal, vec(0, 0, 0), updates)
    assert x == pytest.approx(1 / 3, rel=1e-12)


def test_codes_that_reach_it_all_the_same_are_an_error():
    with pytest.raises(CompositionError, match="name the clip before the part that encodes it"):
        encoded(clip(), params=torch.tensor([1, 2, 3], dtype=torch.int8))


def test_it_keeps_nothing_at_clients():
    assert not compose(clip()).stateful(SPEC_WITHOUT_PERSONAL)


SPEC_WITHOUT_PERSONAL = ParamSpec(SPEC.entries[:3], dtype=torch.float64)
