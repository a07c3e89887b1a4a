"""The layout of a model's vector, and moving between the two."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from roundel.core.errors import ParameterError
from roundel.core.params import Entry, ParamSpec, bytes_of, params_sha256

NO_INTEGERS = torch.empty(0, dtype=torch.int64)


class Mixed(nn.Module):
    """Every role: shared and personal, trainable and buffer, frozen and integer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.own = nn.BatchNorm1d(2)
        self.body = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Parameter(torch.full((4,), 7.0), requires_grad=False)
        self.register_buffer("scratch", torch.zeros(5), persistent=False)


def is_personal(name: str) -> bool:
    return name.startswith(("head", "own"))


def mixed_spec() -> ParamSpec:
    return ParamSpec.of(Mixed(), is_personal)


def numbered(spec: ParamSpec) -> Tensor:
    return torch.arange(spec.size, dtype=spec.dtype)


def test_the_vector_is_laid_out_by_role_and_within_a_role_as_the_model_is() -> None:
    assert [e.name for e in mixed_spec().entries] == [
        "norm.running_mean",
        "norm.running_var",
        "body.weight",
        "body.bias",
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
        "own.weight",
        "own.bias",
        "own.running_mean",
        "own.running_var",
    ]


def test_each_role_is_one_slice() -> None:
    spec = mixed_spec()
    assert spec.shared_buffers == slice(0, 6)
    assert spec.shared_trainable == slice(6, 21)
    assert spec.shared == slice(0, 21)
    assert spec.trainable == slice(6, 33)
    assert spec.personal == slice(21, 37)
    assert spec.size == 37


def test_a_model_without_personal_tensors_shares_everything() -> None:
    spec = ParamSpec.of(nn.Linear(3, 2))
    assert (spec.shared_buffers, spec.shared_trainable) == (slice(0, 0), slice(0, 8))
    assert (spec.shared, spec.personal) == (slice(0, 8), slice(8, 8))


@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.lists(st.integers(0, 3), max_size=2)),
        max_size=8,
    )
)
@settings(max_examples=50, deadline=None)
def test_the_slices_of_the_roles_partition_the_vector(
    tensors: list[tuple[bool, bool, list[int]]],
) -> None:
    model = nn.Module()
    model.register_parameter("first", nn.Parameter(torch.zeros(1)))
    for i, (trainable, personal, shape) in enumerate(tensors):
        name = f"{'p' if personal else 's'}{i}"
        if trainable:
            model.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        else:
            model.register_buffer(name, torch.zeros(shape))
    spec = ParamSpec.of(model, lambda name: name.startswith("p"))

    assert spec.size == 1 + sum(math.prod(shape) for _, _, shape in tensors)
    assert spec.shared.start == spec.shared_buffers.start == 0
    assert spec.shared_buffers.stop == spec.shared_trainable.start == spec.trainable.start
    assert spec.shared_trainable.stop == spec.shared.stop == spec.personal.start
    assert spec.personal.stop == spec.size
    for entry in spec.entries:
        where = spec.slice_of(entry.name)
        assert where.stop - where.start == entry.numel
        for inside, role in [
            (entry.trainable, spec.trainable),
            (entry.personal, spec.personal),
            (not entry.personal, spec.shared),
            (entry.trainable and not entry.personal, spec.shared_trainable),
            (not entry.trainable and not entry.personal, spec.shared_buffers),
        ]:
            if entry.numel:
                assert (role.start <= where.start and where.stop <= role.stop) == inside


def test_tied_parameters_count_once_and_stay_tied() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    spec = ParamSpec.of(model)
    assert [e.name for e in spec.entries] == ["0.weight"]
    vector = torch.arange(9.0)
    spec.write(model, vector, NO_INTEGERS)
    assert second.weight.flatten().tolist() == vector.tolist()
    spec.bind(model, vector)
    assert second.weight is first.weight
    assert second.weight.data_ptr() == vector.data_ptr()


def test_buffers_that_are_not_saved_are_left_out() -> None:
    assert "scratch" not in {e.name for e in mixed_spec().entries}


def test_frozen_parameters_are_left_out_and_untouched() -> None:
    model = Mixed()
    spec = ParamSpec.of(model)
    assert "frozen" not in {e.name for e in spec.entries}
    spec.bind(model, numbered(spec))
    assert model.frozen.tolist() == [7.0] * 4


def test_integer_buffers_travel_apart_as_int64() -> None:
    model = Mixed()
    flag = torch.tensor([True, False])
    model.register_buffer("flag", flag)
    spec = ParamSpec.of(model)
    assert [e.name for e in spec.integers] == [
        "flag",
        "own.num_batches_tracked",
        "norm.num_batches_tracked",
    ]
    assert spec.integer_size == 4
    _, integers = spec.read(model)
    assert integers.dtype == torch.int64
    assert integers.tolist() == [1, 0, 0, 0]

    spec.write(model, numbered(spec), torch.tensor([0, 1, 12, 34]))
    assert flag.tolist() == [False, True]
    assert (model.own.num_batches_tracked, model.norm.num_batches_tracked) == (12, 34)


def test_what_is_written_is_read_back() -> None:
    model = Mixed()
    spec = ParamSpec.of(model, is_personal)
    spec.write(model, numbered(spec), torch.tensor([5, 6]))
    vector, integers = spec.read(model)
    assert torch.equal(vector, numbered(spec))
    assert integers.tolist() == [5, 6]
    assert model.body.weight.tolist() == [[6, 7], [8, 9], [10, 11]]


def test_reading_copies() -> None:
    model = nn.Linear(1, 1, bias=False)
    vector, _ = ParamSpec.of(model).read(model)
    before = model.weight.item()
    vector.fill_(9.0)
    assert model.weight.item() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model_has_a_float32_vector_and_gets_its_dtype_back(
    dtype: torch.dtype,
) -> None:
    model = nn.Linear(2, 1, bias=False).to(dtype)
    spec = ParamSpec.of(model)
    assert spec.dtype == torch.float32
    assert spec.read(model)[0].dtype == torch.float32
    spec.write(model, torch.tensor([1.0, 1.0 + 2.0**-20]), NO_INTEGERS)
    assert model.weight.dtype == dtype
    assert model.weight.tolist() == [[1.0, 1.0]]


def test_one_float64_tensor_makes_the_vector_float64() -> None:
    wide = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(wide.weight, 0.1)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), wide)
    spec = ParamSpec.of(model)
    assert spec.dtype == torch.float64
    assert spec.read(model)[0][1].item() == 0.1


def test_views_share_the_vectors_memory() -> None:
    spec = mixed_spec()
    vector = numbered(spec)
    views = spec.views(vector)
    for entry in spec.entries:
        start = spec.slice_of(entry.name).start
        assert views[entry.name].shape == entry.shape
        assert views[entry.name].data_ptr() == vector[start:].data_ptr()


def test_views_keep_leading_axes() -> None:
    spec = mixed_spec()
    stack = torch.stack([numbered(spec), numbered(spec) + 100])
    views = spec.views(stack)
    assert views["body.weight"].shape == (2, 3, 2)
    assert views["body.weight"].data_ptr() == stack[0, 6:].data_ptr()
    assert views["body.bias"].tolist() == [[12, 13, 14], [112, 113, 114]]
    assert spec.views(stack.view(1, 2, -1))["own.bias"].shape == (1, 2, 2)


class Calls(TorchFunctionMode):
    """Writes down which functions of torch are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.__name__)
        return func(*args, **kwargs or {})


def test_views_take_one_split_and_no_indexing() -> None:
    spec = mixed_spec()
    vector = numbered(spec)
    with Calls() as calls:
        spec.views(vector)
    cut = ("split", "__getitem__", "narrow", "select")
    assert [name for name in calls.names if name in cut] == ["split"]


def test_scalars_and_empty_tensors_have_views() -> None:
    model = nn.Module()
    model.register_parameter("scalar", nn.Parameter(torch.tensor(2.0)))
    model.register_parameter("none", nn.Parameter(torch.empty(0, 3)))
    spec = ParamSpec.of(model)
    views = spec.views(torch.tensor([5.0]))
    assert (views["scalar"].shape, views["scalar"].item()) == ((), 5.0)
    assert views["none"].shape == (0, 3)


def test_after_binding_writing_the_vector_writes_the_model() -> None:
    model = Mixed()
    spec = ParamSpec.of(model, is_personal)
    vector, _ = spec.read(model)
    spec.bind(model, vector)
    vector.copy_(numbered(spec))
    assert model.body.bias.tolist() == [12, 13, 14]
    assert model.norm.running_mean is not None
    assert model.norm.running_mean.tolist() == [0, 1, 2]
    with torch.no_grad():
        model.own.weight.fill_(-1.0)
    assert vector[spec.slice_of("own.weight")].tolist() == [-1, -1]


def test_binding_casts_a_half_precision_model_to_the_vectors_dtype() -> None:
    model = nn.Linear(2, 1).to(torch.bfloat16)
    spec = ParamSpec.of(model)
    spec.bind(model, torch.tensor([1.0, 2.0, 3.0]))
    assert model.weight.dtype == torch.float32
    assert model(torch.tensor([10.0, 100.0])).tolist() == [213.0]


def test_binding_casts_what_is_not_in_the_vector_too() -> None:
    model = Mixed().to(torch.bfloat16)
    spec = ParamSpec.of(model)
    spec.bind(model, numbered(spec))
    assert model.frozen.dtype == torch.float32
    assert model.get_buffer("scratch").dtype == torch.float32


def test_a_bound_parameter_still_takes_gradients() -> None:
    model = nn.Linear(2, 1, bias=False)
    ParamSpec.of(model).bind(model, torch.tensor([1.0, 2.0]))
    model(torch.tensor([3.0, 4.0])).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("shape", [(7,), (9,), (8, 1), ()])
def test_a_vector_of_the_wrong_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match="whose vectors end in an axis of 8"):
        ParamSpec.of(nn.Linear(3, 2)).views(torch.zeros(shape))


def test_a_stack_of_vectors_is_not_written_into_one_model() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ParameterError, match=r"shape \(1, 8\) does not fit one model"):
        ParamSpec.of(model).write(model, torch.zeros(1, 8), NO_INTEGERS)


def test_an_integer_vector_of_the_wrong_length_is_refused_and_nothing_is_written() -> None:
    model = nn.BatchNorm1d(1)
    spec = ParamSpec.of(model)
    before = spec.read(model)[0]
    with pytest.raises(ParameterError, match=r"shape \(2,\) does not fit .* 1 integers"):
        spec.write(model, torch.full((4,), 9.0), torch.zeros(2, dtype=torch.int64))
    assert torch.equal(spec.read(model)[0], before)


def test_a_complex_parameter_is_refused_by_name() -> None:
    model = nn.Module()
    model.register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    with pytest.raises(ParameterError, match=r"'phase' has dtype torch.complex64.*two tensors"):
        ParamSpec.of(model)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ParameterError, match="Linear has no parameter with requires_grad=True"):
        ParamSpec.of(nn.Linear(2, 1).requires_grad_(requires_grad=False))


def test_an_unknown_tensor_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ParameterError, match="no tensor 'wieght'; it has weight, bias"):
        ParamSpec.of(nn.Linear(2, 1)).slice_of("wieght")


def spec_of(
    name: str = "w",
    shape: tuple[int, ...] = (2, 3),
    dtype: torch.dtype = torch.float32,
    *,
    personal: bool = False,
    trainable: bool = True,
) -> ParamSpec:
    entry = Entry(name=name, shape=shape, dtype=dtype, trainable=trainable, personal=personal)
    return ParamSpec((entry,))


def test_equal_layouts_have_equal_fingerprints() -> None:
    assert ParamSpec.of(Mixed(), is_personal) == ParamSpec.of(Mixed(), is_personal)
    assert mixed_spec().fingerprint == mixed_spec().fingerprint


@pytest.mark.parametrize(
    "other",
    [
        spec_of(name="v"),
        spec_of(shape=(3, 2)),
        spec_of(shape=(6,)),
        spec_of(dtype=torch.bfloat16),
        spec_of(personal=True),
        spec_of(trainable=False),
        ParamSpec(spec_of().entries, dtype=torch.float64),
        ParamSpec(spec_of().entries, integers=spec_of("n", (), torch.int64).entries),
    ],
)
def test_any_difference_in_the_layout_changes_the_fingerprint(other: ParamSpec) -> None:
    assert other.fingerprint != spec_of().fingerprint


def test_params_sha256_is_the_hash_of_the_little_endian_bytes() -> None:
    # printf '\x00\x00\x80\x3f\x00\x00\x00\x40\x03\x00\x00\x00\x00\x00\x00\x00' | sha256sum
    assert (
        params_sha256(torch.tensor([1.0, 2.0]), torch.tensor([3]))
        == "c1714b091ed963edb856b0ecc7c59035274732918dce871164a06a86056c6e5f"
    )


@given(st.integers(0, 3), st.integers(0, 31))
@settings(max_examples=20, deadline=None)
def test_one_flipped_bit_changes_params_sha256(place: int, bit: int) -> None:
    params = torch.tensor([0.0, 1.0, -2.0, 3.5])
    flipped = params.clone()
    flipped.view(torch.int32)[place] ^= 1 << bit if bit < 31 else -(1 << 31)
    assert params_sha256(flipped, NO_INTEGERS) != params_sha256(params, NO_INTEGERS)


def test_params_sha256_covers_the_integers() -> None:
    params = torch.zeros(1)
    assert params_sha256(params, torch.tensor([1])) != params_sha256(params, torch.tensor([2]))


def test_bytes_of_shares_the_tensors_memory() -> None:
    tensor = torch.zeros(3)
    view = bytes_of(tensor)
    tensor[1] = 1.0
    assert view.tobytes() == bytes.fromhex("00000000 0000803f 00000000")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_bytes_of_takes_any_dtype(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 2], [3, 4]], dtype=dtype)
    assert bytes_of(tensor).nbytes == 4 * tensor.element_size()
    assert bytes_of(torch.empty(0, dtype=dtype)).nbytes == 0


class Counted(nn.Module):
    """Three counters, of which the middle one stays with the client."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.own_weight = nn.Parameter(torch.tensor([2.0]))
        for place, name in enumerate(("first", "own", "last")):
            self.register_buffer(name, torch.tensor([place, 10 * place]))


def test_counters_that_stay_with_the_client_come_after_the_shared_ones() -> None:
    model = Counted()
    spec = ParamSpec.of(model, lambda name: name.startswith("own"))
    assert [entry.name for entry in spec.integers] == ["first", "last", "own"]
    assert (spec.shared_integers, spec.integer_size) == (slice(0, 4), 6)
    vector, integers = spec.read(model)
    assert integers.tolist() == [0, 0, 2, 20, 1, 10]
    spec.write(model, vector, integers + 1)
    assert model.state_dict()["own"].tolist() == [2, 11]


def test_what_is_shared_is_completed_by_what_is_personal() -> None:
    spec = ParamSpec.of(Counted(), lambda name: name.startswith("own"))
    source, integers = spec.read(Counted())
    whole = spec.completed(torch.tensor([7.0]), torch.tensor([4, 5, 6, 7]), source, integers)
    assert [tensor.tolist() for tensor in whole] == [[7.0, 2.0], [4, 5, 6, 7, 1, 10]]


class Tied(nn.Module):
    """An embedding whose weights are those of the head, too, and a frozen pair of the kind."""

    def __init__(self, *, frozen: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 2)
        self.middle = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        self.head.weight = self.embed.weight
        self.embed.weight.requires_grad = not frozen


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("head", "'head.weight' is to stay with the client and 'embed.weight' is shared"),
        ("embed", "'embed.weight' is to stay with the client and 'head.weight' is shared"),
    ],
)
def test_one_tensor_cannot_be_shared_and_stay_with_the_client(kept: str, said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        ParamSpec.of(Tied(), lambda name: name.startswith(kept))
    assert str(caught.value) == (
        f"{said}, and they are one tensor of Tied: name both of them or neither, or do not tie them"
    )
    # What is frozen is never sent, under neither name.
    ParamSpec.of(Tied(frozen=True), lambda name: name.startswith(kept))


def test_tied_tensors_may_stay_together() -> None:
    spec = ParamSpec.of(Tied(), lambda name: not name.startswith("middle"))
    assert [e.name for e in spec.entries if e.personal] == [
        "embed.weight",
        "embed.bias",
        "head.bias",
    ]
