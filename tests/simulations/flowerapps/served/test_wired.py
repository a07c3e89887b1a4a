"""Parcels as tensors: as they were, or refused."""

import json

import pytest
import torch

from roundel.core.errors import ProtocolError
from roundel.core.wire.payload import pack, unpack
from roundel.simulations.flowerapps.parcels import Answer, Parcel, Trouble
from roundel.simulations.flowerapps.served import wired
from roundel.simulations.flowerapps.served.wired import (
    is_bare,
    parcel_of,
    reply_of,
    reply_tensors,
    request_of,
    request_tensors,
    tensors_of,
)

PARCEL = Parcel(
    records=[["c", "config", [["a", "list of bytes", 2], ["b", "bytes", 1]]]],
    buffers=[b"one", b"", b"three"],
)
METADATA = {"message_type": "train.fit", "group_id": "3", "ttl": 2.5}


def over_the_wire(tensors):
    return unpack(bytearray(pack(tensors).data))


def tensor(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def wire(head, body=b""):
    """What a node may send: any head, any body."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return {"head": tensor(text), "body": tensor(body) if body else torch.empty(0).byte()}


def test_parcels_arrive_as_they_were():
    assert parcel_of(over_the_wire(tensors_of(PARCEL))) == (PARCEL, {})
    assert parcel_of(over_the_wire(tensors_of(Parcel())))[0] == Parcel()


def test_a_message_arrives_with_its_metadata():
    assert request_of(over_the_wire(request_tensors(PARCEL, METADATA))) == (PARCEL, METADATA)


@pytest.mark.parametrize(
    "answer", [Answer(content=PARCEL), Answer(trouble=Trouble(code=207, reason="too few"))]
)
def test_a_reply_arrives_whether_it_is_one_or_an_error(answer):
    found = reply_of(over_the_wire(reply_tensors(answer)))
    assert found.trouble == answer.trouble
    assert answer.content is None or found.content == answer.content


def test_a_reply_says_whether_its_client_keeps_nothing():
    kept = Parcel(records=[["c", "config", []]])
    assert is_bare(over_the_wire(reply_tensors(Answer(content=PARCEL))))
    assert not is_bare(over_the_wire(reply_tensors(Answer(content=PARCEL, state=kept))))
    assert not is_bare(wire({"records": [], "sizes": [], "bare": 1}))


HOSTILE = {
    "nothing": ({}, "no tensor 'head' of bytes"),
    "no body": ({"head": tensor(b"{}")}, "no tensor 'body' of bytes"),
    "floats": ({"head": torch.zeros(3), "body": torch.zeros(3)}, "no tensor 'head' of bytes"),
    "a matrix": (
        {"head": torch.zeros(2, 2).byte(), "body": torch.zeros(1).byte()},
        "no tensor 'head' of bytes",
    ),
    "no JSON": (wire(b"{'a': 1}"), "a head is not JSON"),
    "no text": (wire(b"\xff\xfe"), "a head is not JSON"),
    "a depth": (wire(b"[" * 100_000), "a head is not JSON"),
    "many digits": (wire(b'{"sizes": ' + b"9" * 10_000 + b"}"), "a head is not JSON"),
    "a list": (wire([]), "a head is not an object"),
    "no sizes": (wire({"records": []}), "does not say how long the buffers are"),
    "odd sizes": (wire({"records": [], "sizes": [1.0]}, b"1"), "does not say how long"),
    "negative sizes": (wire({"records": [], "sizes": [2, -1]}, b"1"), "does not say how long"),
    "too few bytes": (wire({"records": [], "sizes": [1 << 60]}, b"1"), "1 bytes came, which are"),
    "too many bytes": (wire({"records": [], "sizes": []}, b"1"), "1 bytes came, which are not"),
    "no records": (wire({"sizes": []}), "the records are a NoneType and no list"),
    "an odd error": (wire({"records": [], "sizes": [], "error": 3}), "the error that the app"),
    "a huge code": (wire({"records": [], "sizes": [], "error": [1 << 80, ""]}), "the error that"),
    "a long reason": (wire({"records": [], "sizes": [], "error": [1, "x" * 5000]}), "the error"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_reply_is_refused_with_the_reason(case):
    tensors, reason = HOSTILE[case]
    with pytest.raises(ProtocolError) as caught:
        reply_of(tensors)
    assert reason in str(caught.value)


def test_what_an_app_says_of_its_error_moves_no_cursor():
    reply = reply_of(wire({"records": [], "sizes": [], "error": [1, "a\x1b[2J\nb"]}))
    assert reply.trouble == Trouble(code=1, reason="a\ufffd[2J\ufffdb")


def test_a_head_that_is_too_large_is_neither_sent_nor_read(monkeypatch):
    monkeypatch.setattr(wired, "MAX_HEAD", 100)
    with pytest.raises(ProtocolError, match="more than 100; put long lists into arrays"):
        tensors_of(Parcel(records=[["m", "metrics", {"each": [0.5] * 50}]]))
    with pytest.raises(ProtocolError, match="a head of 101 bytes is longer than 100"):
        parcel_of(wire(b" " * 101))


def test_a_reply_that_would_be_refused_is_not_sent():
    odd = Parcel(records=[["a", "arrays", [["w", "object", [1], "numpy.ndarray"]]]], buffers=[b"x"])
    with pytest.raises(ProtocolError, match=r"the array a\.w cannot be read"):
        reply_tensors(Answer(content=odd))


@pytest.mark.parametrize("metadata", [None, [], {"message_type": 3, "group_id": ""}])
def test_a_message_without_proper_metadata_is_refused(metadata):
    with pytest.raises(ProtocolError, match=r"metadata|message_type"):
        request_of(wire({"records": [], "sizes": [], "metadata": metadata}))
