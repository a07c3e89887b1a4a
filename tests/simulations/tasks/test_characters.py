"""Windows of a text: one client a speaker, nothing in both the pool and the test set."""

from pathlib import Path
from typing import Any

import pytest
import torch

from roundel.core.config import TaskConfig
from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError
from roundel.simulations import simulate
from roundel.simulations.tasks import characters as module
from roundel.simulations.tasks.characters import characters
from roundel.simulations.tasks.registry import make_task
from roundel.simulations.tasks.texts import VOCABULARY, decode

SETTINGS = [
    "task.name=characters",
    "partition.kind=natural",
    "client.optimizer=Adam",
    "client.lr=0.01",
    "client.epochs=1",
    "evaluation.clients=0",
]


def parts(path: Path | None = None, **knobs: Any) -> tuple[Examples, Examples]:
    task = characters(**knobs)
    assert task.load is not None
    assert task.load_test is not None
    return task.load(path), task.load_test(path)


def texts(examples: Examples) -> list[str]:
    """Return each window with the character after it."""
    both = torch.cat([examples.inputs, examples.targets[:, -1:]], dim=1)
    return [decode(row) for row in both.numpy()]


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a text and returns its path."""

    def write_text(text: str) -> Path:
        file = tmp_path / "text.txt"
        file.write_text(text, encoding="utf-8")
        return file

    return write_text


# ---- windows


def test_the_target_of_each_character_is_the_next_one(write):
    pool, _ = parts(write("abcdefghijklmno"), window=2)
    assert torch.equal(pool.inputs[:, 1], pool.targets[:, 0])
    assert texts(pool) == ["abc", "cde", "efg", "ghi", "ijk"]
    assert pool.inputs.dtype == pool.targets.dtype == torch.int64


def test_a_text_gives_its_last_fifth_to_the_test_set_and_has_no_users(write):
    pool, test = parts(write("abcdefghijklmno"), window=2)
    assert texts(test) == ["mno"]
    assert pool.users is None


def test_windows_do_not_overlap_but_for_the_character_that_the_next_one_begins_with(write):
    pool, _ = parts(write("abcdefghijklmno"), window=2)
    assert texts(pool) == ["abc", "cde", "efg", "ghi", "ijk"]


def test_to_predict_the_whole_text_is_read_in_its_order(write):
    task = characters(window=2)
    assert task.load_all is not None
    assert texts(task.load_all(write("abcdefghij"))) == ["abc", "cde", "efg", "ghi"]


def test_each_speaker_of_a_play_is_a_user(write):
    play = "\n\n".join(f"{name}:\n{name * 4}" for name in "ABABABABAB")
    pool, test = parts(write(play), window=3)
    assert pool.users is not None
    assert pool.users.tolist() == [0] * 6 + [1] * 6
    assert set("".join(texts(pool)[:6])) == {"A", "\n"}
    assert texts(test) == ["AAAA", "BBBB"]
    assert test.users is None


def test_every_fifth_speech_of_a_speaker_is_test_text(write):
    play = "\n\n".join(f"A:\n{word}" for word in ["one", "two", "three", "four", "five", "six"])
    pool, test = parts(write(play), window=3)
    assert "".join(text[:3] for text in texts(pool)) == "one\ntwo\nthree\nfour\nsi"
    assert texts(test) == ["five"]


def test_a_speaker_who_fills_no_window_is_left_out_and_the_numbers_close_up(write):
    play = "A:\nAAAAA\n\nB:\nBBBB\n\nC:\nCCCCC"
    task = characters(window=4)
    assert task.load is not None
    pool = task.load(write(play))
    assert texts(pool) == ["AAAAA", "CCCCC"]
    assert pool.users is not None
    assert pool.users.tolist() == [0, 1]


# ---- the play that ships


def test_the_play_that_ships_gives_26_speakers_1112_windows_and_245_to_test_on():
    pool, test = parts()
    assert pool.users is not None
    assert (len(pool), len(test)) == (1_112, 245)
    assert pool.inputs.shape == (1_112, 80)
    assert pool.users.bincount().tolist()[:4] == [129, 25, 60, 1]
    assert pool.users.unique().tolist() == list(range(26))


def test_no_text_of_the_test_set_is_in_the_pool():
    pool, test = parts(window=50)
    learned = "".join(decode(row) for row in pool.inputs.numpy())
    assert len(learned) > 80_000
    assert not [window for window in texts(test) if window[:50] in learned]


# ---- the models


@pytest.mark.parametrize(
    ("model", "parameters"), [("lstm", 88_817), ("gru", 70_129), ("transformer", 117_729)]
)
def test_models_score_every_character_after_every_position(model, parameters):
    network = characters(model=model).new_model(0)
    assert network(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, VOCABULARY)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("model", ["lstm", "gru", "transformer"])
def test_a_score_does_not_look_ahead(model):
    network = characters(model=model, hidden=8).new_model(0)
    one = torch.tensor([[5, 6, 7, 8]])
    other = torch.tensor([[5, 6, 7, 9]])
    assert torch.equal(network(one)[:, :3], network(other)[:, :3])
    assert not torch.equal(network(one)[:, 3], network(other)[:, 3])


def test_the_loss_is_the_mean_over_characters_and_accuracy_a_share_of_each_window():
    task = characters()
    targets = torch.tensor([[1, 2], [3, 4]])
    outputs = torch.zeros(2, 2, VOCABULARY)
    outputs[0, 0, 1] = outputs[0, 1, 2] = outputs[1, 0, 3] = outputs[1, 1, 90] = 100.0
    assert float(task.loss(outputs, targets)) == pytest.approx(100 / 4)
    assert float(task.metrics(outputs, targets)["accuracy"]) == 1.5


@pytest.mark.parametrize("model", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_four_rounds_of_a_small_model_beat_what_the_character_before_tells(tmp_path, model):
    pool, test = parts()
    pairs = torch.zeros(VOCABULARY, VOCABULARY)
    ones = torch.ones(pool.inputs.numel())
    pairs.index_put_((pool.inputs.flatten(), pool.targets.flatten()), ones, accumulate=True)
    guess = pairs.argmax(dim=1)[test.inputs]
    bigram = float((guess == test.targets).double().mean())
    assert bigram == pytest.approx(0.276, abs=0.001)
    small = ["task.hidden=48", "client.lr=0.02", "rounds=4", "evaluation.every=4"]
    settings = [*SETTINGS, *small, f"task.model={model}"]
    run = simulate(settings=settings, out=tmp_path / "run")
    assert run.rounds[-1]["accuracy"] > bigram + 0.02


@pytest.mark.slow
def test_twenty_rounds_reach_the_stated_figure(tmp_path):
    settings = [*SETTINGS, "rounds=20", "evaluation.every=20"]
    run = simulate(settings=settings, out=tmp_path / "run")
    assert run.rounds[-1]["accuracy"] > 0.42


# ---- bad input


@pytest.mark.parametrize(
    ("text", "part", "sentence"),
    [
        ("a" * 60, "load", "the longest part to learn from has 48 characters, and a window needs"),
        ("a" * 200, "load_test", "the longest part to test on has 40 characters, and a window nee"),
        ("A:\nhi\n\nB:\nho", "load", "the longest part to learn from has 2 characters"),
    ],
)
def test_a_text_shorter_than_a_window_is_an_error(write, text, part, sentence):
    file = write(text)
    with pytest.raises(DataError, match=rf"^the text {file} is too short: {sentence}"):
        getattr(characters(), part)(file)


def test_more_windows_than_memory_should_hold_are_an_error(write, monkeypatch):
    monkeypatch.setattr(module, "MOST_POSITIONS", 78)
    with pytest.raises(DataError, match=r"gives 79 windows of 1 characters, .* give less text"):
        parts(write("abcdefghij" * 10), window=1)


@pytest.mark.parametrize("knob", ["embedding", "hidden", "window"])
def test_a_knob_out_of_range_is_an_error(knob):
    knobs: dict[str, Any] = {knob: 0}
    with pytest.raises(ConfigError, match=rf"^task.{knob} = 0 is out of range"):
        characters(**knobs)


def test_a_transformers_width_must_divide_among_its_heads():
    with pytest.raises(ConfigError, match=r"task.embedding = 6 does not divide among .* 4 heads"):
        characters(model="transformer", embedding=6)
    assert characters(model="lstm", embedding=6).knobs["embedding"] == 6


def test_widths_that_are_not_said_are_those_of_the_model():
    widths = {"lstm": (16, 128), "gru": (16, 128), "transformer": (64, 256)}
    for model, (embedding, hidden) in widths.items():
        assert characters(model=model).knobs == {"embedding": embedding, "hidden": hidden}
        assert characters(model=model, hidden=8).knobs == {"embedding": embedding, "hidden": 8}


def test_an_unknown_model_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'lstn' is not a model of characters; did you mean"):
        characters(model="lstn")


def test_knobs_given_back_make_the_task_again():
    first = make_task(TaskConfig.model_validate({"name": "characters", "window": 40}))
    again = make_task(TaskConfig.model_validate({"name": "characters", **first.knobs}))
    assert first.knobs["window"] == 40
    assert again.knobs == first.knobs
