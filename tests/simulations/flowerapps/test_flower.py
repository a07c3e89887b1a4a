"""The adapter does what a release of Flower lets it: what has changed is named."""

import ast
import inspect
import logging
import os
import threading
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Parameters, Status
from flwr.common.logger import FLOWER_LOGGER
from flwr.server import Server, SimpleClientManager
from flwr.server import server as legacy
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Result,
    Strategy,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from roundel.simulations import flowerapps, flowerstrategies
from roundel.simulations.flowerapps.flower import TOUCHED, watched
from roundel.simulations.flowerapps.flower_grid import WorkerGrid
from roundel.simulations.flowerapps.nodes import Nodes
from tests.flowerapps.grids import PlainGrid

ATTRIBUTES = [name for name in TOUCHED if ")" not in name and not name.endswith("._data")]
PROMISED = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy")
PACKAGES = [flowerapps, flowerstrategies]


def imported(package):
    """Yield what the modules of a package import of Flower, as in ``TOUCHED``."""
    for path in Path(package.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (f"{each.name}:" for each in node.names if each.name[:4] == "flwr")
            if isinstance(node, ast.ImportFrom) and (node.module or "")[:4] == "flwr":
                yield from (f"{node.module}:{each.name}" for each in node.names)


def is_listed(name):
    """Tell whether something of Flower's is promised, or listed, itself or what is within it."""
    module, _, within = name.partition(":")
    if module in PROMISED and within in ("", *import_module(module).__all__):
        return True
    path = f"{module}.{within}"
    listed = [each.replace(":", ".") for each in TOUCHED]
    return any(each == path or each.startswith((f"{path}.", f"{path}(")) for each in listed)


def values(record):
    return vars(record)["_data"]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_what_is_touched_is_still_there(name):
    module, _, path = name.partition(":")
    reduce(getattr, path.split("."), import_module(module))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_what_is_imported_is_promised_or_listed(package):
    assert [name for name in imported(package) if not is_listed(name)] == []


def test_the_logger_that_is_kept_from_the_terminal_is_flowers():
    assert FLOWER_LOGGER is logging.getLogger("flwr")


def test_a_task_has_its_identity_where_it_is_put_back():
    fields = {name.rpartition(".")[2] for name in TOUCHED if "TaskIdentity._" in name}
    assert fields == {"_task_id", "_run_id", "_node_id"} <= set(vars(TaskIdentity))
    before = dict(vars(TaskIdentity))
    try:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 2, 3
        assert [vars(TaskIdentity)[name] for name in ("_task_id", "_run_id", "_node_id")] == [
            1,
            2,
            3,
        ]
    finally:
        for name in fields:
            setattr(TaskIdentity, name, before[name])


def test_a_strategy_says_by_which_figure_it_weighs_and_what_it_wraps():
    inner = FedAvg(weighted_by_key="rows")
    outer = DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 1.0, 2)
    assert inner.weighted_by_key == "rows"
    assert outer.strategy is inner
    assert not hasattr(outer, "weighted_by_key")


class Noted(Strategy):
    """Notes how it is called; sends nothing."""

    def __init__(self):
        self.calls = []

    def summary(self):
        """Show nothing."""

    def configure_train(self, server_round, arrays, config, grid):
        """Note it, with the model's first number."""
        self.calls.append(("configure_train", server_round, first(arrays)))
        return []

    def aggregate_train(self, server_round, replies):
        """Note it; return another model."""
        self.calls.append(("aggregate_train", server_round, list(replies)))
        return ArrayRecord({"w": Array(np.array([float(server_round)]))}), None

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Note it, with the model's first number."""
        self.calls.append(("configure_evaluate", server_round, first(arrays)))
        return []

    def aggregate_evaluate(self, server_round, replies):
        """Note it."""
        self.calls.append(("aggregate_evaluate", server_round, list(replies)))


def first(arrays):
    return arrays["w"].numpy()[0]


def test_a_round_of_flowers_trains_then_evaluates_and_then_the_server_does():
    noted = Noted()
    model = ArrayRecord({"w": Array(np.array([0.5]))})

    def evaluate(server_round, arrays):
        noted.calls.append(("evaluate_fn", server_round, first(arrays)))

    result = noted.start(PlainGrid(None, 0), model, num_rounds=2, evaluate_fn=evaluate)
    assert noted.calls == [
        ("evaluate_fn", 0, 0.5),
        ("configure_train", 1, 0.5),
        ("aggregate_train", 1, []),
        ("configure_evaluate", 1, 1.0),
        ("aggregate_evaluate", 1, []),
        ("evaluate_fn", 1, 1.0),
        ("configure_train", 2, 1.0),
        ("aggregate_train", 2, []),
        ("configure_evaluate", 2, 2.0),
        ("aggregate_evaluate", 2, []),
        ("evaluate_fn", 2, 2.0),
    ]
    assert first(result.arrays) == 2.0


@pytest.mark.parametrize("kind", [RecordDict, ArrayRecord, MetricRecord, ConfigRecord])
def test_a_record_holds_its_values_where_the_adapter_puts_them(kind):
    assert f"flwr.app:{kind.__name__}._data" in TOUCHED
    assert values(kind()) == {}


def test_a_message_can_be_made_with_its_metadata_and_keeps_its_id_where_the_adapter_sets_it():
    fields = {
        "run_id": 1,
        "message_id": "m",
        "src_node_id": 2,
        "dst_node_id": 3,
        "reply_to_message_id": "",
        "group_id": "",
        "created_at": 4.0,
        "ttl": 5.0,
        "message_type": "train",
        "src_task_id": 6,
        "dst_task_id": None,
    }
    assert set(inspect.signature(Metadata).parameters) == set(fields)
    make: Any = Message
    message = make(content=RecordDict(), metadata=Metadata(**fields))
    vars(message.metadata)["_message_id"] = "new"
    assert message.metadata.message_id == "new"
    reply = Message(RecordDict(), reply_to=message)
    assert (reply.metadata.reply_to_message_id, reply.metadata.dst_node_id) == ("new", 2)


def test_a_grid_is_asked_for_nothing_that_ours_has_not():
    assert Grid.__abstractmethods__ <= set(vars(WorkerGrid))


def test_a_run_can_be_made_without_a_superlink():
    run = Run.create_empty(7)
    run.override_config = {"lr": 1}
    assert (run.run_id, run.override_config) == (7, {"lr": 1})


def test_the_final_arrays_are_where_the_adapter_looks():
    assert Result().arrays == {}
    assert Server(client_manager=SimpleClientManager()).parameters.tensors == []


@pytest.mark.parametrize("name", ["fit_clients", "evaluate_clients"])
def test_older_servers_gather_results_by_a_function_that_can_be_wrapped(name):
    wrapped = ["client_instructions", "max_workers"]
    assert list(inspect.signature(getattr(legacy, name)).parameters)[:2] == wrapped
    source = inspect.getsource(getattr(Server, name.replace("clients", "round")))
    assert f"{name}(" in source


class Meeting:
    """A client that replies once all others were asked, too."""

    def __init__(self, number, barrier):
        self.cid, self._barrier = f"{number}", barrier

    def fit(self, *_args, **_kwargs):
        """Wait for the others."""
        self._barrier.wait(5.0)
        return FitRes(Status(Code.OK, ""), Parameters([], ""), int(self.cid), {})


def fitted(count, max_workers, at_once):
    barrier = threading.Barrier(at_once)
    asked: Any = [(Meeting(number, barrier), None) for number in range(count)]
    results, failures = legacy.fit_clients(asked, max_workers, timeout=None, group_id=1)
    return [result.num_examples for _, result in results], len(failures)


def test_an_older_server_asks_so_many_at_once_as_it_is_told_unless_the_app_says_otherwise():
    count = min(32, (os.cpu_count() or 1) + 4) + 8  # more than Flower asks at once by itself
    with watched(Nodes.of(1, {}, count), threads=count):
        assert fitted(count, None, at_once=count) == (list(range(count)), 0)
    with watched(Nodes.of(1, {}, 4), threads=1):
        assert fitted(4, 2, at_once=2) == ([0, 1, 2, 3], 0)
