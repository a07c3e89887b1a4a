"""Keyword arguments of a named constructor, as an experiment file sets them."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from roundel.core.errors import ConfigError
from roundel.core.knobs import settle


def birds(
    *, size: int = 32, model: Literal["cnn", "mlp"] = "cnn", classes: list[str] | None = None
) -> None:
    """Make a task."""


def settled(make: Any, **knobs: object) -> dict[str, Any]:
    return settle(make, knobs, section="task", name="birds")


def complaint(make: Any, **knobs: object) -> str:
    with pytest.raises(ConfigError) as caught:
        settled(make, **knobs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_knob_has_a_value_defaults_included():
    assert settled(birds) == {"size": 32, "model": "cnn", "classes": None}
    assert settled(birds, size=8, classes=["a"]) == {"size": 8, "model": "cnn", "classes": ["a"]}


def test_values_become_what_the_annotations_say():
    def make(*, folder: Path, rate: float, sizes: tuple[int, ...] = ()) -> None: ...

    values = settled(make, folder="a/b", rate=2, sizes=[3, 4])
    assert values == {"folder": Path("a/b"), "rate": 2.0, "sizes": (3, 4)}
    assert type(values["rate"]) is float


def test_a_parameter_without_annotation_takes_anything():
    def make(size=3, *, other=None): ...

    assert settled(make, size="x", other=[1]) == {"size": "x", "other": [1]}


def test_annotations_that_cannot_be_found_are_as_good_as_none():
    def make(*, size: int = 3) -> None: ...

    make.__annotations__["size"] = "NoSuchType"
    assert settled(make, size="x") == {"size": "x"}


def test_types_that_cannot_be_checked_take_anything():
    def make(*, device: torch.device | None = None) -> None: ...

    assert settled(make, device="cpu") == {"device": "cpu"}


def test_a_knob_that_is_not_one_is_named_with_a_suggestion():
    assert complaint(birds, sise=8) == ("task.sise is not a knob of birds; did you mean 'size'?")
    assert complaint(birds, x=8) == (
        "task.x is not a knob of birds; choose from size, model, classes"
    )
    assert complaint(lambda: None, size=8) == "task.size is not a knob of birds; it has none"


def test_a_value_that_does_not_fit_is_named_with_the_reason():
    assert complaint(birds, size="big").startswith("task.size = 'big' does not fit: Input should")
    assert "Input should be 'cnn' or 'mlp'" in complaint(birds, model="resnet")


def test_a_number_where_a_text_belongs_is_shown_as_text():
    def named(*, label: str = "species") -> None:
        """Take a column."""

    sentence = complaint(named, label=float("nan"))
    assert sentence.startswith("task.label = nan does not fit: Input should be a valid string; ")
    assert sentence.endswith("""write task.label = '"nan"'""")


def test_a_knob_without_a_default_must_be_set():
    def make(*, folder: str) -> None: ...

    assert complaint(make) == "birds needs task.folder, which has no default; set it"
    assert settled(make, folder="x") == {"folder": "x"}


def test_arguments_without_a_name_are_no_knobs():
    def make(first=1, /, *rest, size=3, **more): ...

    assert settled(make) == {"size": 3}


class Maker:
    """A constructor may be an object."""

    def __call__(self, *, size: int = 3) -> None:
        """Make it."""


def test_objects_that_can_be_called_have_knobs_too():
    assert settled(Maker(), size="4") == {"size": 4}
    assert settled(partial(birds, model="mlp"))["model"] == "mlp"
