"""The adapter does what a release of Flower lets it: what has changed is named."""

import inspect
from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.server import Server, SimpleClientManager
from flwr.server import server as legacy
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.supercore.run import Run

from roundel.simulations.flowerapps.flower import TOUCHED, WorkerGrid, packed, unpacked

RECORDS = RecordDict(
    {
        "arrays": ArrayRecord([np.ones((2, 3), np.float32), np.zeros(0), np.ones(())]),
        "metrics": MetricRecord({"loss": 0.5, "count": 3, "each": [1.0, 2.0]}),
        "config": ConfigRecord(
            {
                "lr": 0.1,
                "name": "birds",
                "flag": True,
                "raw": b"\x00\xff",
                "raws": [b"", b"ab"],
                "texts": ["a"],
                "none": [],
            }
        ),
        "empty": ArrayRecord(),
    }
)
ATTRIBUTES = [name for name in TOUCHED if name[-1] != ")" and not name.endswith("._data")]


def opened(parcel) -> Any:
    """Unpack a parcel; a type checker need not know what each record is."""
    return unpacked(parcel)


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


def test_an_array_is_its_four_fields():
    bare = opened(packed(RECORDS))["arrays"]["0"]
    assert set(vars(bare)) == {"dtype", "shape", "stype", "data"}
    assert set(vars(Array(np.ones(2)))) - set(vars(bare)) <= {"_is_dirty"}
    assert bare.is_dirty


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


def test_records_survive_as_a_parcel_and_share_nothing_that_changes():
    parcel = packed(RECORDS)
    one, two = opened(parcel), opened(parcel)
    assert one == two == RECORDS
    assert [type(record) for record in one.values()] == [type(r) for r in RECORDS.values()]
    assert one.object_id == RECORDS.object_id
    one["metrics"]["loss"] = 9.0
    one["metrics"]["each"].append(3.0)
    one["config"]["raws"].append(b"c")
    one["arrays"]["0"] = Array(np.zeros(1))
    two["arrays"]["1"].data = b""
    assert unpacked(parcel) == RECORDS
    assert parcel.buffers[0] is RECORDS.array_records["arrays"]["0"].data


def test_a_record_out_of_a_parcel_checks_what_is_put_into_it():
    records = opened(packed(RECORDS))
    with pytest.raises(TypeError):
        records["metrics"]["loss"] = "much"
