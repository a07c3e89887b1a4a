"""The adapter does what a release of Flower lets it: what has changed is named."""

import inspect
from functools import reduce
from importlib import import_module
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.server import Server, SimpleClientManager
from flwr.server import server as legacy
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.supercore.run import Run

from roundel.simulations.flowerapps.flower import TOUCHED
from roundel.simulations.flowerapps.flower_grid import WorkerGrid

ATTRIBUTES = [name for name in TOUCHED if name[-1] != ")" and not name.endswith("._data")]


def values(record):
    return vars(record)["_data"]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_what_is_touched_is_still_there(name):
    module, _, path = name.partition(":")
    reduce(getattr, path.split("."), import_module(module))


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
    assert next(iter(inspect.signature(getattr(legacy, name)).parameters)) == "client_instructions"
    source = inspect.getsource(getattr(Server, name.replace("clients", "round")))
    assert f"{name}(" in source
