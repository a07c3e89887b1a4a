"""What attackers send, worked out by hand and against slow formulations."""

from math import inf, sqrt

import pytest
import torch
from torch import Tensor

from roundel.core.seeds import torch_generator
from roundel.simulations.attacks.vectors import (
    alie,
    direction_of,
    flip_labels,
    gaussian,
    ipm,
    min_max,
    min_max_gamma,
    min_sum,
    min_sum_gamma,
    sign_flip,
    supporters,
    z_max,
)
from tests.strategies.updates import vec

TWO = torch.stack([vec(0, 0), vec(4, 2)])
"""Mean (2, 1), standard deviation (2, 1), or (8, 2) ** 0.5 with a divisor of 1."""


def some_rows(seed: int, clients: int = 7, size: int = 5) -> Tensor:
    return torch.randn(clients, size, generator=torch_generator(seed), dtype=torch.float64)


def test_a_flipped_update_is_minus_itself_and_may_be_longer():
    assert sign_flip(vec(1, -2)).tolist() == [-1, 2]
    assert sign_flip(vec(1, -2), scale=3).tolist() == [-3, 6]


def test_noise_takes_the_place_of_an_update_or_is_added_to_it():
    delta = vec(*range(1000))
    noise = gaussian(delta, 5, mean=2.0, std=0.5)
    assert gaussian(delta, 5, mean=2.0, std=0.5, mode="add").equal(delta + noise)
    assert noise.equal(gaussian(0 * delta, 5, mean=2.0, std=0.5))
    # Of 1000 draws, the mean has a standard deviation of 0.016 and the standard deviation of 0.011.
    assert abs(noise.mean().item() - 2.0) < 0.06
    assert abs(noise.std().item() - 0.5) < 0.05


def test_noise_follows_from_its_seed():
    assert gaussian(vec(0, 0), 1).equal(gaussian(vec(0, 0), 1))
    assert not gaussian(vec(0, 0), 1).equal(gaussian(vec(0, 0), 2))


@pytest.mark.parametrize(
    ("sign", "ddof", "expected"),
    [
        ("minus", 0, [-1, -0.5]),
        ("plus", 0, [5, 2.5]),
        ("minus", 1, [2 - 1.5 * sqrt(8), 1 - 1.5 * sqrt(2)]),
        ("plus", 1, [2 + 1.5 * sqrt(8), 1 + 1.5 * sqrt(2)]),
    ],
)
def test_a_little_is_so_many_standard_deviations_off_the_mean(sign, ddof, expected):
    sent = alie(TWO, z=1.5, sign=sign, ddof=ddof)
    torch.testing.assert_close(sent, vec(*expected), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("ddof", [0, 1])
def test_a_single_honest_update_has_no_spread(ddof):
    assert alie(TWO[1:], z=100, ddof=ddof).tolist() == [4, 2]


@pytest.mark.parametrize(
    ("n", "f", "s", "z"),
    [
        (50, 12, 14, 0.33603814),  # Phi^-1(24 / 38)
        (50, 24, 2, 1.42607687),  # Phi^-1(24 / 26)
        (6, 2, 2, 0.0),  # Phi^-1(2 / 4)
        (5, 1, 2, 0.0),
        (4, 1, 2, -0.43072730),  # Phi^-1(1 / 3)
    ],
)
def test_the_papers_z_lets_attackers_and_their_supporters_be_the_majority(n, f, s, z):
    assert supporters(n, f) == s
    assert z_max(n, f) == pytest.approx(z, abs=1e-7)


@pytest.mark.parametrize("n", range(1, 12))
def test_z_is_finite_however_many_attack(n):
    assert all(abs(z_max(n, f)) < inf for f in range(n + 1))
    assert z_max(n, n - 1) == 0.0


def test_the_inner_product_with_the_mean_turns_negative():
    assert ipm(TWO, epsilon=0.5).tolist() == [-1, -0.5]
    assert ipm(TWO, epsilon=100.0).tolist() == [-200, -100]


def test_directions_lead_away_from_the_mean():
    rows = torch.stack([vec(0, 0, 0), vec(6, -8, 0)])  # mean (3, -4, 0)
    assert direction_of(rows, "std").tolist() == [-3, -4, 0]
    torch.testing.assert_close(direction_of(rows, "unit"), vec(-0.6, 0.8, 0))
    assert direction_of(rows, "sign").tolist() == [-1, 1, 0]
    assert direction_of(0 * rows, "unit").tolist() == [0, 0, 0]


@pytest.mark.parametrize("direction", ["std", "sign"])
@pytest.mark.parametrize(
    ("rows", "by_max", "by_sum"),
    [
        # Distances are at most 4: from 4 that leads to 0. Squares: 8 + 2 t**2 = 16, so t = 2.
        ([0, 4], 0, 0),
        # Distances are at most 3: from 3 to 0. Squares: 6 + 3 t**2 = 18, so t = 2.
        ([0, 0, 3], 0, -1),
        # Distances are at most 6: from 6 to 0. Squares: 18 + 3 t**2 = 45, so t = 3.
        ([0, 3, 6], 0, 0),
    ],
)
def test_on_a_line_the_farthest_point_is_found_by_hand(direction, rows, by_max, by_sum):
    honest = vec(*rows).unsqueeze(1)
    torch.testing.assert_close(min_max(honest, direction=direction), vec(by_max))
    torch.testing.assert_close(min_sum(honest, direction=direction), vec(by_sum))


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
@pytest.mark.parametrize("attack", [min_max, min_sum])
def test_honest_clients_who_agree_leave_no_room(attack, direction):
    assert attack(vec(1, -2).repeat(4, 1), direction=direction).tolist() == [1, -2]
    assert attack(vec(1, -2).repeat(1, 1), direction=direction).tolist() == [1, -2]


def largest_distance(point: Tensor, rows: Tensor) -> float:
    return max((point - row).norm().item() for row in rows)


def sum_of_squares(point: Tensor, rows: Tensor) -> float:
    return sum((point - row).square().sum().item() for row in rows)


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("gamma_of", "measure"),
    [(min_max_gamma, largest_distance), (min_sum_gamma, sum_of_squares)],
)
def test_gamma_is_as_large_as_the_bound_allows_and_no_larger(gamma_of, measure, seed, direction):
    rows = some_rows(seed)
    mean, towards = rows.mean(dim=0), direction_of(rows, direction)
    bound = max(measure(row, rows) for row in rows)
    # Bisection: at 0 the bound holds, and it fails at 1000.
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        within = measure(mean + middle * towards, rows) <= bound
        low, high = (middle, high) if within else (low, middle)
    assert gamma_of(rows, towards).item() == pytest.approx(low, rel=1e-9)


@pytest.mark.parametrize("attack", [alie, ipm, min_max, min_sum])
def test_the_order_of_the_honest_does_not_matter(attack):
    rows = some_rows(3)
    torch.testing.assert_close(attack(rows.flip(0)), attack(rows), rtol=1e-12, atol=1e-12)


def test_labels_are_mirrored():
    assert flip_labels(torch.tensor([0, 1, 4, 9]), 10).tolist() == [9, 8, 5, 0]
    assert flip_labels(torch.tensor([[1], [0]]), 2).tolist() == [[0], [1]]
