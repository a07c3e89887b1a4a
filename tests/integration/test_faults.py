"""Federations whose processes are killed and whose connections break end as if nothing happened."""

from pathlib import Path

import pytest

from tests.faults import STRATEGIES, plan_of, run_under, undisturbed


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(len(STRATEGIES)))
def test_a_federation_under_faults_ends_with_the_parameters_of_its_simulation(
    tmp_path: Path, seed: int
) -> None:
    plan = plan_of(seed)
    place = tmp_path / "disturbed"
    place.mkdir()
    survived = run_under(plan, place, undisturbed(plan.strategy, tmp_path / "undisturbed"))
    assert survived.coordinator_kills + survived.node_kills + survived.cuts > 0
