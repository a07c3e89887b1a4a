"""What a coordinator says of itself along with its health."""

import pytest

from roundel.core.wire.greeting import Greeting, greeting_from_metadata, greeting_to_metadata
from roundel.core.wire.versions import Version


def test_it_comes_back_equal():
    said = greeting_to_metadata(Version(1, 2), 1_700_000_000.25)
    assert greeting_from_metadata([*said, ("other", b"1")]) == Greeting(
        protocol=Version(1, 2), time_s=1_700_000_000.25
    )


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("roundel-protocol", "1"), ("roundel-time", "noon")],
        [("roundel-protocol", "a.b"), ("roundel-time", "inf")],
        [("roundel-protocol", b"1.0"), ("roundel-time", "")],
    ],
)
def test_what_is_not_understood_is_not_known(metadata):
    assert greeting_from_metadata(metadata) == Greeting()
