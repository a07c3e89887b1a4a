"""Nodes with examples of their own keep the client that they were given first."""

import pytest

from roundel.core.errors import ProtocolError, RunDirectoryError
from roundel.server.seats import Seats


def test_names_get_numbers_in_the_order_in_which_they_come():
    seats, first = Seats(clients=3).seated("north")
    seats, second = seats.seated("south")
    assert (first, second, seats.names) == (0, 1, ("north", "south"))


def test_a_name_that_comes_again_is_the_same_client():
    seats = Seats(clients=2, names=("north", "south"))
    assert seats.seated("south") == (seats, 1)


def test_a_name_is_the_same_client_after_it_was_written_down():
    seats, _ = Seats(clients=3).seated('a "quoted" näme')
    again = Seats.of(seats.text(), clients=3)
    assert again == seats
    assert again.seated('a "quoted" näme')[1] == 0
    assert again.seated("another")[1] == 1


def test_seating_changes_nothing_that_was_there():
    seats = Seats(clients=1)
    seats.seated("north")
    assert seats.names == ()


def test_one_node_too_many_is_told_who_is_there():
    with pytest.raises(ProtocolError) as caught:
        Seats(clients=2, names=("north", "south")).seated("west")
    assert str(caught.value) == (
        "node 'west' brings examples of its own, and each of the 2 clients has its node already "
        "('north', 'south'); join under the name of the node that it replaces, or serve with a "
        "larger partition.clients"
    )


def test_a_sentence_does_not_name_hundreds_of_nodes():
    names = tuple(f"edge{k}" for k in range(100))
    with pytest.raises(ProtocolError, match=r"'edge9' and 90 more\)"):
        Seats(clients=100, names=names).seated("west")


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '["a", "a"]', '["a", "b", "c"]', "[" * 100_000], ids=str.__len__
)
def test_a_record_that_is_none_is_refused(text):
    with pytest.raises(RunDirectoryError, match=r"^the record of which node is which client is "):
        Seats.of(text, clients=2)
