"""Who needs Flower is told which release works."""

import importlib
import sys

import pytest

from roundel.core import flowerversion
from roundel.core.errors import ConfigError

NAMES = "roundel.core.flower_names"


@pytest.mark.parametrize("found", [None, "1.99.0"])
def test_who_needs_it_is_told_which_releases_work_and_how_to_install_one(found, monkeypatch):
    monkeypatch.setattr(flowerversion, "installed", lambda: found)
    monkeypatch.delitem(sys.modules, NAMES, raising=False)
    with pytest.raises(ConfigError, match=r"flwr 1\.41\.\*.*`pip install 'roundel\[flower\]'`"):
        importlib.import_module(NAMES)
