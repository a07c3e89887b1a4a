"""Noise that clients add themselves."""

from collections.abc import Mapping
from math import inf, sqrt

import pytest
import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.job import LocalContext
from roundel.core.messages import PARAMS
from roundel.core.noise import bound_key, key_of, standard_normal
from roundel.core.params import ParamSpec
from roundel.strategies.compose import Part, compose
from roundel.strategies.coordinatewise import median
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadam
from roundel.strategies.local_dp import local_dp, noised
from roundel.strategies.quantisation import qsgd
from roundel.strategies.scaffold import scaffold
from roundel.strategies.selectors import (
    availability,
    by_size,
    over_selection,
    poisson,
    power_of_choice,
    round_robin,
    uniform,
)
from roundel.strategies.sites import Decoding
from roundel.strategies.topk import topk
from roundel.strategies.weighers import EQUAL
from tests.federations import Point
from tests.strategies.updates import vec

SPEC = ParamSpec.of(Point(vec(0, 0)))
CONTEXT = LocalContext(spec=SPEC, sent=vec(0, 0))
SECRET = 2**255 + 7


def encoded(part: Part, channels: Mapping[str, Tensor], seed: int = SECRET) -> dict[str, Tensor]:
    (codec,) = part.codecs
    sent, state = codec.encode(channels, CONTEXT, seed)
    assert state == {}
    return dict(sent)


def test_a_client_clips_its_update_and_adds_noise_from_its_key():
    # ||(3, 4)|| is clipped to 2.5; a std of 2 * 2.5 = 5.
    part = local_dp(noise_multiplier=2.0, clip_norm=2.5, noise="seeded")
    drawn = standard_normal(key_of(SECRET), 2)
    expected = vec(1.5, 2) + 5 * drawn
    torch.testing.assert_close(encoded(part, {PARAMS: vec(3, 4)})[PARAMS], expected)


def test_the_noise_has_the_right_scale_over_many_rounds():
    part = local_dp(noise_multiplier=0.7, clip_norm=3.0, noise="seeded")
    zero = torch.zeros(100, dtype=torch.float64)
    drawn = torch.cat([encoded(part, {PARAMS: zero}, seed)[PARAMS] for seed in range(100)])
    assert abs(float(drawn.std()) / 2.1 - 1) < 3 / sqrt(2 * len(drawn))
    assert abs(float(drawn.mean())) < 3 * 2.1 / sqrt(len(drawn))


def test_all_vectors_are_clipped_together_and_each_gets_noise_of_its_own():
    part = local_dp(noise_multiplier=1.0, clip_norm=2.5, noise="seeded")
    sent = encoded(part, {PARAMS: vec(3, 0), "control": vec(0, 4)})
    drawn = standard_normal(key_of(SECRET), 4)  # in alphabetical order of the names
    torch.testing.assert_close(sent["control"], vec(0, 2) + 2.5 * drawn[:2])
    torch.testing.assert_close(sent[PARAMS], vec(1.5, 0) + 2.5 * drawn[2:])


def test_noise_is_rounded_to_the_dtype_of_the_update():
    sent = encoded(local_dp(), {PARAMS: torch.zeros(2)})
    assert sent[PARAMS].dtype == torch.float32


def test_a_secret_key_hides_two_updates_by_two_noises():
    # Otherwise a server that asks twice, with other parameters, would see their difference.
    one, other = ({PARAMS: vec(0.25, x)} for x in (0.0, 2.0**-40))
    part = local_dp(clip_norm=1.0)
    first, again, second = (encoded(part, each)[PARAMS] for each in (one, one, other))
    assert first.equal(again)
    assert float((first - second).abs().min()) > 1e-3
    key = bound_key(key_of(SECRET), "local_dp", one)
    torch.testing.assert_close(first, noised(one, 1.0, key)[PARAMS])


def test_only_seeded_noise_comes_from_the_experiment():
    assert local_dp().codecs[0].secret
    assert not local_dp(noise="seeded").codecs[0].secret


def test_the_server_takes_what_comes():
    (codec,) = local_dp().codecs
    sent = {PARAMS: vec(1e6, -1e6)}
    assert codec.decode(sent, Decoding(spec=SPEC, kinds={})) == sent


def test_its_guarantee_is_for_replacing_all_that_a_client_holds():
    # Two updates differ by 2 C at most, so that noise of z C is z / 2 times that.
    privacy = compose(local_dp(noise_multiplier=3.0, epsilon_budget=4.0)).privacy
    assert privacy is not None
    assert privacy.local
    assert (privacy.noise_multiplier, privacy.delta, privacy.budget) == (1.5, 1e-5, 4.0)


def test_all_updates_weigh_the_same():
    # A weight by examples would show in the noise of the mean how many a client has.
    assert compose(local_dp()).weigher == EQUAL
    with pytest.raises(CompositionError, match="both set the weigher: leave it out of one"):
        compose(local_dp(), fedavg(weights="examples"))


@pytest.mark.parametrize("asks", [by_size(), power_of_choice(), power_of_choice(drawn="uniform")])
def test_selectors_that_ask_about_data_are_refused(asks):
    with pytest.raises(CompositionError) as raised:
        compose(local_dp(), asks)
    assert str(raised.value).endswith(
        "it selects clients by what they tell of their data without noise; use a selector that "
        "asks for nothing, such as uniform or poisson"
    )


@pytest.mark.parametrize("other", [uniform, poisson, round_robin, over_selection, availability])
def test_selectors_that_ask_for_nothing_go_with_it(other):
    compose(local_dp(), other())


def test_an_attacker_leaves_out_what_protects_only_itself():
    assert [codec.voluntary for codec in local_dp().codecs] == [True]


@pytest.mark.parametrize("other", [median, fedadam, scaffold, qsgd, topk])
def test_whatever_the_server_makes_of_it_is_free(other):
    compose(local_dp(), other())


def test_what_an_earlier_codec_sends_beside_would_go_without_noise():
    with pytest.raises(CompositionError, match="'params/places' beside the update"):
        encoded(local_dp(), {PARAMS: vec(1, 2), "params/places": torch.tensor([3, 4])})


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier = 0.0 must be a finite number above 0"),
        ({"noise_multiplier": 1e-3}, "a noise multiplier of 0.0005 is beyond"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0 must be"),
        ({"clip_norm": inf}, "clip_norm = inf must be"),
        ({"delta": 0.0}, "delta = 0.0 must be"),
        ({"epsilon_budget": -1.0}, "epsilon_budget = -1.0 must be"),
        ({"noise": "none"}, "noise = 'none' must be one of"),
    ],
)
def test_a_bad_knob_is_an_error(knobs, said):
    with pytest.raises(CompositionError, match=said):
        local_dp(**knobs)
