"""Who takes part in a round."""

from collections import Counter
from collections.abc import Sequence
from math import inf, nan
from typing import Any

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.seeds import derive
from roundel.strategies.compose import Part, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.sampling import UNIFORM
from roundel.strategies.scaffold import scaffold
from roundel.strategies.selectors import (
    availability,
    by_size,
    over_selection,
    poisson,
    power_of_choice,
    round_robin,
    uniform,
)
from roundel.strategies.sites import Selection
from roundel.strategies.weighers import BY_EXAMPLES, EQUAL
from tests.federations import drawn_to
from tests.strategies.updates import vec

SIZES = [3, 1, 4, 1, 5, 9, 2, 6]
KNOW_NOBODY = [uniform(), poisson(), round_robin(), availability(), over_selection()]
ALL = [*KNOW_NOBODY, by_size(), power_of_choice(), power_of_choice(drawn="uniform")]

every = pytest.mark.parametrize("part", ALL, ids=lambda part: part.name)


def select(
    part: Part, *, round: int = 1, population: int = 8, size: int = 3, seed: int = 7, **more: Any
) -> list[int]:
    assert part.selector is not None
    selection = Selection(
        round=round,
        population=population,
        size=size,
        seed=derive(seed, "cohort", round),
        run_seed=derive(seed, "cohort"),
        **{"sizes": lambda: SIZES, "losses": lambda asked: [0.0] * len(asked), **more},
    )
    return list(part.selector.select(selection))


@every
def test_a_cohort_is_a_set_of_clients(part):
    for round in range(1, 30):
        cohort = select(part, round=round)
        assert len(set(cohort)) == len(cohort)
        assert set(cohort) <= set(range(8))


@every
def test_it_follows_from_the_seed_and_the_round(part):
    def cohorts(seed: int) -> list[list[int]]:
        return [select(part, round=round, seed=seed) for round in range(1, 20)]

    assert cohorts(1) == cohorts(1)
    assert len({tuple(cohort) for cohort in cohorts(1)}) > 4
    assert (cohorts(1) == cohorts(2)) is (part.name == "round_robin")


@every
def test_a_population_that_takes_part_as_a_whole_is_the_cohort(part):
    if not part.name.startswith("availability"):
        assert sorted(select(part, size=8)) == list(range(8))


@pytest.mark.parametrize("part", KNOW_NOBODY, ids=lambda part: part.name)
def test_a_population_of_a_billion_costs_what_its_cohort_costs(part):
    cohort = select(part, population=10**9, size=100, round=3)
    assert 50 < len(cohort) < 150


def test_the_uniform_selector_is_what_strategies_have_anyway():
    assert uniform().selector is UNIFORM
    assert compose(fedavg(), uniform()).weigher is BY_EXAMPLES


def test_two_selectors_do_not_go_together():
    with pytest.raises(CompositionError, match="poisson and by_size both set the selector"):
        compose(fedavg(), poisson(), by_size())


# ---- Poisson


def test_poisson_cohorts_vary_around_the_size_asked_for_and_may_be_empty():
    sizes = Counter(len(select(poisson(), round=k, size=2)) for k in range(1, 1001))
    # Binomial(8, 1/4): the mean is 2 and 0.1001 of the cohorts are empty.
    assert abs(sum(size * count for size, count in sizes.items()) / 1000 - 2) < 0.2
    assert 60 < sizes[0] < 145
    assert compose(fedavg(), poisson()).selector.poisson


def test_poisson_sampling_takes_each_client_equally_often():
    counts = Counter(k for r in range(1, 1001) for k in select(poisson(), round=r, size=2))
    assert all(200 < counts[k] < 300 for k in range(8))  # 250, with a standard deviation of 14


def test_rounds_that_nobody_takes_part_in_move_nothing_and_are_recorded(tmp_path):
    # Client k draws the point to 4; a step of 0.25 goes a quarter of the way.
    strategy = compose(fedavg(), poisson())
    ran = drawn_to([4.0] * 3, tmp_path, strategy, rounds=12, cohort=1, lr=0.25)
    lines = ran.history.rounds
    sizes = [line["cohort"] for line in lines]
    assert min(sizes) == 0 < max(sizes)
    filled = sum(size > 0 for size in sizes)
    torch.testing.assert_close(ran.model["w"], vec(4 - 4 * 0.75**filled))
    before = None
    for line in lines:
        if line["cohort"] == 0:
            assert line["train_loss"] is None
            assert (line["completed"], line["failures"]) == (0, 0)
            assert (line["bytes_up"], line["bytes_down"]) == (0, 0)
            assert before in (None, line["params_sha256"])
        before = line["params_sha256"]


# ---- by size


def test_large_clients_are_selected_more_often_and_weigh_the_same():
    assert compose(fedavg(), by_size()).weigher is EQUAL
    counts = Counter(k for r in range(1, 1001) for k in select(by_size(), round=r, size=1))
    for client, examples in enumerate(SIZES):
        share = examples / 31
        deviation = (1000 * share * (1 - share)) ** 0.5
        assert abs(counts[client] - 1000 * share) < 4 * deviation


def test_weights_by_examples_would_count_sizes_twice():
    with pytest.raises(CompositionError, match="fedavg and by_size both set the weigher"):
        compose(fedavg(weights="examples"), by_size())


def test_a_strategy_that_weighs_clients_equally_goes_with_it():
    assert compose(scaffold(), by_size()).weigher is EQUAL


def test_clients_without_examples_are_left_out():
    assert select(by_size(), population=3, sizes=lambda: [0, 2, 0]) == [1]
    with pytest.raises(CompositionError, match="no client has training examples"):
        select(by_size(), population=3, sizes=lambda: [0, 0, 0])


def test_sizes_that_nobody_knows_are_asked_for_in_vain():
    selection = Selection(round=1, population=8, size=2, seed=1)
    selector = by_size().selector
    assert selector is not None
    with pytest.raises(CompositionError, match="asks about clients whom nobody here knows"):
        selector.select(selection)


# ---- in turn


def test_clients_take_turns_in_the_order_of_their_numbers():
    cohorts = [select(round_robin(), round=r) for r in (1, 2, 3, 4)]
    assert cohorts == [[0, 1, 2], [3, 4, 5], [0, 6, 7], [1, 2, 3]]


# ---- power of choice


def losses_of(losses: Sequence[float], asked: list[int]) -> Any:
    def answer(candidates: Sequence[int]) -> list[float]:
        asked.extend(candidates)
        return [losses[client] for client in candidates]

    return answer


def test_of_the_candidates_those_with_the_highest_loss_take_part():
    losses, asked = [8.0, 7, 6, 5, 4, 3, 2, 1], list[int]()
    part = power_of_choice(candidates=5)
    cohort = select(part, losses=losses_of(losses, asked))
    assert len(asked) == len(set(asked)) == 5
    assert cohort == sorted(asked)[:3]


def test_twice_as_many_are_asked_by_default_and_never_more_than_there_are():
    for size, count in ((2, 4), (3, 6), (7, 8)):
        asked = list[int]()
        select(power_of_choice(), size=size, losses=losses_of([1.0] * 8, asked))
        assert len(asked) == count


def test_equal_losses_are_settled_by_the_lower_number():
    part = power_of_choice(candidates=8)
    losses = losses_of([1.0, 2, 1, 2, 2, 2, 1, 1], [])
    assert select(part, losses=losses) == [1, 3, 4]


def test_a_candidate_that_does_not_answer_or_has_diverged_is_not_chosen():
    part = power_of_choice(candidates=8)
    losses = [inf, 1.0, nan, 2.0, inf, 3.0, 0.0, 1.5]
    assert select(part, losses=losses_of(losses, [])) == [3, 5, 7]
    assert select(part, losses=losses_of([inf] * 7 + [0.0], [])) == [7]


def test_if_no_candidate_answers_the_round_finds_out_why():
    assert len(select(power_of_choice(), losses=losses_of([inf] * 8, []))) == 3


def test_candidates_are_drawn_by_size_or_uniformly():
    def asked_for_one(drawn: Any) -> Counter[int]:
        asked = list[int]()
        part = power_of_choice(candidates=1, drawn=drawn)
        for round in range(1, 1001):
            select(part, round=round, size=1, losses=losses_of([1.0] * 8, asked))
        return Counter(asked)

    by_examples, evenly = asked_for_one("size"), asked_for_one("uniform")
    # Client 5 has 9 of 31 examples: 290 of 1000, with a standard deviation of 14. Else 125 and 10.
    assert abs(by_examples[5] - 290) < 60
    assert all(abs(evenly[k] - 125) < 45 for k in range(8))


def test_candidates_drawn_by_size_weigh_the_same_and_others_as_usual():
    assert compose(fedavg(), power_of_choice()).weigher is EQUAL
    assert compose(fedavg(), power_of_choice(drawn="uniform")).weigher is BY_EXAMPLES


def test_clients_that_the_model_does_not_suit_are_trained(tmp_path):
    # Losses at 0 are e**2 / 2: clients 1 and 3 have the highest, and one step of 1 meets them.
    strategy = compose(fedavg(), power_of_choice(candidates=4))
    ran = drawn_to([1.0, 4.0, 2.0, -3.0], tmp_path, strategy, cohort=2, lr=1.0)
    assert [line["client"] for line in ran.history.clients()] == [1, 3]
    assert ran.model["w"].tolist() == [0.5]
    (line,) = ran.history.rounds
    assert line["bytes_up"] == 2 * 8
    assert line["bytes_down"] == 2 * 8 + 4 * 8  # two are trained, and four were asked


@pytest.mark.parametrize("candidates", [0, -3])
def test_there_must_be_candidates(candidates):
    with pytest.raises(CompositionError, match=f"candidates = {candidates} must be at least 1"):
        power_of_choice(candidates=candidates)


def test_fewer_candidates_than_places_are_refused():
    with pytest.raises(CompositionError) as caught:
        select(power_of_choice(candidates=2))
    assert str(caught.value) == (
        "power_of_choice cannot choose cohort.size = 3 clients from candidates = 2; raise "
        "strategy.candidates"
    )


# ---- availability


def test_each_client_is_available_in_one_window_of_each_period():
    part = availability(share=0.25, period=8)
    rounds = {k: set[int]() for k in range(30)}
    for round in range(1, 17):
        for client in select(part, round=round, population=30, size=30):
            rounds[client].add(round)
    for present in rounds.values():
        first = {round % 8 for round in present if round <= 8}
        second = {round % 8 for round in present if round > 8}
        assert first == second
        assert len(first) == 2
        assert (max(first) - min(first)) in (1, 7)
    assert len({frozenset(present) for present in rounds.values()}) == 8


def test_of_those_available_each_is_as_likely():
    part = availability(share=0.5, period=4)
    everybody = Counter(k for r in range(4, 404, 4) for k in select(part, round=r, size=8))
    present = set(everybody)
    assert 2 <= len(present) < 8
    counts = Counter(k for r in range(4, 4004, 4) for k in select(part, round=r, size=2))
    assert counts.keys() == present
    mean = 2000 / len(present)
    assert all(abs(count - mean) < 5 * mean**0.5 for count in counts.values())


def test_always_available_is_uniform():
    cohorts = [select(availability(share=1.0, period=1), round=r) for r in range(1, 9)]
    assert cohorts == [select(uniform(), round=r) for r in range(1, 9)]


def test_if_few_are_available_all_of_them_take_part_and_nobody_is_an_error():
    part, small, messages = availability(share=0.1, period=10), 0, list[str]()
    for round in range(1, 31):
        try:
            small += 0 < len(select(part, round=round)) < 3
        except CompositionError as error:
            messages.append(str(error))
    assert small
    assert messages[0].startswith(
        "availability(share=0.1, period=10) leaves none of 8 clients available in round "
    )
    assert messages[0].endswith("; raise strategy.share")


def test_looking_for_somebody_ends():
    with pytest.raises(CompositionError, match="leaves none of 1001 clients available in round 1"):
        select(availability(share=1e-9 / 20, period=10**9), population=1001, size=1)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"share": 0.0}, "share = 0.0 must be above 0 and at most 1"),
        ({"share": 1.1}, "share = 1.1 must be above 0 and at most 1"),
        ({"period": 0}, "period = 0 must be at least 1"),
    ],
)
def test_windows_that_cannot_be_are_refused(knobs, message):
    with pytest.raises(CompositionError) as caught:
        availability(**knobs)
    assert str(caught.value) == message


# ---- over-selection


@pytest.mark.parametrize(
    ("extra", "size", "count"), [(0.3, 10, 13), (0.3, 3, 4), (0.0, 3, 3), (1.0, 5, 8), (0.1, 1, 2)]
)
def test_more_are_asked_than_are_needed(extra, size, count):
    population = 8 if size < 10 else 100
    assert len(select(over_selection(extra=extra), population=population, size=size)) == count


def test_everybody_is_asked_first_equally_often():
    firsts = Counter(select(over_selection(), round=r)[0] for r in range(1, 1001))
    assert all(abs(firsts[k] - 125) < 45 for k in range(8))


def test_the_round_ends_with_as_many_as_it_wants(tmp_path):
    strategy = compose(fedavg(), over_selection(extra=0.5))
    ran = drawn_to([1.0] * 6, tmp_path, strategy, rounds=20, cohort=2)
    assert {(line["cohort"], line["completed"]) for line in ran.history.rounds} == {(3, 2)}
    heard = Counter(k["client"] for k in ran.history.clients() if k["status"] == "accepted")
    assert set(heard) == set(range(6))  # high numbers, too


def test_fewer_than_none_cannot_be_added():
    with pytest.raises(CompositionError, match=r"extra = -0\.1 must be"):
        over_selection(extra=-0.1)
