"""One client for each user of the data."""

import pytest
import torch

from roundel.core.errors import DataError
from roundel.simulations.partitions.natural import natural

USERS = torch.tensor([3, 0, 3, 7, 0, 3])


def test_each_user_is_a_client_in_the_order_of_their_numbers():
    partition = natural(USERS, None, 1)
    assert partition.clients == 3
    assert [partition.rows(k).tolist() for k in range(3)] == [[1, 4], [0, 2, 5], [3]]


def test_the_number_of_clients_may_be_said_if_it_is_right():
    assert natural(USERS, 3, 1).clients == 3
    with pytest.raises(DataError, match=r"clients = 4, and the data has 3 users.* leave .* out"):
        natural(USERS, 4, 1)


def test_data_that_does_not_know_its_users_is_an_error():
    with pytest.raises(DataError, match=r"'natural' needs to know whose each example is"):
        natural(None, None, 1)


def test_users_that_are_no_numbers_are_an_error():
    with pytest.raises(DataError, match=r"users of dtype torch.float32 are not user numbers"):
        natural(USERS.float(), None, 1)


def test_a_user_with_too_few_examples_is_named():
    with pytest.raises(DataError, match=r"user 7 has 1 examples, less than .*min_examples = 2"):
        natural(USERS, None, 2)
