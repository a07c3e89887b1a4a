"""A knob out of its bounds is named."""

import pytest

from roundel.core.errors import ConfigError
from roundel.simulations.tasks.checks import at_least


def test_what_is_in_bounds_passes():
    at_least(0, alpha=0.0, beta=2)


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (float("nan"), "nan"), (1e400, "inf")])
def test_what_is_not_is_named_with_its_value(value, shown):
    with pytest.raises(
        ConfigError,
        match=rf"^task.hidden = {shown} is out of range; make it a finite number of 1 or more$",
    ):
        at_least(1, window=80, hidden=value)
