"""Parts put together, and the contradictions that are found when they are."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from roundel.core.errors import CompositionError
from roundel.core.job import Batch, LocalContext, LocalJob, Phase, Trained
from roundel.core.learning import Learner
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS
from roundel.core.optimizers import OptimizerSpec
from roundel.core.params import Entry, ParamSpec
from roundel.core.task import Task
from roundel.strategies.aggregators import LowerMedian, Maximum, Mean, OverRows, Rows
from roundel.strategies.centred_clipping import centred_clipping
from roundel.strategies.compose import IMPULSE, Part, compose
from roundel.strategies.coordinatewise import median as coordinatewise_median
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadam, fedavgm, fedyogi
from roundel.strategies.fedprox import fedprox, prox
from roundel.strategies.fltrust import fltrust
from roundel.strategies.krum import krum
from roundel.strategies.scaffold import scaffold
from roundel.strategies.selectors import UNIFORM
from roundel.strategies.sites import (
    Aggregate,
    Codec,
    Finished,
    Noise,
    RoundContext,
    Selector,
    ServerTransform,
    State,
    Synchronous,
    Weigher,
    stateless,
)
from roundel.strategies.weighers import BY_EXAMPLES, EQUAL
from tests.nets import Net
from tests.strategies.toys import half, head_then_body, median, nested, over_selection
from tests.strategies.updates import points, update, vec

SELECTOR = Selector(name="first", select=lambda selection: range(selection.size))
PLAIN = [Phase(optimizer=OptimizerSpec(lr=0.1))]


def entry(name: str, size: int, *, trainable: bool = True, personal: bool = False) -> Entry:
    return Entry(
        name=name, shape=(size,), dtype=torch.float32, trainable=trainable, personal=personal
    )


BARE = ParamSpec((entry("w", 5),))
FULL = ParamSpec(
    (
        entry("mean", 2, trainable=False),
        entry("w", 5),
        entry("head", 3, personal=True),
    ),
    (Entry(name="count", shape=(), dtype=torch.int64, trainable=False),),
)


def correction(gradient: Tensor, _point: Tensor, _context: LocalContext) -> Tensor:
    return gradient


def term(batch: Batch) -> Tensor:
    return batch.outputs.sum()


def solve(_learner: Learner, _job: LocalJob) -> Trained:
    raise NotImplementedError


def finish(_trained: Trained, _context: LocalContext) -> Finished:
    return Finished()


def link(name: str) -> ServerTransform:
    def update(
        aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        return aggregate, state

    return ServerTransform(name=name, init=stateless, update=update)


def affine(name: str, factor: float, shift: float) -> Part:
    def update(
        aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        return {PARAMS: factor * aggregate[PARAMS] + shift}, state

    return Part(name=name, server=(ServerTransform(name=name, init=stateless, update=update),))


def refusal(*items) -> str:
    with pytest.raises(CompositionError) as raised:
        compose(*items)
    return str(raised.value)


# ---- what comes out


def test_nothing_composed_is_federated_averaging():
    strategy = compose()
    assert strategy.name == "fedavg"
    assert (strategy.selector, strategy.weigher) == (UNIFORM, BY_EXAMPLES)
    assert strategy.aggregators == {
        PARAMS: Mean(),
        BUFFERS: Mean(by_arrivals=True),
        INTEGERS: Maximum(),
    }
    assert (strategy.server, strategy.corrections, strategy.solver) == ((), (), None)


def test_a_part_fills_its_sites_and_leaves_the_others():
    codec = Codec(
        name="c", encode=lambda channels, _s, _r: (channels, {}), decode=lambda sent, _: sent
    )
    part = Part(
        name="all",
        selector=SELECTOR,
        pacing=Synchronous(quorum=3),
        corrections=(correction,),
        loss_terms=(term,),
        finishers=(finish,),
        codecs=(codec,),
        weigher=EQUAL,
        aggregators={"extra": Mean(weighted=False)},
        server=(link("one"),),
        broadcast={"down": lambda _states: torch.zeros(1)},
        channel_sizes={"extra": 1},
        root=True,
    )
    strategy = compose(fedavg(), part)
    assert strategy.selector is SELECTOR
    assert strategy.pacing == Synchronous(quorum=3)
    assert strategy.corrections == (correction,)
    assert strategy.loss_terms == (term,)
    assert strategy.finishers == (finish,)
    assert strategy.codecs == (codec,)
    assert strategy.weigher is EQUAL
    assert strategy.aggregators["extra"] == Mean(weighted=False)
    assert strategy.aggregators[PARAMS] == Mean()
    assert [each.name for each in strategy.server] == ["one"]
    assert strategy.broadcast.keys() == {"down"}
    assert strategy.channel_sizes == {"extra": 1}
    assert strategy.root


def test_a_strategy_in_a_composition_brings_its_parts():
    strategy = compose(fedprox(mu=0.5), scaffold(), half())
    assert [part.name for part in strategy.parts] == ["fedavg", "prox(mu=0.5)", "scaffold", "half"]
    assert strategy.name == "fedavg+prox(mu=0.5)+scaffold+half"
    assert len(strategy.corrections) == 2


def test_a_composition_may_be_named():
    assert compose(fedavg(), prox(mu=0.1), name="mine").name == "mine"


def test_links_of_the_server_run_in_the_order_of_composition():
    # 2 * 3 + 10 = 16, or (3 + 10) * 2 = 26.
    double, shift = affine("double", 2.0, 0.0), affine("shift", 1.0, 10.0)
    assert points(compose(double, shift), vec(0), [update(0, 3)]) == [[16]]
    assert points(compose(shift, double), vec(0), [update(0, 3)]) == [[26]]


def test_two_server_optimizers_with_their_own_names_chain():
    strategy = compose(fedavgm(momentum=0.5), fedyogi(server_lr=1.0))
    assert [each.name for each in strategy.server] == ["momentum", "yogi"]


# ---- contradictions


@pytest.mark.parametrize(
    ("site", "value", "other"),
    [
        ("selector", SELECTOR, UNIFORM),
        ("pacing", Synchronous(), Synchronous(quorum=2)),
        ("weigher", Weigher(name="w", weigh=lambda _update: 1.0), EQUAL),
        ("solver", solve, lambda _learner, _job: None),
    ],
)
def test_two_parts_cannot_hold_the_same_site(site, value, other):
    one, two = Part(name="one", **{site: value}), Part(name="two", **{site: other})
    assert refusal(one, two) == f"one and two both set the {site}: leave it out of one of them"


def test_parts_that_put_the_same_at_a_site_agree():
    assert compose(fedavg(weights="uniform"), scaffold()).weigher == EQUAL


def test_two_weighers_are_refused_if_they_differ():
    assert refusal(fedavg(weights="examples"), scaffold()) == (
        "fedavg and scaffold both set the weigher: leave it out of one of them"
    )


def test_two_selectors_are_refused_among_other_parts():
    assert refusal(over_selection(1), prox(mu=0.1), over_selection(2)) == (
        "over_selection(1) and over_selection(2) both set the selector: leave it out of one of them"
    )


def test_two_server_optimizers_of_one_name_are_refused():
    assert refusal(fedadam(), fedadam()) == (
        "fedadam and fedadam both bring the server transform 'adam': use one of them, or give one "
        "another name"
    )


def test_server_learning_rates_of_two_strategies_multiply():
    strategy = compose(fedavg(server_lr=0.5), fedavgm(server_lr=0.25))
    assert points(strategy, vec(0), [update(0, 8.0)]) == [[1.0]]


def test_two_links_of_one_part_with_one_name_are_refused():
    part = Part(name="twice", server=(link("same"), link("same")))
    assert refusal(part).startswith("twice and twice both bring the server transform 'same'")


def test_two_aggregators_of_one_channel_are_refused():
    rule = OverRows("first", lambda rows, _weights, _context: rows[0])
    first = Part(name="first", aggregators={PARAMS: rule})
    assert refusal(first, median()) == (
        "first and median both bring the aggregator of channel 'params': use one of them, or give "
        "one another name"
    )


def test_two_parts_that_fill_one_broadcast_channel_are_refused():
    one, two = (
        Part(name=name, broadcast={"down": lambda _states: torch.zeros(1)}) for name in "ab"
    )
    assert refusal(one, two) == (
        "a and b both bring the broadcast channel 'down': use one of them, or give one another name"
    )


def test_a_trait_that_another_part_provides_can_be_refused_in_any_order():
    masking = Part(name="masking", refuses={"clipped": "clip before masking"})
    clip = Part(name="clip", provides=frozenset({"clipped"}))
    for order in ((masking, clip), (clip, masking)):
        assert refusal(*order) == "masking and clip cannot be combined: clip before masking"


def test_a_part_may_have_the_trait_that_it_refuses_in_others():
    alone = Part(name="alone", provides=frozenset({"noise"}), refuses={"noise": "one is enough"})
    compose(fedavg(), alone)
    other = Part(name="other", provides=frozenset({"noise"}))
    assert refusal(alone, other) == "alone and other cannot be combined: one is enough"


def test_the_traits_of_a_part_are_its_own_and_those_of_its_aggregators():
    part = Part(
        name="part",
        provides=frozenset({"private"}),
        aggregators={PARAMS: median().aggregators[PARAMS], "extra": Mean()},
    )
    assert part.traits == {"private", "set", "sum", "channels"}


# ---- needs


def test_a_need_is_met_by_another_part():
    needy = Part(name="needy", needs={"clipped": "add a part that clips"})
    clip = Part(name="clip", provides=frozenset({"clipped"}))
    compose(needy, clip).phases(PLAIN)
    with pytest.raises(CompositionError) as raised:
        compose(needy).phases(PLAIN)
    assert str(raised.value) == "needy needs more than it gets: add a part that clips"


def only_body(entry: Entry) -> bool:
    return entry.name == "body"


@pytest.mark.parametrize(
    ("items", "optimizers", "met"),
    [
        ((), ["sgd"], True),
        ((), ["SGD", "sgd"], True),
        ((), ["adam"], False),
        ((), ["sgd", "adam"], False),
        ((head_then_body(only_body),), ["sgd"], True),
        ((nested(pull=1, lr=1, inner_lr=1, inner_steps=1, outer=1),), ["sgd"], False),
        ((Part(name="known", solver=solve, provides=frozenset({IMPULSE})),), ["sgd"], True),
    ],
)
def test_local_training_has_an_impulse_if_all_of_it_is_sgd(items, optimizers, met):
    needy = Part(name="needy", needs={IMPULSE: "use SGD"})
    strategy = compose(needy, *items)
    phases = [Phase(optimizer=OptimizerSpec(name=name, lr=0.1)) for name in optimizers]
    if met:
        strategy.phases(phases)
    else:
        with pytest.raises(CompositionError, match="needy needs more than it gets: use SGD"):
            strategy.phases(phases)


def test_rewrites_of_phases_run_in_the_order_of_composition():
    def twice(phases: Sequence[Phase]) -> Sequence[Phase]:
        return [*phases, *phases]

    def numbered(phases: Sequence[Phase]) -> Sequence[Phase]:
        return [Phase(epochs=number) for number, _ in enumerate(phases, start=1)]

    one, two = Part(name="one", phases=twice), Part(name="two", phases=numbered)
    assert [p.epochs for p in compose(one, two).phases(PLAIN)] == [1, 2]
    assert [p.epochs for p in compose(two, one).phases(PLAIN)] == [1, 1]


# ---- what a strategy says about a model


@pytest.mark.parametrize(
    ("spec", "channels"),
    [
        (BARE, {PARAMS: (5, torch.float32)}),
        (
            FULL,
            {
                PARAMS: (5, torch.float32),
                BUFFERS: (2, torch.float32),
                INTEGERS: (1, torch.int64),
            },
        ),
    ],
    ids=["bare", "full"],
)
def test_an_update_has_the_channels_that_the_model_has_numbers_for(
    spec: ParamSpec, channels: Mapping[str, tuple[int, torch.dtype]]
):
    assert fedavg().channels(spec) == channels


def test_an_extra_channel_is_as_long_as_the_shared_parameters_unless_it_says_otherwise():
    extra = Part(
        name="extra", aggregators={"long": Mean(), "short": Mean()}, channel_sizes={"short": 1}
    )
    assert compose(extra).channels(FULL) == {
        PARAMS: (5, torch.float32),
        "long": (5, torch.float32),
        "short": (1, torch.float32),
        BUFFERS: (2, torch.float32),
        INTEGERS: (1, torch.int64),
    }


def test_clients_keep_state_if_a_part_or_the_model_makes_them():
    solver = nested(pull=1, lr=1, inner_lr=1, inner_steps=1, outer=1)
    assert not fedavg().stateful(BARE)
    assert not fedadam().stateful(BARE)
    assert fedavg().stateful(FULL)
    assert scaffold().stateful(BARE)
    assert compose(Part(name="settles", settlers=(lambda _channels, _context: {},))).stateful(BARE)
    assert compose(half()).stateful(BARE)
    assert compose(solver).stateful(BARE)


def test_the_size_of_a_channel_that_nobody_aggregates_is_refused():
    with pytest.raises(CompositionError, match="odd speaks of channel 'c', and no part aggreg"):
        compose(Part(name="odd", channel_sizes={"c": 1}))


# ---- rules over rows, and what comes before them


def half_rows(rows: Tensor, _context: RoundContext) -> Tensor:
    return rows[: len(rows) // 2] / 2


def largest(rows: Tensor, weights: Tensor, _context: RoundContext) -> Tensor:
    return weights.sum() * rows.max(dim=0).values


LARGEST = OverRows("largest", largest)


def test_a_rule_takes_the_place_of_the_mean_in_every_channel_of_floats():
    extra = Part(name="extra", aggregators={"a": Mean(weighted=False), "n": Maximum()})
    aggregators = compose(extra, Part(name="rule", rule=LARGEST)).aggregators
    assert {channel for channel, how in aggregators.items() if how is LARGEST} == {
        PARAMS,
        BUFFERS,
        "a",
    }
    assert aggregators[INTEGERS] == aggregators["n"] == LowerMedian()


def test_counters_take_their_maximum_without_a_rule_and_their_lower_median_with_one():
    mix = Part(name="mix", mixers=(half_rows,))
    assert compose(fedavg()).aggregators[INTEGERS] == Maximum()
    assert compose(mix).aggregators[INTEGERS] == LowerMedian()


@pytest.mark.parametrize("own", [fltrust, centred_clipping])
@pytest.mark.parametrize("other", [coordinatewise_median, krum])
def test_a_rule_beside_a_part_that_aggregates_parameters_itself_is_refused(own, other):
    for parts in ((own(), other()), (other(), own())):
        assert refusal(*parts) == (
            f"{own().name} and {other().name} cannot be combined: each says how parameters are "
            "aggregated; leave one of them out"
        )


def test_a_rule_leaves_a_channel_that_has_a_rule_of_its_own():
    first = OverRows("first", lambda rows, _weights, _context: rows[0])
    own = Part(name="own", aggregators={"a": first})
    assert compose(own, Part(name="rule", rule=LARGEST)).aggregators["a"] is first


def test_two_rules_are_refused():
    one, two = Part(name="one", rule=LARGEST), Part(name="two", rule=OverRows("b", largest))
    assert refusal(one, two).startswith("one and two both set the aggregation rule")


def test_rows_are_mixed_before_a_rule_sees_them_and_weigh_the_same_then():
    # Rows 2, 4, 8, 6 become 1, 2, the first of which is cut in half and lost: 0.5 remains.
    mix = Part(name="mix", mixers=(half_rows, half_rows))
    strategy = compose(fedavg(), Part(name="rule", rule=LARGEST), mix)
    updates = [update(k, delta, examples=9) for k, delta in enumerate((2, 4, 8, 6))]
    assert points(strategy, vec(0), updates) == [[0.5]]


def test_rows_are_mixed_before_a_channels_own_rule_sees_them_too():
    # Rows 2, 4, 8, 6 become 1, 2, whose weights are 1.
    own = Part(name="own", aggregators={PARAMS: LARGEST})
    strategy = compose(own, Part(name="mix", mixers=(half_rows,)))
    updates = [update(k, delta, examples=9) for k, delta in enumerate((2, 4, 8, 6))]
    assert points(strategy, vec(0), updates) == [[4.0]]


def test_mixed_rows_without_a_rule_are_averaged():
    strategy = compose(fedavg(), Part(name="mix", mixers=(half_rows,)))
    updates = [update(k, delta, examples=k + 1) for k, delta in enumerate((2, 4, 8, 6))]
    assert points(strategy, vec(0), updates) == [[1.5]]


def test_a_part_with_a_rule_or_a_mixer_looks_at_single_updates():
    assert "set" in Part(name="rule", rule=LARGEST).traits
    assert "set" in Part(name="mix", mixers=(half_rows,)).traits


# ---- channels that the server computes


def squared(channels: Mapping[str, Tensor]) -> Tensor:
    return channels[PARAMS].double().square().sum().reshape(1)


def by_squares() -> Part:
    def step_by(
        aggregate: Aggregate, state: State, _params: Tensor, _context: RoundContext
    ) -> tuple[Aggregate, State]:
        return {PARAMS: aggregate[PARAMS] * aggregate["square"]}, state

    return Part(
        name="by_squares",
        derived={"square": squared},
        aggregators={"square": Mean()},
        channel_sizes={"square": 1},
        server=(ServerTransform(name="by_squares", init=stateless, update=step_by),),
    )


def test_a_derived_channel_is_aggregated_and_not_sent():
    # Deltas 1 and 3 with weights 3 and 1: their mean is 1.5, that of their squares 3.
    strategy = compose(by_squares())
    assert "square" not in strategy.channels(BARE)
    assert strategy.aggregated(BARE)["square"] == (1, torch.float64)
    each = [update(0, 1.0, examples=3), update(1, 3.0)]
    assert points(strategy, vec(0), each) == [[4.5]]


def test_a_derived_channel_needs_an_aggregator():
    assert refusal(Part(name="odd", derived={"c": squared})) == (
        "odd speaks of channel 'c', and no part aggregates it: name its aggregator too"
    )


def test_codecs_are_given_the_channels_that_are_as_long_as_the_parameters():
    extra = Part(name="extra", aggregators={"long": Mean(), "short": Mean()})
    short = Part(name="short", channel_sizes={"short": 1})
    strategy = compose(by_squares(), extra, short)
    assert strategy.vectors == {PARAMS, "long"}
    assert [strategy.is_encoded(c) for c in ("long/places", "short", BUFFERS, INTEGERS)] == [
        True,
        False,
        False,
        False,
    ]


# ---- order


def test_links_that_add_noise_run_before_all_others():
    noisy = ServerTransform(
        name="noise", init=stateless, update=link("x").update, noise=Noise(channels=(PARAMS,))
    )
    strategy = compose(fedavgm(), Part(name="private", server=(noisy,)), fedyogi())
    assert [each.name for each in strategy.server] == [
        "noise",
        "momentum",
        "yogi",
        "fedyogi.server_lr",
    ]


def test_a_trait_can_be_refused_in_later_parts_alone():
    clip = Part(name="clip", refuses_after={"feedback": "put it before"})
    feedback = Part(name="feedback", provides=frozenset({"feedback"}))
    compose(feedback, clip)
    assert refusal(clip, feedback) == "feedback cannot come after clip: put it before"


# ---- the task that a strategy makes of a task


def norms(model: nn.Module) -> list[str]:
    return [name for name in model.state_dict() if name.startswith("norm.")]


def frozen(model: nn.Module) -> nn.Module:
    assert isinstance(model, Net)
    model.body.requires_grad_(requires_grad=False)
    model.register_parameter("adapter", nn.Parameter(torch.ones(4)))
    return model


def test_a_part_keeps_tensors_at_the_client_beside_those_of_the_task():
    task = Task(name="t", model=Net, personal=lambda name: name == "head.bias")
    adapted = compose(Part(name="bn", personal=norms)).adapted(task)
    spec = adapted.spec(adapted.model())
    assert {e.name for e in spec.entries if e.personal} == {
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "head.bias",
    }
    assert task.spec(task.model()).personal != spec.personal


def test_a_part_changes_the_model_and_names_what_it_added():
    part = Part(name="lora", model=frozen, fresh=lambda name: name == "adapter")
    adapted = compose(part).adapted(Task(name="t", model=Net))
    names = {e.name for e in adapted.spec(adapted.model()).entries}
    assert "adapter" in names
    assert "body.weight" not in names
    learner = Learner(adapted, seed=0)
    base = {name: value + 1 for name, value in Net().state_dict().items()}
    learner.start_from(base, "the base")
    assert torch.equal(learner.model.state_dict()["head.bias"], base["head.bias"])
    assert torch.equal(learner.model.state_dict()["adapter"], torch.ones(4))


def test_measures_pulls_and_needs_of_all_parts_add_up():
    one = Part(name="one", measures=frozenset({"loss"}), pull=0.5)
    two = Part(name="two", measures=frozenset({"gradient"}), pull=0.25)
    strategy = compose(one, two)
    assert strategy.measures == {"loss", "gradient"}
    assert strategy.pull == 0.75


def all_of_it(name="all", *, missing=""):
    """A part whose link does all that a server does."""
    link = ServerTransform(
        name=name,
        init=stateless,
        update=lambda updates, state, _params, _context: (updates, state),
        alone=True,
        missing=lambda _state: missing,
    )
    rows = Rows(check=lambda size: refuse_few(name, size))
    return Part(name=name, server=(link,), aggregators={PARAMS: rows})


def refuse_few(name, size):
    if size < 3:
        raise CompositionError(f"{name} wants 3")


@pytest.mark.parametrize("other", [fedadam(), krum(), scaffold(), fedavg(weights="uniform")])
def test_what_a_part_does_alone_no_other_does_a_part_of(other):
    for items in ((all_of_it(), other), (other, all_of_it())):
        with pytest.raises(CompositionError, match="cannot be combined"):
            compose(*items)
    assert compose(all_of_it(), prox()).alone
    assert not compose(prox()).alone


def test_a_link_that_works_alone_may_refuse_a_cohort():
    made = compose(all_of_it())
    made.check_cohort(3)
    with pytest.raises(CompositionError, match="all wants 3"):
        made.check_cohort(2)


def test_a_run_can_go_on_where_all_links_can():
    assert compose(all_of_it()).missing({}) == ""
    assert compose(all_of_it(missing="a lock")).missing({}) == "a lock"
    assert fedadam().missing({}) == ""
