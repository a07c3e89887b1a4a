"""What a loop that hands out work and takes all replies at once can do."""

import pytest

from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError
from roundel.server.stepwise import check_stepwise, deadline_s
from roundel.simulations.tasks.registry import make_task
from roundel.strategies.plan import Plan


def plan_of(*settings):
    experiment = load_experiment(None, settings)
    return Plan.of(experiment, make_task(experiment.task))


def test_a_deadline_is_that_of_the_experiment():
    plan = plan_of("cohort.deadline_s=5")
    check_stepwise(plan)
    assert deadline_s(plan) == 5.0
    assert deadline_s(plan_of()) is None


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("cohort.deadline_factor=2", "cohort.deadline_factor = 2 goes by when each update comes"),
        ("topology.kind=gossip", "topology.kind = 'gossip' has no single server"),
    ],
)
def test_what_goes_by_time_or_has_no_server_is_refused(setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_stepwise(plan_of(setting))
