"""What a channel's ends prove, and what is not shown of it."""

import grpc

from roundel.core.wire.channel import COORDINATOR, Identity, dial


def test_a_key_is_not_in_the_repr():
    identity = Identity(key=b"secret", certificate=b"c", authority=b"a")
    assert repr(identity) == "Identity(certificate=b'c', authority=b'a')"


def test_a_channel_connects_when_it_is_used_and_not_before():
    for identity in (None, Identity(key=b"", certificate=b"", authority=b"")):
        with dial("127.0.0.1:1", identity) as channel:
            assert isinstance(channel, grpc.Channel)


def test_a_coordinator_has_one_name_wherever_it_listens():
    assert COORDINATOR == "coordinator.roundel"
