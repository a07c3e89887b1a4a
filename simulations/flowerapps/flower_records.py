"""Flower's records as parcels and back, and as a file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app.message import arrayrecord, recorddict
from numpy.typing import NDArray
from safetensors.numpy import save

from roundel.simulations.flowerapps.npy import read_npy, write_npy
from roundel.simulations.flowerapps.parcels import Parcel

_NUMPY = "numpy.ndarray"


def packed(records: RecordDict) -> Parcel:
    """Return records as a parcel, which later changes to them do not reach."""
    said: list[Any] = []
    buffers: list[bytes] = []
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            arrays = [[key, a.dtype, list(a.shape), a.stype] for key, a in record.items()]
            buffers += [array.data for array in record.values()]
            said.append([name, "arrays", arrays])
        elif isinstance(record, MetricRecord):
            said.append([name, "metrics", {key: _copy(v) for key, v in record.items()}])
        else:
            said.append([name, "config", [_setting(k, v, buffers) for k, v in record.items()]])
    return Parcel(records=said, buffers=buffers)


def unpacked(parcel: Parcel) -> RecordDict:
    """Return the records of a parcel: new ones each time, over the same bytes."""
    buffers = iter(parcel.buffers)
    made: dict[str, Any] = {}
    for name, kind, values in parcel.records:
        if kind == "arrays":
            arrays = {
                key: _array(dtype, tuple(shape), stype, next(buffers))
                for key, dtype, shape, stype in values
            }
            made[name] = filled(ArrayRecord(), arrays)
        elif kind == "metrics":
            metrics = {key: _copy(value) for key, value in values.items()}
            made[name] = filled(MetricRecord(), metrics)
        else:
            settings = {key: _value(form, value, buffers) for key, form, value in values}
            made[name] = filled(ConfigRecord(), settings)
    return filled(RecordDict(), made)


R = TypeVar("R", RecordDict, ArrayRecord, MetricRecord, ConfigRecord)


def filled(record: R, values: Mapping[str, Any]) -> R:
    """Fill a record with what came out of one: to check each value again takes most of the time."""
    vars(record)["_data"].update(values)
    return record


def _array(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """Make an array of what was one, which need not be checked either."""
    array = Array.__new__(Array)
    vars(array).update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def _setting(key: str, value: object, buffers: list[bytes]) -> list[Any]:
    """Return a setting as its key, its form and its value, or their number if it is bytes."""
    if isinstance(value, bytes):
        buffers.append(value)
        return [key, "bytes", 1]
    if isinstance(value, list) and value and all(isinstance(item, bytes) for item in value):
        buffers += value
        return [key, "list of bytes", len(value)]
    return [key, "", _copy(value)]


def _value(form: str, value: Any, buffers: Iterator[bytes]) -> Any:  # noqa: ANN401 - of any type
    if form == "bytes":
        return next(buffers)
    if form == "list of bytes":
        return [next(buffers) for _ in range(value)]
    return _copy(value)


def _copy(value: Any) -> Any:  # noqa: ANN401 - of any type
    return list(value) if isinstance(value, list) else value


def model_file(arrays: Parcel) -> bytes:
    """Return the final arrays as a safetensors file; those of no number type are left out."""
    tensors: dict[str, Any] = {}
    for record in unpacked(arrays).values():
        if isinstance(record, ArrayRecord):
            tensors |= {k: a.numpy() for k, a in record.items() if a.stype == _NUMPY}
    return save({name: array for name, array in tensors.items() if array.dtype.kind in "biuf"})


@contextmanager
def faster_arrays() -> Iterator[None]:
    """Let arrays become bytes and back without NumPy's parsing of their heads.

    Flower also checks all records of a kind again whenever it is asked for them, and collects
    garbage after each record that it takes apart, which takes longer than the rest of a round.
    """
    arrays: Any = Array  # else a type checker takes what follows for definitions
    records: Any = arrayrecord
    collector = records.gc
    read_before, write_before = arrays.numpy, vars(arrays)["from_numpy_ndarray"]

    def read(self: Array) -> NDArray[Any]:
        found: NDArray[Any] = read_npy(self.data) if self.stype == _NUMPY else read_before(self)
        return found

    def write(_: type, ndarray: NDArray[Any]) -> Array:
        return _array(_name(ndarray.dtype), ndarray.shape, _NUMPY, write_npy(ndarray))

    arrays.numpy, arrays.from_numpy_ndarray = read, classmethod(write)
    records.gc = SimpleNamespace(collect=int)
    checking = {name: vars(RecordDict)[name] for name in _KINDS}
    for name, kind in _KINDS.items():
        setattr(RecordDict, name, property(partial(_of_kind, kind)))
    try:
        yield
    finally:
        for name, before in checking.items():
            setattr(RecordDict, name, before)
        arrays.numpy, arrays.from_numpy_ndarray = read_before, write_before
        records.gc = collector


_KINDS = {
    "array_records": ArrayRecord,
    "metric_records": MetricRecord,
    "config_records": ConfigRecord,
}


def _of_kind(kind: type, records: RecordDict) -> Any:  # noqa: ANN401 - it is private
    """Return the records of one kind, through which they can be changed."""
    found = {key: each for key, each in vars(records)["_data"].items() if isinstance(each, kind)}
    view: Any = recorddict._SyncedDict(records, kind)  # noqa: SLF001
    vars(view)["_data"].update(found)
    return view


_name = cache(str)
"""Of a dtype; NumPy puts it together anew each time."""
