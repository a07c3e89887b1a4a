"""Whatever strangers and insiders send, a federation ends as if nobody had sent it."""

import pytest

from tests.hostile.campaign import attack


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("tls", "cases"), [(True, 1_400), (False, 600)])
def test_a_run_under_attack_ends_with_the_bits_of_one_that_is_left_alone(tmp_path, tls, cases):
    figures = attack(tmp_path, cases=cases, rounds=3, seed=0, tls=tls)
    assert figures.defects == []
    assert figures.cases >= cases
    assert figures.due == 40
