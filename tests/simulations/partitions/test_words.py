"""The sentences below a picture."""

from dataclasses import replace

import numpy as np
import torch

from roundel.core.data import Examples
from roundel.simulations.partitions.own import Elsewhere
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.report import describe
from roundel.simulations.partitions.skew import FeatureSkew
from roundel.simulations.partitions.words import statistics, title
from roundel.simulations.population import PartitionedPopulation

REPORT = describe(
    PartitionedPopulation(
        pool=Examples(torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 1, 3])),
        partition=Partition.of(np.array([0, 0, 1, 1, 1, 3]), 4, "iid"),
    ),
    0,
)


def test_the_title_says_kind_clients_and_examples():
    assert title(REPORT) == "iid: 4 clients, 6 examples"


def test_the_title_of_a_sample_says_how_many_were_looked_at():
    sampled = replace(REPORT, kind="on demand", clients=5000, sampled=100)
    assert title(sampled) == "on demand: 5,000 clients, of which 100 were looked at"


def test_statistics_are_those_that_came_out():
    assert statistics(REPORT) == [
        "Examples a client: 0 to 3, median 1.5, mean 1.5 ± 1.12; 1 client has none.",
        (
            "Distance of a client's labels from those of all: mean 0.56, for 80% within 0.37 to "
            "0.77 (0 the same, 1 disjoint)."
        ),
    ]


def test_what_there_is_no_figure_of_is_left_out():
    assert statistics(replace(REPORT, distance=None, sizes={})) == []


def test_feature_skew_and_clients_that_could_not_be_read_are_said():
    skewed = replace(REPORT, skew=FeatureSkew(noise=0.5, rotations=4), unreadable=[2, 3])
    assert statistics(skewed)[2:] == [
        "Noise on inputs: standard deviation up to 0.5.",
        "Inputs turned by one of 4 angles.",
        "The data of 2 could not be made.",
    ]


def test_the_title_of_clients_with_examples_of_their_own_counts_none():
    own = describe(Elsewhere(3), 0)
    assert title(own) == "own: 3 clients, each with examples that it brings itself"
    assert statistics(own) == []
