"""What is not installed is said before anything is run."""

import pytest

from roundel.cli import extras
from roundel.core.errors import ConfigError


@pytest.mark.parametrize("package", ["jinja2", "matplotlib", "scipy"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, package):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(ConfigError) as caught:
        extras.need_report("roundel compare")
    assert str(caught.value) == (
        f"roundel compare needs the package {package}, which is not installed; install it with "
        "`pip install 'roundel[report]'`"
    )


def test_nothing_is_said_if_all_are_there():
    extras.need_report("roundel compare")
