"""What is shown of apps, wherever their clients are."""

from dataclasses import replace

import pytest

from roundel.cli.apps import check_can_be_told, round_text
from roundel.core.errors import ConfigError
from roundel.simulations.flowerapps.project import read_project
from roundel.simulations.flowerapps.served.deployed import Deployment
from tests.flowerapps.running import APPS

FITTING = Deployment(project=read_project(APPS / "quickstart-numpy"), clients=2, seed=1)


def test_a_round_is_one_line_with_what_the_clients_report():
    side = {"messages": 4, "replies": 3, "failures": 1, "metrics": {"loss": 0.5, "num-examples": 9}}
    line = {"round": 2, "train": side, "bytes_up": 1, "bytes_down": 2, "seconds": 0.25}
    assert round_text(line) == "round 2  train: 3 of 4 replied  loss 0.5  0.25 s"


def test_what_nodes_can_be_told_is_served():
    check_can_be_told(FITTING)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"seed": 1 << 70},
            (
                "a Flower app cannot be served with seed = 1180591620717411303424: input should be "
                "less than 9223372036854775808; choose another --seed"
            ),
        ),
        (
            {"clients": 1 << 40},
            (
                "a Flower app cannot be served with clients = 1099511627776: input should be less "
                "than or equal to 1000000; choose another number with --clients"
            ),
        ),
        (
            {"project": replace(FITTING.project, name="x" * 257)},
            (
                f"a Flower app cannot be served with app = '{'x' * 59}: string should have at most "
                "256 characters; shorten the name in its pyproject.toml"
            ),
        ),
    ],
)
def test_what_nodes_would_refuse_is_one_sentence(changed, sentence):
    with pytest.raises(ConfigError) as caught:
        check_can_be_told(replace(FITTING, **changed))
    assert str(caught.value) == sentence
