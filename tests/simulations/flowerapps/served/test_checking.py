"""Records from a network are looked at field by field before anybody uses them."""

from collections import deque

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common import Parameters, ndarrays_to_parameters
from flwr.compat.common.recorddict_compat import parameters_to_arrayrecord

from roundel.core.errors import ProtocolError
from roundel.simulations.flowerapps.flower_records import packed
from roundel.simulations.flowerapps.npy import write_npy
from roundel.simulations.flowerapps.served.checking import check_records

TWO = write_npy(np.zeros(2, np.float32))
KIND = "numpy.ndarray"


def array(name="w", dtype: object = "float32", shape=(2,), stype=KIND):
    return ["arrays", "arrays", [[name, dtype, list(shape), stype]]]


def metrics(value, name="loss"):
    return ["m", "metrics", {name: value}]


def config(value, form="", name="lr"):
    return ["c", "config", [[name, form, value]]]


def check(records, *buffers):
    check_records(records, deque(buffers))


def test_whatever_flower_lets_an_app_reply_passes():
    records = RecordDict(
        {
            "arrays": ArrayRecord([np.ones((2, 3), np.float32), np.zeros(0), np.ones(())]),
            "odd": ArrayRecord([np.asfortranarray(np.ones((2, 3))), np.array(["a"]), np.arange(3)]),
            "metrics": MetricRecord({"loss": float("nan"), "n": -3, "each": [1.0, 2.0], "no": []}),
            "config": ConfigRecord(
                {"b": True, "t": "ä", "raw": b"1", "raws": [b"", b"2"], "ts": ["x"], "f": 0.5}
            ),
            "empty": ConfigRecord(),
        }
    )
    parcel = packed(records)
    check_records(parcel.records, deque(parcel.buffers))


def test_arrays_of_older_apps_need_not_say_what_they_are_and_may_be_none():
    check([array(dtype="", shape=())], TWO)
    check([array(name="_empty", dtype="", shape=())], b"")
    check([array(name="_empty", dtype="", shape=(), stype="")], b"")


def test_what_the_older_kind_of_app_replies_passes():
    parameters = ndarrays_to_parameters([np.ones((2, 3), np.float32), np.zeros(2)])
    for each in (parameters, Parameters(tensor_type="", tensors=[])):
        parcel = packed(
            RecordDict({"fitres.parameters": parameters_to_arrayrecord(each, keep_input=True)})
        )
        check_records(parcel.records, deque(parcel.buffers))


HOSTILE = {
    "no list": ({"a": 1}, "the records are a dict and no list"),
    "no record": (["x"], "an entry of the records has not 3 fields"),
    "short record": ([["x", "metrics"]], "an entry of the records has not 3 fields"),
    "name of another type": ([[1, "metrics", {}]], "a name among the records is 1 and no"),
    "name that moves a cursor": ([["\x1b[2J", "metrics", {}]], "is '\\x1b[2J' and no printable"),
    "half a character": ([["\ud800", "metrics", {}]], "and no printable text"),
    "long name": ([["x" * 2000, "metrics", {}]], "and no printable text of 1024 letters"),
    "name twice": ([metrics(1), metrics(1)], "the records have the name 'm' twice"),
    "unknown kind": ([["x", "code", []]], "the record 'x' is of the kind 'code'"),
    "kind of another type": ([["x", [], []]], "is of the kind a list of 0"),
    "metrics as a list": ([["m", "metrics", [1]]], "the metrics 'm' are a list"),
    "metric as a text": ([metrics("1")], "the metric m.loss is '1'"),
    "metric as a boolean": ([metrics(True)], "the metric m.loss is True"),
    "metric as nothing": ([metrics(None)], "the metric m.loss is None"),
    "metrics of two types": ([metrics([1, 1.5])], "the metric m.loss is a list of 2"),
    "nested metrics": ([metrics([[1]])], "the metric m.loss is a list of 1"),
    "huge metric": ([metrics(1 << 70)], "the metric m.loss is a huge number"),
    "name of a metric": ([metrics(1, "\n")], "a name among the metrics 'm' is '\\n'"),
    "setting as an object": ([config({"a": 1})], "the setting c.lr is a dict of 1"),
    "setting as nothing": ([config(None)], "the setting c.lr is None"),
    "half a character in a setting": ([config("\udcff")], "the setting c.lr is '\\udcff'"),
    "setting of no form": ([config(1, "pickle")], "the setting c.lr is 1"),
    "buffers of a setting": ([config(2, "bytes")], "the setting c.lr is of 2 buffers"),
    "more buffers than there are": ([config(9, "list of bytes")], "is of 9 buffers"),
    "less than no buffer": ([config(-1, "list of bytes")], "is of -1 buffers"),
    "buffers as a text": ([config("1", "bytes")], "is of '1' buffers"),
    "arrays as an object": ([["a", "arrays", {}]], "the arrays of 'a' are a dict and no list"),
    "short array": ([["a", "arrays", [["w"]]]], "an entry of the arrays of 'a' has not 4 fields"),
    "dtype as a list": ([array(dtype=[1])], "the dtype of the array arrays.w is a list of 1"),
    "shape as a text": ([["a", "arrays", [["w", "f", "2", KIND]]]], "has the shape '2'"),
    "negative shape": ([array(shape=(-2,))], "the array arrays.w has the shape a list of 1"),
    "too many axes": ([array(shape=(1,) * 33)], "the array arrays.w has the shape a list of 33"),
    "another kind": ([array(stype="torch")], "the array arrays.w is of the kind 'torch' and not"),
    "no kind": ([array(dtype="", shape=(), stype="")], "the array arrays.w is of the kind '' and"),
    "none of another kind": ([array(name="_empty", stype="x")], "is of the kind 'x' and not"),
    "half a length": ([array(shape=(2.5,))], "the array arrays.w has the shape a list of 1"),
    "another dtype": ([array(dtype="float64")], "is said to be float64 of shape [2], and is float"),
    "another shape": ([array(shape=(3,))], "of shape [3], and is float32 of shape [2]"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_record_is_refused_with_the_reason(case):
    records, reason = HOSTILE[case]
    with pytest.raises(ProtocolError) as caught:
        check(records, TWO)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


LONG = "x" * 1000


@pytest.mark.parametrize(
    "records",
    [
        [array(shape=[10**18] * 300_000)],
        [array(shape=[10**18] * 32)],
        [["x" * 4_000_000, "metrics", {}]],
        [[LONG, "x" * 4_000_000, []]],
        [[LONG, "metrics", 1]],
        [[LONG, "metrics", {LONG: None}]],
        [[LONG, "metrics", {LONG: "x" * 4_000_000}]],
        [[LONG, "metrics", {"x" * 4_000_000: 1.0}]],
        [[LONG, "metrics", {}], [LONG, "metrics", {}]],
        [[LONG, "config", [[LONG, LONG, 1]]]],
        [[LONG, "arrays", [[LONG, "float64", [2], KIND]]]],
        [[LONG, "arrays", [[LONG, "float32", [2], "x" * 4_000_000]]]],
    ],
)
def test_reasons_are_short_whatever_came(records):
    with pytest.raises(ProtocolError) as caught:
        check(records, TWO)
    assert len(str(caught.value)) < 1000


def test_arrays_that_say_to_be_none_and_something_else_are_refused():
    with pytest.raises(ProtocolError, match="cannot be read"):
        check([array(name="_empty", dtype="float32", shape=(5,))], b"")


def test_buffers_that_are_missing_or_that_nobody_claims_are_refused():
    with pytest.raises(ProtocolError, match=r"the array arrays\.w has no buffer"):
        check([array()])
    with pytest.raises(ProtocolError, match="2 buffers belong to no record"):
        check([], b"", b"")


HEAD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"


def file_of(head, data=b"\x00" * 8):
    text = head.encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def test_the_file_that_the_next_test_spoils_is_one():
    assert file_of(HEAD) == TWO


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        TWO[:-1],
        TWO + b"\x00",
        TWO.replace(b"\x01\x00", b"\x02\x00", 1),
        file_of(HEAD.replace("'<f4'", "'|O'")),
        file_of(HEAD.replace("'<f4'", "'<f3'")),
        file_of(HEAD.replace("'<f4'", "'<U999999'")),
        file_of(HEAD.replace("'<f4'", "[('a', '<f4')]")),
        file_of(HEAD.replace("(2,)", "(1000000000000, 1000000000000)")),
        file_of(HEAD.replace("(2,)", "(0, 1000000000000000)"), b""),
        file_of(HEAD.replace("(2,)", f"({'1, ' * 40}2)")),
        file_of(HEAD.replace("(2,)", "(-2,)")),
        file_of(HEAD.replace("(2,)", "(2,)*9**9")),
        file_of("__import__('os').abort()"),
        file_of("[" * 4000),
    ],
)
def test_arrays_that_are_no_files_of_numbers_are_refused_without_taking_memory(data):
    with pytest.raises(ProtocolError, match=r"the array arrays\.w cannot be read"):
        check([array()], data)


def test_an_array_of_nothing_is_refused_unless_it_says_that_there_are_none():
    with pytest.raises(ProtocolError, match="cannot be read"):
        check([array(dtype="", shape=())], b"")
