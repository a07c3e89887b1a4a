"""Reading and writing experiment files, and the sentences that go with mistakes."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.config import Experiment
from roundel.core.configfile import dump_experiment, load_experiment, parse_experiment
from roundel.core.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(*settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(None, settings)
    return str(caught.value)


def test_no_file_and_no_settings_give_the_defaults() -> None:
    assert load_experiment() == Experiment()


def test_settings_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "rounds = 3\n[client]\nlr = 0.5\nsteps = 7\n[strategy]\nmu = 0.25\n")
    experiment = load_experiment(path, ["client.lr=0.125", "strategy.name=fedprox"])
    assert experiment.rounds == 3
    assert (experiment.client.lr, experiment.client.steps) == (0.125, 7)
    assert (experiment.strategy.name, experiment.strategy.knobs) == ("fedprox", {"mu": 0.25})
    assert experiment.cohort == Experiment().cohort


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("rounds=7", {"rounds": 7}),
        (" rounds = 7 ", {"rounds": 7}),
        ("seed=-3", {"seed": -3}),
        ("name=two words", {"name": "two words"}),
        ('name="5"', {"name": "5"}),
        ("name=", {"name": ""}),
        ("name=a=b", {"name": "a=b"}),
        ("client.lr=1e-3", {"client": {"lr": 0.001}}),
        ("client.nesterov=true", {"client": {"nesterov": True}}),
        ("client.batch_size=full", {"client": {"batch_size": "full"}}),
        ("client.options.betas=[0.9, 0.99]", {"client": {"options": {"betas": [0.9, 0.99]}}}),
        ("client.options={eps=0.5}", {"client": {"options": {"eps": 0.5}}}),
        ("strategy.beta=inf", {"strategy": {"beta": float("inf")}}),
        ("strategy.inner.steps=3", {"strategy": {"inner": {"steps": 3}}}),
        ("task.path=/some/where", {"task": {"path": Path("/some/where")}}),
    ],
)
def test_a_setting_is_a_toml_value_or_else_a_string(setting: str, expected: dict[str, Any]) -> None:
    assert load_experiment(None, [setting]).model_dump(exclude_unset=True) == expected


def test_the_last_setting_of_a_key_wins() -> None:
    assert load_experiment(None, ["rounds=1", "rounds=2"]).rounds == 2


@pytest.mark.parametrize("setting", ["rounds", "=5", "client.=5", ".client=5", "client..lr=5", ""])
def test_what_is_not_a_setting_is_refused(setting: str) -> None:
    assert complaint(setting) == f"-s {setting!r} is not a setting; write -s section.key=value"


def test_a_value_has_no_keys(tmp_path: Path) -> None:
    assert complaint("rounds=5", "rounds.x=1") == (
        "-s 'rounds.x=1': 'rounds' is a value and has no keys of its own"
    )
    with pytest.raises(ConfigError, match="'client' is a value and has no keys"):
        load_experiment(written(tmp_path, "[[client]]\nlr = 1\n"), ["client.lr=1"])


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("sede=1", "sede is not a key; did you mean 'seed'?"),
        ("clinet.lr=1", "clinet is not a key; did you mean 'client'?"),
        (
            "mu=0.1",
            (
                f"mu is not a key; choose from {', '.join(Experiment.model_fields)}; a strategy's "
                "knobs are set as in strategy.mu=0.1"
            ),
        ),
        ("client.epoch=1", "client.epoch is not a key; did you mean 'epochs'?"),
        ("seeds.zzz=1", "seeds.zzz is not a key; choose from data, model, sampling, training"),
        ("client.lr=-1", "client.lr = -1 is not allowed: it should be greater than 0"),
        ("partition.alpha=0", "partition.alpha = 0 is not allowed: it should be greater than 0"),
        ("partition.test=1", "partition.test = 1 is not allowed: it should be less than 1"),
        (
            "strategy=fedavg",
            "strategy = 'fedavg' is not allowed: set a key of it, such as strategy.name",
        ),
        (
            "client.batch_size=0",
            (
                "client.batch_size = 0 is not allowed: "
                "it should be greater than 0 or it should be 'full'"
            ),
        ),
        (
            "cohort.quorum=21",
            "cohort.quorum = 21 cannot be reached by a cohort of 20; lower it or raise cohort.size",
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_the_key_the_value_and_the_remedy(
    setting: str, sentence: str
) -> None:
    assert complaint("cohort.size=20", setting) == sentence


def test_epochs_and_steps_together_are_refused() -> None:
    assert complaint("client.epochs=1", "client.steps=2") == (
        "client.epochs = 1 and client.steps = 2 both say how long to train; set one of them"
    )


def test_a_value_of_no_allowed_type_lists_what_is() -> None:
    sentence = complaint("client.options.betas={low=0.9}")
    assert sentence.startswith("client.options = {'low': 0.9} is not allowed: it should be")
    assert "valid list" in sentence


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.toml"
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert str(caught.value) == (
        f"cannot read the experiment file {path}: No such file or directory"
    )


def test_a_directory_is_not_an_experiment_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the experiment file .*: Is a directory"):
        load_experiment(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not text in UTF-8"):
        load_experiment(path)


def test_a_file_that_is_not_toml_is_refused_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"experiment\.toml is not a TOML file: .*line 2"):
        load_experiment(written(tmp_path, "rounds = 1\nseed =\n"))


def test_a_mistake_in_a_file_is_named_as_one_in_a_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^client\.lrr is not a key; did you mean 'lr'\?$"):
        load_experiment(written(tmp_path, "[client]\nlrr = 1\n"))


POSITIVE = st.floats(1e-300, 1e300)
PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.sampled_from(["", "é\n\"'"]),
)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Trees of plain values that are valid experiments."""

    def some(**values: st.SearchStrategy[Any]) -> dict[str, Any]:
        return draw(st.fixed_dictionaries({}, optional=values))

    client = some(
        lr=POSITIVE,
        nesterov=st.booleans(),
        options=st.dictionaries(
            st.sampled_from(["betas", "eps", "a b"]), PLAIN | st.lists(st.floats(0, 1), max_size=2)
        ),
        batch_size=st.integers(1, 10**6) | st.just("full"),
        clip_norm=POSITIVE,
    )
    return {
        **some(name=st.sampled_from(["x", "ü", "a\nb"]), seed=st.integers(-(2**63), 2**63 - 1)),
        "client": client | some(epochs=st.integers(1, 9)),
        "strategy": some(name=st.just("fedprox"), mu=PLAIN, list=st.lists(PLAIN, max_size=3)),
        "partition": some(alpha=POSITIVE, validation=st.floats(0, 0.4), test=st.floats(0, 0.5)),
        "task": some(
            path=st.sampled_from(["/a/b", "relative.csv"]),
            initial=st.just("runs/before"),
            model=st.just("cnn"),
            classes=st.lists(PLAIN, max_size=3),
        ),
        "stop": some(target=st.floats(-9, 9), patience=st.integers(1, 9)),
        "faults": some(drop=st.floats(0, 1), fail=st.floats(0, 1)),
        "evaluation": some(metrics=st.just(["mine:top5"]), split=st.just("validation")),
        "seeds": some(data=st.integers(-5, 5)),
        "cohort": some(deadline_s=POSITIVE),
    }


@given(trees())
@settings(max_examples=20, deadline=None)
def test_what_is_written_reads_back_equal(tree: dict[str, Any]) -> None:
    experiment = parse_experiment(tree)
    again = parse_experiment(tomllib.loads(dump_experiment(experiment)))
    assert again == experiment
    assert dump_experiment(again) == dump_experiment(experiment)


def test_what_is_written_says_everything_that_is_set() -> None:
    tree = tomllib.loads(dump_experiment(parse_experiment({"client": {"lr": 0.125}})))
    assert tree["client"]["lr"] == 0.125
    assert tree["client"]["batch_size"] == Experiment().client.batch_size
    assert tree["evaluation"] == {
        "every": 1,
        "clients": 100,
        "split": "test",
        "min_examples": 5,
        "metrics": [],
    }
