"""Records travel as parcels and come out as they went in."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app.message import recorddict

from roundel.simulations.flowerapps.flower_records import faster_arrays, packed, unpacked

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


def opened(parcel) -> Any:
    """Unpack a parcel; a type checker need not know what each record is."""
    return unpacked(parcel)


def test_an_array_is_its_four_fields():
    bare = opened(packed(RECORDS))["arrays"]["0"]
    assert set(vars(bare)) == {"dtype", "shape", "stype", "data"}
    assert set(vars(Array(np.ones(2)))) - set(vars(bare)) <= {"_is_dirty"}
    assert bare.is_dirty


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


KINDS = ("array_records", "metric_records", "config_records")


def expected_view() -> Any:
    """Return what Flower itself returns."""
    return recorddict._SyncedDict(RecordDict(), ArrayRecord)


def test_records_of_a_kind_are_those_that_flower_finds_and_lead_back_to_the_record():
    before = {name: vars(RecordDict)[name] for name in KINDS}
    expected = {name: dict(getattr(RECORDS, name)) for name in KINDS}
    with faster_arrays():
        record = RECORDS.copy()
        assert {name: dict(getattr(record, name)) for name in KINDS} == expected
        assert type(record.array_records) is type(expected_view())
        record.metric_records["more"] = MetricRecord({"loss": 1.0})
        assert record["more"] == MetricRecord({"loss": 1.0})
        del record.config_records["config"]
        assert "config" not in record
        with pytest.raises(TypeError, match="Expected `ArrayRecord`"):
            record.array_records["no"] = MetricRecord()  # pyright: ignore[reportArgumentType]
    assert {name: vars(RecordDict)[name] for name in KINDS} == before
