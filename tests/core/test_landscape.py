"""A landscape as an archive holds it."""

import numpy as np

from roundel.core.landscape import Landscape, Marks, Slice, View


def marks(*numbers: int) -> Marks:
    count = len(numbers)
    return Marks(numbers=np.array(numbers), places=np.zeros((count, 2)), losses=np.ones(count))


def view(*labels: str) -> View:
    slices = [
        Slice(label=label, losses=np.ones((2, 2)), path=marks(0, 1, 2), clients=marks(4))
        for label in labels
    ]
    return View(x=np.arange(2.0), y=np.arange(2.0), share=0.75, slices=tuple(slices))


def test_every_array_has_the_name_of_its_view_and_the_place_of_its_run():
    found = Landscape(examples=9, paths=view("a", "b"), clients=view("a", "b")).arrays()
    own = ["losses"] + [f"{m}/{k}" for m in ("path", "clients") for k in KEYS]
    assert list(found) == ["labels", "examples"] + [
        f"{name}/{key}"
        for name in ("paths", "clients")
        for key in ("x", "y", "share", *(f"{place}/{key}" for place in (0, 1) for key in own))
    ]
    assert found["labels"].tolist() == ["a", "b"]
    assert found["paths/1/path/numbers"].tolist() == [0, 1, 2]
    assert found["paths/share"] == 0.75


KEYS = ("numbers", "places", "losses")


def test_without_a_view_of_clients_there_are_none_of_its_arrays():
    found = Landscape(examples=9, paths=view("a"), clients=None).arrays()
    assert not [name for name in found if name.startswith("clients")]
