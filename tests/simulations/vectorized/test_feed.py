"""The batches of a stack are those of the loop, in its order."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.data import Examples
from roundel.core.job import Phase, batches
from roundel.core.seeds import torch_generator
from roundel.simulations.vectorized import feed
from roundel.simulations.vectorized.feed import Feed


def numbered(count: int, first: int) -> Examples:
    """Examples that can be told apart."""
    numbers = torch.arange(first, first + count)
    return Examples(numbers[:, None].float(), numbers)


@given(
    sizes=st.lists(st.integers(1, 11), min_size=1, max_size=5),
    batch_size=st.one_of(st.none(), st.integers(1, 12)),
    length=st.one_of(
        st.builds(lambda n: {"epochs": n}, st.integers(0, 3)),
        st.builds(lambda n: {"epochs": None, "steps": n}, st.integers(0, 9)),
    ),
    smallest=st.integers(1, 2),
    numbers=st.sampled_from([1, 30, 1 << 20]),
)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_each_client_gets_what_the_loop_would_give_it(
    sizes: list[int],
    batch_size: int | None,
    length: Mapping[str, int | None],
    smallest: int,
    numbers: int,
):
    sizes.sort(reverse=True)
    examples = [numbered(size, 100 * k) for k, size in enumerate(sizes)]
    first = Phase(batch_size=batch_size, **length)  # type: ignore[arg-type]
    second = Phase(batch_size=3)
    generators = [torch_generator(k) for k in range(len(sizes))]
    own = [torch_generator(k) for k in range(len(sizes))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "_NUMBERS", numbers)  # however few steps are copied at once
        for phase in (first, second):  # which go on with the same generators
            expected = [
                [batch.targets.tolist() for batch in batches(e, phase, generator, smallest)]
                for e, generator in zip(examples, own, strict=True)
            ]
            found: list[list[list[int]]] = [[] for _ in sizes]
            given = Feed(examples, phase, generators, smallest)
            for step in given:
                assert step.inputs.shape[:2] == step.targets.shape
                assert torch.equal(step.inputs[..., 0].long(), step.targets)
                for k, size in enumerate(step.sizes):
                    found[k].append(step.targets[k, :size].tolist())
                    fill = step.targets[k, size:].tolist()
                    assert fill == [found[k][-1][-1]] * len(fill)
            assert found == expected
            assert given.steps == [len(each) for each in expected]


def test_only_a_few_steps_are_held_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feed, "_NUMBERS", 8)
    given = Feed([numbered(8, 0)], Phase(batch_size=2, epochs=5), [torch_generator(0)], 1)
    assert {step.inputs.untyped_storage().nbytes() for step in given} == {4 * 8}


def test_orders_are_drawn_epoch_by_epoch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feed, "_NUMBERS", 1)  # a step at once
    generator = torch_generator(0)
    before = generator.get_state()
    given = iter(Feed([numbered(6, 0)], Phase(batch_size=3, epochs=3), [generator], 1))
    assert torch.equal(generator.get_state(), before)
    moved = []
    for _ in given:
        moved.append(not torch.equal(generator.get_state(), before))
        before = generator.get_state()
    assert moved == [True, False, True, False, True, False]
