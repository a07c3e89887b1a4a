"""Which releases of Flower work."""

import pytest

from roundel.core.errors import ConfigError
from roundel.core.flowerversion import need_flower


def test_the_release_that_is_tested_works():
    need_flower("1.41.0")


@pytest.mark.parametrize("found", [None, "1.40.2", "1.42.0", "2.0.0"])
def test_without_one_that_works_it_is_said_which_does_and_how_to_install_it(found):
    with pytest.raises(ConfigError) as caught:
        need_flower(found)
    assert (found or "is missing") in str(caught.value)
    assert "1.41.*" in str(caught.value)
    assert "pip install 'roundel[flower]'" in str(caught.value)
