"""Blocks of a cohort, and how they are dealt out."""

from hypothesis import given
from hypothesis import strategies as st

from roundel.core.messages import Ticket
from roundel.simulations.blocks import Durations, Widths, blocks_of, deal, narrowed

SIZES = st.lists(st.integers(0, 50), max_size=40)


def cohort(count: int) -> list[Ticket]:
    return [Ticket(run="run", round=1, client_id=client) for client in range(count)]


def numbers(blocks: list[list[Ticket]]) -> list[list[int]]:
    return [[ticket.client_id for ticket in block] for block in blocks]


def test_blocks_of_one_keep_the_order_of_the_cohort():
    assert numbers(blocks_of(cohort(3), 1, [1, 9, 5].__getitem__)) == [[0], [1], [2]]


def test_clients_with_equally_much_work_stand_together_and_the_most_comes_first():
    sizes = [1, 9, 5, 9, 1, 5]
    assert numbers(blocks_of(cohort(6), 3, sizes.__getitem__)) == [[1, 3, 2], [5, 0, 4]]


def test_more_than_one_block_is_an_even_number_of_them():
    blocks = numbers(blocks_of(cohort(9), 4, lambda _client: 1))
    assert blocks == [[0, 1], [2, 3], [4, 5], [6, 7, 8]]
    assert numbers(blocks_of(cohort(4), 4, lambda _client: 1)) == [[0, 1, 2, 3]]


def test_of_nobody_there_is_no_block():
    assert blocks_of([], 1, lambda _client: 1) == blocks_of([], 4, lambda _client: 1) == []


@given(SIZES, st.integers(1, 8))
def test_everybody_is_in_one_block_and_no_block_is_too_wide(sizes, width):
    blocks = numbers(blocks_of(cohort(len(sizes)), width, sizes.__getitem__))
    assert sorted(client for block in blocks for client in block) == list(range(len(sizes)))
    assert all(1 <= len(block) <= width for block in blocks)


def test_the_longest_piece_goes_to_the_rank_that_has_the_least():
    # 7 to rank 0, 6 to rank 1, 3 to rank 1 (9), 2 to rank 0 (9), 1 to rank 0
    assert deal([2, 7, 1, 6, 3], 2) == [[1, 0, 2], [3, 4]]
    assert deal([5], 3) == [[0], [], []]


@given(SIZES, st.integers(1, 5))
def test_every_piece_is_dealt_once_and_no_rank_has_much_more_than_its_share(costs, ranks):
    hands = deal(costs, ranks)
    assert sorted(place for hand in hands for place in hand) == list(range(len(costs)))
    loads = [sum(costs[place] for place in hand) for hand in hands]
    assert max(loads) <= sum(costs) / ranks + max(costs, default=0)


def test_clients_are_expected_to_train_as_long_as_they_did_and_others_as_long_as_their_cost_says():
    durations = Durations(lambda client_id: 10 * (client_id + 1))
    assert [durations.expected(client) for client in (0, 1)] == [10.0, 20.0]
    durations.note(0, 4.0)
    durations.note(1, 2.0)
    assert [durations.expected(client) for client in (0, 1, 2)] == [4.0, 2.0, 6.0]
    durations.note(0, 1.0)
    assert durations.expected(0) == 1.0


def test_durations_of_nothing_are_no_trouble():
    durations = Durations(lambda _client_id: 0)
    durations.note(0, 0.0)
    assert [durations.expected(client) for client in (0, 1)] == [0.0, 0.0]


def test_widths_halve_from_the_round_on_in_which_memory_was_short():
    widths = Widths(20)
    widths.narrow(3)
    widths.narrow(3)
    widths.narrow(6)
    assert [widths.of(round) for round in (1, 2, 3, 5, 6, 99)] == [20, 20, 5, 5, 2, 2]
    assert widths.narrowed == {3: 5, 6: 2}


def test_one_client_at_a_time_is_the_least():
    widths = Widths(2)
    for _ in range(3):
        widths.narrow(1)
    assert widths.of(1) == 1


def test_what_a_run_has_recorded_says_how_wide_its_rounds_were():
    lines = [{"round": 1}, {"round": 2, "width": 8}, {"round": 3, "width": 8}]
    widths = Widths(32, narrowed(lines))
    assert [widths.of(round) for round in (1, 2, 3, 4)] == [32, 8, 8, 8]
