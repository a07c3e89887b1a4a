"""Directions and places, on vectors that can be worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from roundel.core.params import ParamSpec
from roundel.simulations.plane import (
    coordinates,
    filter_normalised,
    filter_norms,
    filters_of,
    principal,
    share_held,
)

PLANE = np.array([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3, bias=False)


def test_a_filter_is_what_makes_one_output_and_a_tensor_with_one_axis_is_one():
    model = Net()
    filters = filters_of(ParamSpec.of(model))
    conv, bias, norm = [0] * 4 + [1] * 4, [2] * 2, [3] * 2 + [4] * 2
    assert filters.tolist() == [*conv, *bias, *norm, 5, 5, 6, 6, 7, 7]


def test_personal_layers_and_buffers_have_no_filter():
    spec = ParamSpec.of(Net(), personal=lambda name: name.startswith("head"))
    shared = spec.shared_trainable
    assert len(filters_of(spec)) == shared.stop - shared.start == 14


def test_a_scalar_parameter_is_a_filter():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(2.0))

    assert filters_of(ParamSpec.of(Scaled())).tolist() == [0]


def test_filters_of_a_normalised_direction_are_as_long_as_those_of_the_centre():
    filters = np.array([0, 0, 1, 1])
    direction = np.array([3.0, 4.0, 0.0, 0.1])
    centre = np.array([0.0, 10.0, 6.0, 8.0])
    found = filter_normalised(direction, centre, filters)
    assert found.tolist() == pytest.approx([6.0, 8.0, 0.0, 10.0])
    assert filter_norms(found, filters).tolist() == pytest.approx([10.0, 10.0])


def test_a_filter_that_does_not_move_stays_where_it_is():
    found = filter_normalised(np.array([0.0, 2.0]), np.array([5.0, 3.0]), np.array([0, 1]))
    assert found.tolist() == [0.0, 3.0]


def test_principal_directions_follow_the_spread_and_lead_from_the_first_point_to_the_last():
    points = np.array([[5.0, 1, 0], [-5.0, 1, 0], [0.0, 2, 0], [0.0, 0, 0]])
    found = principal(points)
    assert found is not None
    assert found == pytest.approx(np.array([[-1.0, 0, 0], [0, -1.0, 0]]))


@pytest.mark.parametrize(
    "points", [[[0.0, 0], [1, 1]], [[0.0, 0], [1, 1], [3, 3]], [[2.0, 2]], [[1.0, 1], [1, 1]]]
)
def test_points_on_one_line_have_no_plane(points):
    assert principal(np.array(points)) is None


def test_places_of_points_in_the_plane_are_exact_though_directions_are_not_orthogonal():
    leaning = np.array([[1.0, 0, 1], [1.0, 2, 0]])
    places = np.array([[0.5, -2.0], [0.0, 0.0], [3.0, 1.0]])
    assert coordinates(places @ leaning, leaning) == pytest.approx(places)


def test_what_is_off_the_plane_does_not_move_a_place():
    off = np.array([1.0, 0.0, -1.0])
    assert coordinates(np.array([3 * PLANE[0] + 7 * off]), PLANE) == pytest.approx(
        np.array([[3.0, 0.0]])
    )


def test_the_share_is_what_the_plane_holds_of_the_variance():
    points = np.array([[2.0, 0, 2], [-2.0, 0, -2], [1.0, 0, -1], [-1.0, 0, 1]])
    assert share_held(points, PLANE) == pytest.approx(16 / 20)
    assert share_held(points[:2], PLANE) == pytest.approx(1.0)
