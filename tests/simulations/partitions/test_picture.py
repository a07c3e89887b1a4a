"""The picture in the run directory: an SVG that needs nothing else."""

import re
from dataclasses import replace
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest
import torch

from roundel.core.data import Examples, InMemoryPopulation
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.picture import picture_svg, round_step
from roundel.simulations.partitions.report import PartitionReport, describe
from roundel.simulations.population import PartitionedPopulation

SVG = "{http://www.w3.org/2000/svg}"


def report_of(owner: np.ndarray, targets: torch.Tensor, clients: int) -> PartitionReport:
    pool = Examples(torch.zeros(len(owner), 4), targets)
    partition = Partition.of(owner, clients, "iid").holding_out(validation=0, test=0.5, seed=0)
    return describe(PartitionedPopulation(pool=pool, partition=partition), 0)


SMALL = report_of(np.array([0, 0, 1, 1, 1, 1]), torch.tensor([0, 1, 2, 2, 2, 2]), 3)


def drawn(report: PartitionReport) -> Element:
    return fromstring(picture_svg(report))  # our own text


def texts(picture: Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


def paths(picture: Element, kind: str) -> list[str]:
    return [p.attrib["d"] for p in picture.iter(f"{SVG}path") if p.attrib.get("class") == kind]


def test_bars_are_as_high_as_the_numbers_of_examples_by_part():
    """Client 1 has 4 examples, two of them held out, and 4 is as high as the panel: 130."""
    picture = drawn(SMALL)
    assert paths(picture, "train") == ["M0.08 0.0h.84v32.5h-.84zM1.08 0.0h.84v65.0h-.84z"]
    assert paths(picture, "test") == ["M0.08 32.5h.84v32.5h-.84zM1.08 65.0h.84v65.0h-.84z"]


def test_the_mix_has_a_cell_for_each_class_that_a_client_has():
    cells = re.findall(r"M(\d+) (\d+)h", "".join(paths(drawn(SMALL), "mix")))
    assert sorted(cells) == [("0", "0"), ("0", "1"), ("1", "2")]


def test_a_larger_share_is_darker():
    shades = {
        p.attrib["d"][:4]: float(p.attrib["fill-opacity"])
        for p in drawn(SMALL).iter(f"{SVG}path")
        if p.attrib.get("class") == "mix"
    }
    assert shades == {"M0 0": 0.75, "M1 2": 1.0}  # the square root of a half, rounded up to 12/16


def test_the_caption_has_the_figures_that_came_out():
    said = texts(drawn(SMALL))
    assert said[0] == "iid: 3 clients, 6 examples"
    assert "3 train" in said
    assert "3 test" in said
    assert not any("validation" in text for text in said)
    assert said[-2].startswith("Examples a client: 0 to 4, median 2")
    assert said[-1].startswith("Distance of a client's labels")


def test_of_many_clients_a_hundred_are_drawn_and_that_is_said():
    report = report_of(np.repeat(np.arange(500), 4), torch.arange(2000) % 10, 500)
    picture = drawn(report)
    assert "100 of 500 clients, from the smallest to the largest" in texts(picture)
    assert paths(picture, "train")[0].count("M") == 100


def test_a_hundred_classes_have_rows_that_can_be_told_apart_and_some_are_labelled():
    picture = drawn(report_of(np.zeros(200, dtype=np.int64), torch.arange(200) % 100, 1))
    said = texts(picture)
    assert [text for text in said if text in {"1", "2", "3", "4", "5", "6", "99"}] == [
        *("3", "6", "99")
    ]
    assert int(picture.attrib["height"]) < 900


def test_without_labels_there_is_no_panel_of_them():
    picture = drawn(report_of(np.array([0, 1]), torch.rand(2), 2))
    assert paths(picture, "mix") == []
    assert "share of each class in a client's examples" not in texts(picture)
    assert int(picture.attrib["height"]) < int(drawn(SMALL).attrib["height"])


def test_nothing_is_loaded_from_elsewhere_and_dark_pages_have_their_colours():
    text = picture_svg(SMALL)
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme:dark" in text
    assert "script" not in text


def test_the_name_of_a_kind_cannot_break_the_picture():
    picture = drawn(replace(SMALL, kind="<a> & b"))
    assert texts(picture)[0] == "<a> & b: 3 clients, 6 examples"


def test_a_population_without_clients_or_examples_can_be_drawn():
    empty = Examples(torch.zeros(0, 1), torch.zeros(0))
    for population in (InMemoryPopulation.of([]), InMemoryPopulation.of([empty])):
        assert texts(drawn(describe(population, 0)))[0].startswith("on demand")


@pytest.mark.parametrize("largest", [1, 2, 5, 9, 41, 204, 999, 81_115])
def test_steps_of_an_axis_are_round_and_neither_few_nor_many(largest):
    step = round_step(largest, 5)
    assert str(step).rstrip("0") in {"1", "2", "5"}
    assert largest <= 5 * step
    assert step == 1 or largest > 2 * step
