"""A node that does not fit a run is told what differs."""

import json
from typing import Any

import pytest

from roundel.core.fingerprint import MAX_BYTES, Fingerprint, hashed, misfit

OURS = Fingerprint(
    task="birds:task",
    knobs={"classes": "c0", "hidden": "h0"},
    code={"birds": "birding 1.2"},
    layout="l0",
    tensors=("0.weight 64x64", "0.bias 64"),
    kept="k0",
    examples="e0",
    partition="p0",
    versions={"numpy": "1.26.4"},
)


def told(**changed: Any) -> str:
    """What a node is told whose fingerprint differs so."""
    return misfit("edge", OURS.model_copy(update=changed).text(), OURS.text())


def test_equal_fingerprints_fit():
    assert told() == ""
    assert misfit("edge", "layout", "layout") == ""


def test_versions_alone_do_not_matter():
    assert told(versions={"numpy": "2.1.0", "torch": "2.6"}) == ""


def test_what_a_newer_node_says_beside_does_not_matter():
    assert misfit("edge", json.dumps({**OURS.model_dump(), "more": 1}), OURS.text()) == ""


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"task": "bees:task"}, "the task (bees:task at the node, birds:task at the coordinator)"),
        (
            {"code": {"birds": "birding 1.1"}},
            "the code of birds (birding 1.1 at the node, birding 1.2 at the coordinator)",
        ),
        ({"code": {}}, "the code of birds (none at the node, birding 1.2 at the coordinator)"),
        ({"knobs": {"classes": "c1", "hidden": "h0"}}, "task.classes"),
        ({"knobs": {"classes": "c0"}}, "task.hidden"),
        (
            {"layout": "l1", "tensors": ("0.weight 64x32", "0.bias 32")},
            "the model's layout (0.weight 64x32 at the node, 0.weight 64x64 at the coordinator)",
        ),
        (
            {"layout": "l1", "tensors": ("0.weight 64x64",)},
            "the model's layout (no further tensor at the node, 0.bias 64 at the coordinator)",
        ),
        ({"layout": "l1"}, "the model's layout (the first tensors are the same)"),
        (
            {"kept": "k1"},
            "weights that never travel, frozen or personal ones (task.initial says where from)",
        ),
        ({"examples": "e1", "partition": "p1"}, "the task's examples"),
        ({"partition": "p1"}, "who holds which examples"),
        (
            {"partition": "p1", "versions": {"numpy": "2.1.0"}},
            "who holds which examples (numpy 2.1.0 at the node, 1.26.4 at the coordinator)",
        ),
    ],
)
def test_a_difference_is_named(changed, difference):
    assert told(**changed) == (
        f"node 'edge' does not fit the run; it differs in {difference}; install or give it what "
        "the coordinator has"
    )


def test_several_differences_are_all_named_causes_first():
    sentence = told(code={"birds": "birding 1.1"}, layout="l1", partition="p1")
    places = [sentence.index(word) for word in ("code of birds", "layout", "who holds")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "text", ["", "other", "[]", '{"task": 1}', OURS.text() + " " * MAX_BYTES], ids=len
)
def test_a_text_that_is_no_fingerprint_fits_nothing(text):
    assert misfit("edge", text, OURS.text()) == (
        "node 'edge' built a model of another layout than the coordinator's, or divided the "
        "examples in another way; install the same version of the task, of its data and of numpy "
        "on both"
    )


def test_what_a_node_says_cannot_break_a_line_or_fill_a_page():
    sentence = told(task="bees\n\x1b[31m" + "x" * 3000)
    assert sentence.isprintable()
    assert len(sentence) < 500


def test_large_models_are_listed_as_far_as_there_is_room():
    tensors = tuple(f"layer{k}.weight 512x512" for k in range(1000))
    text = OURS.model_copy(update={"tensors": tensors}).text()
    assert MAX_BYTES - 50 < len(text) <= MAX_BYTES
    kept = Fingerprint.of(text)
    assert kept is not None
    assert kept.tensors == tensors[: len(kept.tensors)]
    assert len(kept.tensors) > 100


def test_hashes_tell_values_apart():
    assert hashed([1, "a"]) == hashed([1, "a"])
    assert len({hashed(value) for value in (1, "1", [1], {"1": 1}, None)}) == 5
