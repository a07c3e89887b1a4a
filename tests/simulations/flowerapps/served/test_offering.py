"""Messages on their way to nodes: refused before they go, and not copied."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from roundel.core.broadcast import broadcast_tensors
from roundel.core.errors import ProtocolError
from roundel.core.wire.payload import pack
from roundel.simulations.flowerapps.npy import write_npy
from roundel.simulations.flowerapps.parcels import Parcel, Task
from roundel.simulations.flowerapps.served import offering
from roundel.simulations.flowerapps.served.offering import check_sendable, packed_message
from roundel.simulations.flowerapps.served.wired import request_tensors

METADATA = {"message_type": "train", "group_id": "1", "ttl": 10.0}
MODEL = write_npy(np.arange(100_000, dtype=np.float32))
CONTENT = Parcel(
    records=[
        ["m", "arrays", [["w", "float32", [100_000], "numpy.ndarray"]]],
        ["c", "config", [["lr", "", 0.5], ["id", "bytes", 1], ["none", "bytes", 1]]],
    ],
    buffers=[MODEL, b"x", b""],
)


def task(content=CONTENT, **metadata):
    about = {**METADATA, **metadata}
    return Task(client=3, number=1, metadata=about, content=content, state=Parcel())


@pytest.mark.parametrize("content", [CONTENT, Parcel()])
def test_a_message_is_packed_as_its_tensors_are_without_copying_what_it_holds(content):
    nothing = torch.empty(0), torch.empty(0, dtype=torch.int64)
    packed = packed_message(content, METADATA)
    joined = pack(broadcast_tensors(*nothing, request_tensors(content, METADATA)))
    assert (packed.data, packed.digest) == (joined.data, joined.digest)
    assert b"".join(packed.chunks(200_001)) == joined.data[200_001:]
    shared = [piece.obj for piece in packed.pieces[-len(content.buffers) :] if content.buffers]
    assert all(ours is theirs for ours, theirs in zip(shared, content.buffers, strict=True))


def arrays(dtype, data):
    return Parcel(records=[["m", "arrays", [["w", dtype, [1], "numpy.ndarray"]]]], buffers=[data])


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (task(Parcel(records=[["n" * 1025, "metrics", {}]])), "a name among the records"),
        (task(Parcel(records=[["c", "config", [["k", "", "\ud800"]]]])), "the setting c.k is"),
        (
            task(arrays("datetime64[D]", write_npy(np.zeros(1, "datetime64[D]")))),
            "the array m.w cannot be read: it is no file of plain numbers",
        ),
        (
            task(arrays("[('a', '<i4')]", write_npy(np.zeros(1, [("a", "i4")])))),
            "the array m.w cannot be read: it is no file of plain numbers",
        ),
        (task(Parcel(records=[["m", "metrics", {"k": object()}]])), "not JSON serializable"),
        (task(group_id="\x1b[2J"), "the group_id of a message is"),
    ],
)
def test_what_a_node_would_refuse_is_refused_here(refused, why):
    with pytest.raises(ProtocolError) as caught:
        check_sendable([task(), refused])
    assert str(caught.value).startswith("the message to client 3 cannot be sent to a node: ")
    assert why in str(caught.value)


def test_messages_of_one_content_are_looked_at_once(monkeypatch):
    looked = []
    monkeypatch.setattr(offering, "check_records", lambda records, _: looked.append(records[0][0]))
    same = replace(CONTENT, records=[list(record) for record in CONTENT.records])
    check_sendable([task(), task(same), task(message_type="evaluate")])
    assert looked == ["m", "m"]
    check_sendable([task(), task(replace(CONTENT, buffers=[MODEL, b"y" * 2, b""]))])
    assert looked == ["m"] * 4


def test_numbers_of_numpy_s_pass_as_the_numbers_that_they_become():
    check_sendable([task(Parcel(records=[["m", "metrics", {"loss": np.float64(0.5)}]]))])
