"""A table of one's own is a task, and what is found out from it makes the task again without it."""

from typing import Any

import numpy as np
import pytest
import torch

from roundel.core.config import TaskConfig
from roundel.core.errors import ConfigError, DataError
from roundel.simulations import simulate
from roundel.simulations.tasks import digits
from roundel.simulations.tasks import tabular as module
from roundel.simulations.tasks.registry import make_task
from roundel.simulations.tasks.tabular import tabular

ROWS = [f"{i},{10 * i},u{i % 3},{'ab'[i % 2]}" for i in range(10)]
"""Rows 0, 2, 4, 6 and 8 are of class a, the others of class b; the users take turns."""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("\n".join(["one,ten,who,y", *ROWS]) + "\n")
    return path


def parts(path, **knobs: Any):
    task = tabular(path=path, **knobs)
    assert task.load is not None
    return task.load(path), None if task.load_test is None else task.load_test(path)


def complaint(error: type[Exception] = DataError, **knobs: Any):
    with pytest.raises(error) as caught:
        parts(**knobs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- pool and test set


def test_of_each_class_every_fifth_row_is_held_out(file):
    pool, test = parts(file, user="who", standardize=False)
    assert test is not None
    assert test.inputs.tolist() == [[8.0, 80.0], [9.0, 90.0]]
    assert test.targets.tolist() == [0, 1]
    assert pool.inputs[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert pool.targets.tolist() == [0, 1] * 4
    assert (pool.inputs.dtype, pool.targets.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize(("share", "held"), [(0.4, [4, 5, 8, 9]), (0.39, [4, 5])])
def test_a_share_is_rounded_down_and_spread_over_the_rows_of_a_class(file, share, held):
    _, test = parts(file, user="who", standardize=False, test=share)
    assert test is not None
    assert test.inputs[:, 0].tolist() == held


def test_a_share_of_0_holds_nothing_out(file):
    pool, test = parts(file, user="who", test=0.0)
    assert test is None
    assert len(pool) == 10


def test_a_share_that_holds_out_no_row_is_refused(file):
    sentence = complaint(path=file, user="who", test=0.1)
    assert sentence == (
        f"{file} has 10 rows, and task.test = 0.1 of each class holds out none; raise it, or set "
        "it to 0"
    )


def test_users_are_numbered_for_the_natural_partition(file):
    pool, test = parts(file, user="who")
    assert pool.users is not None
    assert pool.users.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert test is not None
    assert test.users is None
    assert parts(file, features=["one"])[0].users is None


def test_users_whose_rows_are_all_held_out_get_no_number(file):
    rows = [row.replace("u2", "u0") for row in ROWS]
    rows[8] = rows[8].replace("u0", "u00")  # between u0 and u1, and held out
    file.write_text("\n".join(["one,ten,who,y", *rows]))
    pool, _ = parts(file, user="who")
    assert pool.users is not None
    assert pool.users.tolist() == [0, 1, 0, 0, 1, 0, 0, 1]


# ---- standardising


def test_features_are_standardized_by_the_rows_to_learn_from(file):
    """Of 0 to 7 the mean is 3.5, and the variance (64 - 1) / 12 = 5.25."""
    task = tabular(path=file, user="who")
    assert task.knobs["mean"] == [3.5, 35.0]
    assert task.knobs["std"] == pytest.approx([5.25**0.5, 10 * 5.25**0.5])
    pool, test = parts(file, user="who")
    assert pool.inputs.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert pool.inputs.std(dim=0, correction=0).tolist() == pytest.approx([1, 1])
    assert test is not None
    assert test.inputs[0].tolist() == pytest.approx([4.5 / 5.25**0.5] * 2)


def test_a_feature_that_is_always_the_same_becomes_0(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("a,b,y\n" + "".join(f"0.1,{i},{i % 2}\n" for i in range(10)))
    task = tabular(path=file)
    assert task.knobs["std"][0] == 1.0
    assert parts(file)[0].inputs[:, 0].tolist() == pytest.approx([0.0] * 8, abs=1e-7)


def test_without_standardizing_there_are_no_means(file):
    assert set(tabular(path=file, user="who", standardize=False).knobs) == {
        *("target", "features", "classes")
    }


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"mean": [0.0, 0.0]}, "belong together, with task.standardize = true"),
        ({"mean": [0.0], "std": [1.0], "standardize": False}, "belong together"),
        ({"mean": [0.0, 0.0], "std": [1.0, 0.0]}, "must be finite, and task.std above 0"),
        ({"mean": [0.0, float("nan")], "std": [1.0, 1.0]}, "must be finite"),
        ({"mean": [0.0, 0.0], "std": [1.0]}, "have 2 and 1 numbers; give one of each for the 2"),
    ],
)
def test_means_and_deviations_that_cannot_be_used_are_refused(file, knobs, reason):
    assert reason in complaint(ConfigError, path=file, user="who", **knobs)


# ---- classes


def test_classes_are_inferred_in_their_natural_order(tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("x,y\n" + "".join(f"{i},{(9, 10, -1)[i % 3]}\n" for i in range(9)))
    task = tabular(path=file, test=0.0)
    assert task.knobs["classes"] == [-1, 9, 10]
    assert parts(file, test=0.0)[0].targets.tolist() == [1, 2, 0] * 3


def test_given_classes_decide_the_numbers_and_may_be_more_than_the_file_has(file):
    pool, _ = parts(file, user="who", classes=["b", "c", "a"])
    assert pool.targets.tolist() == [2, 0] * 4
    model = tabular(path=file, user="who", classes=["b", "c", "a"]).new_model(0)
    assert model(pool.inputs).shape == (8, 3)


def test_a_class_that_is_not_among_the_given_ones_is_said_with_its_line(file):
    sentence = complaint(path=file, user="who", classes=["a", "bb"])
    assert sentence == (
        f"{file}, line 3 has the class 'b', which is not in task.classes; did you mean 'bb'?"
    )


def test_one_class_only_is_refused(file):
    file.write_text("x,y\n1,a\n2,a\n")
    assert complaint(path=file) == (
        f"{file} has the class 'a' only, and there is nothing to tell apart; check task.target"
    )


def test_a_quantity_in_the_place_of_classes_is_refused(file):
    file.write_text("x,y\n" + "".join(f"{i},{i / 7}\n" for i in range(10)))
    assert complaint(path=file) == (
        f"the target of {file} has 10 values in 10 rows, too many for classes; check task.target, "
        "or list them in task.classes"
    )


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"]])
def test_given_classes_that_cannot_be_told_apart_are_refused(file, classes):
    assert "must list two classes or more, and each once" in complaint(
        ConfigError, path=file, classes=classes
    )


# ---- the file


def test_npz_files_are_told_by_their_name(tmp_path):
    file = tmp_path / "f.NPZ"
    x = np.arange(20.0).reshape(10, 2)
    with file.open("wb") as stream:
        np.savez(stream, x=x, y=np.arange(10) % 2, users=np.arange(10) % 3)
    pool, test = parts(file)
    assert pool.users is not None
    assert pool.users.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert test is not None
    assert len(test) == 2
    assert tabular(path=file).knobs["features"] == ["x0", "x1"]
    assert tabular(path=file).knobs["target"] is None


def test_a_missing_file_a_directory_and_a_huge_file_are_refused(file, monkeypatch):
    missing = file.parent / "nowhere.csv"
    assert complaint(path=missing) == (
        f"{missing} cannot be read (No such file or directory); set task.path to a CSV or NPZ file"
    )
    assert "cannot be read (Is a directory)" in complaint(path=file.parent)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    assert "the most that is read; take a part" in complaint(path=file)


def test_a_file_is_read_once_for_shape_pool_and_test_set(file, monkeypatch):
    read = []
    once = module.read_csv
    monkeypatch.setattr(module, "read_csv", lambda *args: read.append(args[0]) or once(*args))
    parts(file, user="who")
    assert read == [file]


def test_with_its_own_knobs_given_back_the_task_is_made_without_the_data(file, tmp_path):
    given = {"name": "tabular", "path": file, "user": "who", "hidden": [4]}
    made = make_task(TaskConfig.model_validate(given))
    settled = TaskConfig.model_validate({"name": "tabular", **made.knobs})
    again = make_task(settled)
    assert again.knobs == made.knobs
    assert made.load is not None
    assert again.load is not None
    file.rename(tmp_path / "elsewhere.csv")
    batch, same = made.load(file), again.load(tmp_path / "elsewhere.csv")
    assert same.inputs.equal(batch.inputs)
    assert again.new_model(0)(same.inputs).equal(made.new_model(0)(batch.inputs))


def test_a_node_with_columns_in_another_order_gets_the_same_examples(file, tmp_path):
    made = tabular(path=file, features=["one", "ten"])
    assert made.load is not None
    other = tmp_path / "other.csv"
    turned = [",".join(row.split(",")[::-1]) for row in ["one,ten,who,y", *ROWS]]
    other.write_text("\n".join(turned))
    assert made.load(other).inputs.equal(made.load(file).inputs)


def test_without_path_and_knobs_it_is_said_what_is_needed():
    with pytest.raises(ConfigError, match=r"needs task\.path, a CSV or NPZ file, or in its place"):
        tabular()
    known = tabular(features=["a"], classes=[0, 1], standardize=False)
    assert known.load is not None
    with pytest.raises(DataError, match=r"do not ship with Roundel; set task\.path to a CSV or"):
        known.load(None)


# ---- models and knobs


@pytest.mark.parametrize(
    ("hidden", "parameters"), [([], 2 * 2 + 2), ([3], 2 * 3 + 3 + 3 * 2 + 2), ([3, 1], 9 + 4 + 4)]
)
def test_hidden_layers_are_listed_and_none_is_logistic_regression(file, hidden, parameters):
    model = tabular(path=file, user="who", hidden=hidden).new_model(0)
    assert model(torch.rand(5, 2)).shape == (5, 2)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"hidden": [8, 0]}, "task.hidden = [8, 0] must list units, 1 or more"),
        ({"test": 1.0}, "task.test = 1 is not a share; choose from 0 to below 1"),
        ({"test": float("nan")}, "task.test = nan is not a share"),
        ({"target": "yy"}, "task.target: "),
    ],
)
def test_knobs_out_of_range_are_refused(file, knobs, reason):
    assert reason in complaint(ConfigError, path=file, user="who", **knobs)


def test_a_federation_learns_real_digits_from_a_csv_file(tmp_path):
    """The shipped digits as a table of 64 columns, with logistic regression."""
    pool = digits.load_pool(None)
    with (tmp_path / "digits.csv").open("w") as file:
        file.write(",".join(f"p{i}" for i in range(64)) + ",digit\n")
        for pixels, label in zip((pool.inputs * 16).int().tolist(), pool.targets, strict=True):
            file.write(",".join(map(str, pixels)) + f",{label}\n")
    run = simulate(
        settings=[
            *("task.name=tabular", f"task.path={tmp_path / 'digits.csv'}", "rounds=6"),
            *("partition.clients=20", "client.lr=0.1", "client.epochs=3", "evaluation.clients=0"),
        ],
        out=tmp_path / "run",
    )
    assert run.series("accuracy")[-1] >= 0.85


def test_a_federation_of_users_keeps_each_ones_rows_together(file, tmp_path):
    run = simulate(
        settings=[
            *("task.name=tabular", f"task.path={file}", "task.user=who", "rounds=1"),
            *("partition.kind=natural", "partition.test=0", "cohort.size=3", "client.epochs=1"),
            "evaluation.clients=0",
        ],
        out=tmp_path / "run",
    )
    assert [row["num_examples"] for row in run.clients()] == [3, 3, 2]
