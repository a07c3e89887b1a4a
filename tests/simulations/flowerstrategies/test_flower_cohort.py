"""One round as a strategy of Flower's sees it."""

import logging
import random
import time
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp.strategy import strategy_utils
from flwr.supercore.task_identity import TaskIdentity

from roundel.core.errors import CompositionError, RunFailed
from roundel.simulations.flowerapps.nodes import Nodes
from roundel.simulations.flowerstrategies.flower_cohort import Cohort, CohortGrid, Waits, surrounded


def test_a_cohort_is_numbered_as_the_federation_of_an_app_is():
    nodes = Nodes.of(0, {}, 4)
    assert list(Cohort.of(range(4)).ids.values()) == list(nodes.ids)


def test_a_client_is_the_same_node_in_every_cohort():
    one, other = Cohort.of([3, 1]), Cohort.of([3, 2])
    assert list(one.ids) == [1, 3]
    assert one.ids[3] == other.ids[3]
    assert len({*one.ids.values(), *other.ids.values()}) == 3


def test_the_grid_shows_the_cohort_and_carries_nothing():
    nodes = Cohort.of([3, 1])
    grid = CohortGrid("mine", nodes)
    assert list(grid.get_node_ids()) == [nodes.ids[1], nodes.ids[3]]
    for call in (grid.push_messages, grid.pull_messages, grid.send_and_receive, grid.set_run):
        with pytest.raises(RunFailed, match="mine sends messages by itself"):
            call([])  # type: ignore[arg-type]  # whatever it is given


def test_who_looks_again_and_again_waits_in_vain():
    grid = CohortGrid("mine", Cohort.of([3]))
    looks = (grid.get_node_ids() for _ in range(100))
    with pytest.raises(CompositionError, match="mine waits for more than the 1 clients"):
        list(looks)


def test_nothing_sleeps_is_logged_or_is_left_behind(caplog):
    logger, state = logging.getLogger("flwr"), random.getstate()
    utils: Any = strategy_utils
    identity = dict(vars(TaskIdentity))
    with surrounded("mine", 5, 3) as warnings:
        logger.info("as usual")
        logger.warning("take %s\n care", "great")
        drawn = random.random(), float(np.random.random())  # noqa: NPY002 - as strategies do
        Message(RecordDict(), 7, MessageType.TRAIN)
        with pytest.raises(Waits, match="the 3 clients"):
            utils.sleep(1)
    assert warnings == ["take great care"]
    assert caplog.records == []
    assert random.getstate() == state
    assert utils.sleep is time.sleep
    assert dict(vars(TaskIdentity)) == identity
    with surrounded("mine", 5, 3):
        again = random.random(), float(np.random.random())  # noqa: NPY002 - see above
    assert again == drawn
