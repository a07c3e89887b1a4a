"""Every example in a docstring does what it shows."""

import doctest
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
MODULES = sorted(
    ".".join(("roundel", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for folder in FOLDERS.values()
    for path in (ROOT / folder).rglob("*.py")
    if not path.stem.endswith(("_pb2", "_pb2_grpc", "__main__"))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name, request):
    module = importlib.import_module(name)
    fixtures = {"getfixture": request.getfixturevalue}
    failures, _ = doctest.testmod(module, extraglobs=fixtures, optionflags=doctest.ELLIPSIS)
    assert failures == 0
