"""What both ends say to each other in Flower's records comes out as it went in."""

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from roundel.core.errors import ProtocolError
from roundel.core.flower import (
    Hello,
    Work,
    answers_content,
    array_tensors,
    broadcast_arrays,
    hello_content,
    model_arrays,
    model_tensors,
    read_answers,
    read_hello,
    read_work,
    tensor_arrays,
    work_content,
)
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.metrics import Metrics

TENSORS = {
    "floats": torch.tensor([[1.5, -2.0], [0.1, 3.0]]),
    "brain": torch.tensor([1.0, 2.5], dtype=torch.bfloat16),
    "counts": torch.tensor([1 << 40]),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 3),
    "scalar": torch.tensor(2.0, dtype=torch.float64),
}


def ticket(client_id, attempt=0):
    return Ticket(run="run", round=3, client_id=client_id, stage=1, attempt=attempt)


def travelled(content):
    """Return records as they come out of Flower's own bytes."""
    sent = recorddict_to_proto(content)
    return recorddict_from_proto(type(sent).FromString(sent.SerializeToString()))


def test_tensors_of_every_dtype_and_shape_come_back_the_same():
    back = array_tensors(tensor_arrays(TENSORS))
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(back[name], tensor)


def test_what_comes_back_may_be_written_to():
    arrays = tensor_arrays({"w": torch.zeros(2)})
    array_tensors(arrays)["w"][0] = 1.0
    assert array_tensors(arrays)["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (Array("F32", (2,), "numpy.ndarray", bytes(8)), "is no tensor of Roundel's"),
        (Array("O", (2,), "roundel.tensor", bytes(8)), "is no tensor of Roundel's"),
        (Array("F32", (-2, -1), "roundel.tensor", bytes(8)), "is no tensor of Roundel's"),
        (Array("", (2,), "roundel.tensor", bytes(8)), "is no tensor of Roundel's"),
        (Array("F32", (0, *[(1 << 31) - 1] * 3), "roundel.tensor", b""), "is no tensor of Roun"),
        (Array("F32", (0, 1 << 63), "roundel.tensor", b""), "is no tensor of Roundel's"),
        (Array("F32", (1,) * 65, "roundel.tensor", bytes(4)), "is no tensor of Roundel's"),
        (Array("F32", (1 << 60,), "roundel.tensor", bytes(8)), "has 8 bytes, which are not"),
    ],
)
def test_an_array_that_is_no_tensor_is_refused_before_anything_is_allocated(array, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        array_tensors(ArrayRecord({"w": array}))


def test_a_dtype_that_has_no_name_is_refused():
    with pytest.raises(ProtocolError, match=r"tensor 'w' of dtype torch.complex64"):
        tensor_arrays({"w": torch.zeros(1, dtype=torch.complex64)})


def test_a_model_is_readable_for_anybody_and_what_numpy_has_no_type_for_is_float32():
    arrays = model_arrays({"w": TENSORS["floats"], "b": TENSORS["brain"]})
    assert arrays["w"].numpy().tolist() == TENSORS["floats"].tolist()
    assert model_tensors(arrays)["b"].dtype == torch.float32
    assert model_tensors(arrays)["b"].tolist() == [1.0, 2.5]


def test_training_of_several_clients_shares_one_broadcast():
    params, integers = torch.tensor([1.0, 2.0]), torch.tensor([7])
    channels = {"control": torch.tensor([3.0])}
    works = [
        Work(
            request=TrainRequest(
                ticket=ticket(client, attempt=client),
                base_version=2,
                params=params,
                integers=integers,
                channels=channels,
            ),
            state=client,
        )
        for client in (0, 4)
    ]
    broadcast = broadcast_arrays(params, integers, channels)
    read = read_work(travelled(work_content(works, broadcast, ConfigRecord({"lr": 0.5}))))
    assert [(w.request.ticket, w.state) for w in read] == [(ticket(0, 0), 0), (ticket(4, 4), 4)]
    for work in read:
        assert isinstance(work.request, TrainRequest)
        assert work.request.base_version == 2
        assert torch.equal(work.request.params, params)
        assert torch.equal(work.request.integers, integers)
        assert torch.equal(work.request.channels["control"], channels["control"])
    assert read[0].request.params is read[1].request.params


def test_an_evaluation_says_which_examples_it_is_about():
    params, integers = torch.tensor([1.0]), torch.zeros(0, dtype=torch.int64)
    request = EvaluateRequest(ticket=ticket(1), params=params, integers=integers, split="train")
    content = work_content(
        [Work(request=request, state=2)], broadcast_arrays(params, integers), ConfigRecord()
    )
    [work] = read_work(travelled(content))
    assert isinstance(work.request, EvaluateRequest)
    assert (work.request.ticket, work.request.split, work.state) == (ticket(1), "train", 2)


UPDATE = ClientUpdate(
    ticket=ticket(1),
    base_version=2,
    num_examples=10,
    num_steps=5,
    channels={"params": torch.tensor([0.25])},
    scalars={"tau": 0.1},
    metrics=Metrics({"loss": 3.0, "confusion/1/2": 4.0}, 10),
    seconds=0.5,
)
FAILURE = ClientFailure(
    ticket=ticket(2), stage="train", error="KeyError: 'x'", location="a.py:3", traceback="a\n\tb"
)


def test_updates_evaluations_and_failures_come_back_the_same():
    evaluation = Evaluation(ticket=ticket(3), metrics=Metrics({"accuracy": 5.0}, 6))
    update, failure, evaluated = read_answers(
        travelled(answers_content([UPDATE, FAILURE, evaluation]))
    )
    assert isinstance(update, ClientUpdate)
    assert torch.equal(update.channels["params"], UPDATE.channels["params"])
    same = {key: value for key, value in vars(UPDATE).items() if key != "channels"}
    assert {key: getattr(update, key) for key in same} == same
    assert (failure, evaluated) == (FAILURE, evaluation)


def test_people_are_told_means_over_the_clients_of_a_reply():
    other = Evaluation(ticket=ticket(3), metrics=Metrics({"loss": 7.0}, 10))
    metrics = answers_content([UPDATE, other, FAILURE])["metrics"]
    assert metrics == {"num-examples": 20, "loss": 0.5}
    assert "metrics" not in answers_content([FAILURE])


def test_text_from_the_other_side_cannot_move_a_cursor():
    content = answers_content([FAILURE])
    content.config_records["roundel.answer.2"]["failed error"] = "\x1b[2Jgone"
    [failure] = read_answers(content)
    assert isinstance(failure, ClientFailure)
    assert failure.error == "\ufffd[2Jgone"


HUGE = "\x1b[2J\n" + "x" * 10_000


@pytest.mark.parametrize(
    "content",
    [
        lambda: RecordDict({f"roundel.answer.{HUGE}": ArrayRecord()}),
        lambda: changed(HUGE, 3.0, "roundel.sums.1"),
        lambda: changed("x" * 257, 3.0, "roundel.scalars.1"),
        lambda: changed(HUGE, 3, "roundel.sums.1"),
        lambda: changed("round", HUGE),
        lambda: sent({HUGE: Array("F32", (2,), "roundel.tensor", bytes(8))}),
        lambda: sent({HUGE: Array("F32", (3,), "roundel.tensor", bytes(8))}),
        lambda: sent({HUGE: Array("F32", (2,), HUGE, bytes(8))}),
        lambda: sent({"w": Array(HUGE, (2,), "roundel.tensor", bytes(8))}),
        lambda: sent({"w": Array("F32", (1,) * 10_000, "roundel.tensor", b"")}),
    ],
)
def test_no_refusal_is_longer_than_a_line_or_moves_a_cursor(content):
    with pytest.raises(ProtocolError) as caught:
        read_answers(content())
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def sent(arrays):
    content = answers_content([UPDATE])
    content["roundel.update.1"] = ArrayRecord(arrays)
    return content


def changed(key, value, record="roundel.answer.1"):
    content = answers_content([UPDATE])
    content[record][key] = value
    return content


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (changed("round", "3"), "round = '3' is not of the type int"),
        (changed("count", 1.5), "count = 1.5 is not of the type int"),
        (changed("loss", 3, "roundel.sums.1"), "loss = 3 is not of the type float"),
        (changed("num_steps", [1, 2]), r"num_steps = \[1, 2\] is not of the type int"),
        (RecordDict({"roundel.answer.1": ArrayRecord()}), "lacks the ConfigRecord"),
    ],
)
def test_an_answer_of_another_form_is_refused(content, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        read_answers(content)


def test_work_without_parameters_is_refused():
    params = torch.zeros(1)
    work = Work(request=EvaluateRequest(ticket=ticket(1), params=params, integers=params))
    content = work_content([work], tensor_arrays({"params": params}), ConfigRecord())
    with pytest.raises(ProtocolError, match=r"a broadcast has \['params'\]"):
        read_work(content)


def test_a_node_s_hello_comes_back_the_same():
    hello = Hello(fingerprint="{}", partition=1, partitions=3, trouble="no data")
    assert read_hello(travelled(hello_content(hello))) == hello
    assert list(hello.clients(7)) == [1, 4]


@pytest.mark.parametrize(("partition", "partitions"), [(2, 2), (-1, 2), (0, 0)])
def test_a_share_that_is_none_is_refused(partition, partitions):
    content = hello_content(Hello(partition=partition, partitions=partitions))
    with pytest.raises(ProtocolError, match="is no share"):
        read_hello(content)
