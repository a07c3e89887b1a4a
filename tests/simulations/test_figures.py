"""Metrics that no round will have are refused before anything is run."""

import pytest

from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError
from roundel.simulations.figures import check_figures
from roundel.simulations.prepare import prepare


def check(*keys, settings=()):
    experiment = load_experiment(None, ["partition.clients=4", "cohort.size=2", *settings])
    check_figures(prepare(experiment), keys)


def test_what_rounds_have_is_let_through():
    check("accuracy", "loss", "precision", "train_loss", "bytes_up", "epsilon")
    check("clients.accuracy.mean", "clients.loss.p90", "clients.accuracy.worst_tenth")
    check("health.update_norm.max", "topology.links")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("acuracy", "did you mean 'accuracy'"),
        ("mae", "choose from accuracy, loss, precision, recall, or one inside clients"),
        ("clients.accuracy.p11", "did you mean 'clients.accuracy.p1"),
        ("round", "choose from"),
    ],
)
def test_what_no_round_has_is_refused_with_a_hint(key, hint):
    with pytest.raises(ConfigError, match=f"the metric '{key}' is not among the figures") as caught:
        check("accuracy", key)
    assert hint in str(caught.value)


def test_figures_over_clients_need_clients_that_are_asked():
    with pytest.raises(ConfigError, match=r"evaluation\.clients = 0 asks none; raise it"):
        check("clients.accuracy.p10", settings=["evaluation.clients=0"])


def test_without_a_global_test_set_a_client_shows_which_figures_there_are():
    settings = ["task.name=synthetic"]
    check("accuracy", settings=settings)
    with pytest.raises(ConfigError, match="'precission'"):
        check("precission", settings=settings)
