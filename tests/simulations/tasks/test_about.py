"""What is said about the built-in tasks is complete and true."""

import inspect
import json
import re
from pathlib import Path

import pytest

from roundel.core.errors import ConfigError
from roundel.simulations.tasks.about import choose
from roundel.simulations.tasks.registry import TASKS

PAGE = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
NEEDED = {
    "images": {"classes": ["a", "b"]},
    "tabular": {"features": ["x"], "classes": [0, 1], "mean": [0.0], "std": [1.0]},
}
"""What takes the place of data that does not ship."""

tasks = pytest.mark.parametrize("name", TASKS)


def knobs(name):
    return inspect.signature(TASKS[name].make).parameters


def section(name):
    """The part of the page about one task."""
    return PAGE.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]


def shown(default):
    """Write a default as TOML does; a dash if there is none."""
    return "-" if default is None else f"`{json.dumps(default)}`"


def test_a_model_is_chosen_by_its_name_or_suggested():
    assert choose({"mlp": dict, "cnn": dict}, "cnn", "birds") == "cnn"
    with pytest.raises(ConfigError) as caught:
        choose({"mlp": dict, "cnn": dict}, "cmn", "birds")
    assert str(caught.value) == ("task.model = 'cmn' is not a model of birds; did you mean 'cnn'?")


@tasks
def test_models_have_as_many_parameters_as_is_said(name):
    about = TASKS[name]
    for model, parameters in about.models.items():
        chosen = {"model": model} if "model" in knobs(name) else {}
        made = about.make(**NEEDED.get(name, {}), **chosen).new_model(0)
        count = sum(p.numel() for p in made.parameters())
        assert parameters in (count, None), model


@tasks
def test_the_first_model_is_the_default(name):
    if "model" in knobs(name):
        assert knobs(name)["model"].default == next(iter(TASKS[name].models))


@tasks
def test_the_page_lists_every_model_with_its_number_of_parameters(name):
    for model, parameters in TASKS[name].models.items():
        if "model" in knobs(name):
            assert f"| `{model}` |" in section(name)
        if parameters is not None:
            assert f"{parameters:,}" in section(name)


@tasks
def test_the_page_lists_every_knob_with_its_default(name):
    listed = re.findall(r"^\| `task\.(\w+)` \| (\S+) \| .+ \|$", section(name), re.MULTILINE)
    own = {k: p for k, p in knobs(name).items() if k not in ("path", "model")}
    assert listed == [(knob, shown(parameter.default)) for knob, parameter in own.items()]


def test_the_page_opens_with_a_list_of_all_tasks():
    assert sorted(re.findall(r"^\| \[`([\w-]+)`\]", PAGE, re.MULTILINE)) == sorted(TASKS)
