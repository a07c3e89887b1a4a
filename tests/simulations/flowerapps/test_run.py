"""Flower apps run unmodified, reproducibly, and say what is wrong with those that do not."""

import json
import shutil
import tomllib
from time import sleep

import numpy as np
import pytest

from roundel.core.errors import RunFailed
from roundel.simulations.flowerapps import flower, flower_grid
from roundel.simulations.flowerapps.project import AppError
from tests.flowerapps.deployed import REMEMBERING
from tests.flowerapps.running import APPS, CLIENT, NAMES, SERVER, arrays, noting, run, write_app


@pytest.mark.parametrize("name", NAMES)
def test_an_app_gives_the_same_bits_with_one_worker_and_with_two(name, tmp_path):
    one = run(APPS / name, tmp_path / "one", workers=1)
    run(APPS / name, tmp_path / "two", workers=2)
    first, second = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]).all() for key in first)
    assert one.arrays == len(first) > 0
    assert one.failures == 0


@pytest.mark.parametrize(
    ("name", "setting"),
    [("quickstart-numpy", "fraction-train=0.5"), ("legacy-numpy", "fraction-fit=0.5")],
)
def test_a_sampled_run_is_the_same_twice_and_another_with_another_seed(name, setting, tmp_path):
    few = [setting, "min-clients=2"] if name == "legacy-numpy" else [setting]
    for number, seed in enumerate((1, 1, 2)):
        run(APPS / name, tmp_path / f"{number}", few, clients=10, seed=seed, workers=2)
    first, second, other = (arrays(tmp_path / f"{number}")["0"] for number in range(3))
    assert (first == second).all()
    assert (first != other).any()


def test_the_run_directory_says_what_ran_and_how_it_went(tmp_path):
    view, lines, _ = noting()
    outcome = run(
        APPS / "custom-strategy", tmp_path / "run", ["num-server-rounds=2"], view=view, seed=5
    )
    assert (outcome.rounds, outcome.source) == (2, "the result of the strategy")
    said = tomllib.loads((tmp_path / "run/flower.toml").read_text())
    assert (said["clients"], said["seed"]) == (4, 5)
    assert said["config"]["num-server-rounds"] == 2
    engine = json.loads((tmp_path / "run/environment.json").read_text())["engine"]
    assert (engine["mode"], engine["flwr"][:4]) == ("flower", "1.41")
    written = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert written == lines
    assert [line["round"] for line in written] == [1, 2]
    assert written[1]["train"]["metrics"] == {
        "rounds": 2.0,
        "partition": 44 / 26,
        "num-examples": 26,
    }
    assert not (tmp_path / "run/failures").exists()


def test_what_a_client_keeps_is_there_the_next_time_whoever_runs_it(tmp_path):
    view, lines, _ = noting()
    run(APPS / "custom-strategy", tmp_path / "run", clients=5, workers=3, view=view)
    assert [line["train"]["metrics"]["rounds"] for line in lines] == [1.0, 2.0, 3.0, 4.0]


def test_an_app_without_a_strategy_leaves_the_arrays_that_were_sent_last(tmp_path):
    server = """
        import numpy as np
        from flwr.app import ArrayRecord, Message, RecordDict
        from flwr.serverapp import ServerApp

        app = ServerApp()

        @app.main()
        def main(grid, context):
            for number in range(3):
                content = RecordDict({"arrays": ArrayRecord([np.full(2, float(number))])})
                ids = grid.push_messages(
                    [Message(content, node, "train") for node in grid.get_node_ids()]
                )
                replies = list(grid.pull_messages(ids))
                assert [r.metadata.src_node_id for r in replies] == grid.get_node_ids()
                assert not list(grid.pull_messages(ids))
    """
    root = write_app(tmp_path / "app", server=server)
    outcome = run(root, tmp_path / "run")
    assert outcome.source == "the arrays that were sent last"
    assert arrays(tmp_path / "run")["0"].tolist() == [2.0, 2.0]


def test_several_messages_to_one_client_are_answered_one_after_the_other(tmp_path):
    server = """
        from flwr.app import ConfigRecord, Message, RecordDict
        from flwr.serverapp import ServerApp

        app = ServerApp()

        @app.main()
        def main(grid, context):
            nodes = grid.get_node_ids()
            asked = [Message(RecordDict(), node, "query") for node in [*nodes, *nodes]]
            asked.append(Message(RecordDict(), 7, "query"))
            *replies, lost = grid.send_and_receive(asked)
            assert [r.content["c"]["count"] for r in replies] == [1, 1, 1, 2, 2, 2]
            assert lost.error.code == 5
    """
    client = """
        from flwr.app import ConfigRecord, Message, RecordDict
        from flwr.clientapp import ClientApp

        app = ClientApp()

        @app.query()
        def query(msg, context):
            count = context.state["c"]["count"] + 1 if "c" in context.state else 1
            context.state["c"] = ConfigRecord({"count": count, "raw": [b"a", b"b"], "none": []})
            return Message(context.state, reply_to=msg)
    """
    root = write_app(tmp_path / "app", server=server, client=client)
    assert run(root, tmp_path / "run", clients=3, workers=2).arrays == 0


def test_messages_have_what_their_content_was_when_they_were_asked_for(tmp_path):
    server = """
        from flwr.app import ConfigRecord, Message, RecordDict
        from flwr.serverapp import ServerApp

        app = ServerApp()

        @app.main()
        def main(grid, context):
            record = RecordDict({"c": ConfigRecord({"place": -1})})

            def one_after_another():
                for place, node in enumerate(grid.get_node_ids()):
                    record["c"]["place"] = place
                    yield Message(record, node, "query")

            replies = grid.send_and_receive(one_after_another())
            assert [r.content["c"]["place"] for r in replies] == [0, 1, 2]
            asked = [Message(record, node, "query") for node in grid.get_node_ids()]
            replies = list(grid.send_and_receive(asked))
            record["c"]["place"] = 7
            assert [r.content["c"]["place"] for r in replies] == [2, 2, 2]
            replies[0].content["c"]["place"] = 8
            assert replies[1].content["c"]["place"] == 2
    """
    client = """
        from flwr.app import Message
        from flwr.clientapp import ClientApp

        app = ClientApp()

        @app.query()
        def query(msg, context):
            return Message(msg.content, reply_to=msg)
    """
    root = write_app(tmp_path / "app", server=server, client=client)
    assert run(root, tmp_path / "run", clients=3, workers=2).failures == 0
    assert run(root, tmp_path / "again", clients=3, workers=1).failures == 0


BROKEN = {
    "importing": (
        {"client": "import flwr\n1 / 0\n"},
        "importing client_app failed: ZeroDivisionError: division by zero ({app}/client_app.py:2)",
    ),
    "missing": (
        {"server": "other = 1\n"},
        "{app}/server_app.py has no 'app'; define it there as a ServerApp",
    ),
    "wrong type": (
        {"server": "import flwr\n\napp = {}\n"},
        "serverapp = 'server_app:app' is a dict and not a ServerApp ({app}/server_app.py:3)",
    ),
    "main": (
        {"server": SERVER.replace("FedAvg(fraction", "1 / 0\n    FedAvg(fraction")},
        (
            "the ServerApp server_app:app failed: ZeroDivisionError: division by zero "
            "({app}/server_app.py:10)"
        ),
    ),
    "client": (
        {"client": CLIENT.replace("    metrics = ", "    1 / 0\n    metrics = ")},
        (
            "in round 1 no client replied to 'train': client 0 failed: ZeroDivisionError: division "
            "by zero ({app}/client_app.py:7); tracebacks lie in "
        ),
    ),
    "mod": (
        {
            "client": CLIENT.replace(
                "app = ClientApp()",
                "def mod(msg, context, next):\n    raise KeyError('lost')\n\n"
                "app = ClientApp(mods=[mod])",
            )
        },
        "client 0 failed: KeyError: 'lost' ({app}/client_app.py:12)",
    ),
    "nothing": (
        {"client": CLIENT.replace("    return Message", "    Message")},
        (
            "client 0 failed: TypeError: the ClientApp returned a NoneType and not a Message; "
            "return Message(content, reply_to=message)"
        ),
    ),
    "metrics": (
        {"client": CLIENT.replace(', "metrics": metrics', "")},
        "({app}/server_app.py:10); the reply of client 0 to 'train' has no metrics",
    ),
    "shapes": (
        {
            "client": CLIENT.replace(
                "[w + 1]", "[w + 1 if context.node_config['partition-id'] != 2 else w[:2]]"
            )
        },
        "({app}/server_app.py:10); client 2 replied with the array 'arrays.0' in the shape [2], ",
    ),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_app_gives_one_error_with_its_own_line(case, workers, tmp_path):
    parts, sentence = BROKEN[case]
    root = write_app(tmp_path / "app", **parts)
    with pytest.raises(AppError) as caught:
        run(root, tmp_path / "run", workers=workers)
    first = str(caught.value).partition("\n\n")[0]
    assert sentence.format(app=root) in first
    assert "\n" not in first
    assert caught.value.exit_code == 1
    if (tmp_path / "run").exists():
        assert (tmp_path / "run/failed.txt").read_text().startswith(first)


POLLING = SERVER.replace(
    "    FedAvg(",
    "    while len(list(grid.get_node_ids())) < 9:\n        __import__('time').sleep(0.01)\n"
    "    FedAvg(",
)


@pytest.mark.parametrize(
    ("app", "setting", "at"),
    [
        (SERVER.replace("FedAvg(", "FedAvg(min_available_nodes=9, "), [], "server_app.py:10"),
        (POLLING, [], "server_app.py:10"),
        ("legacy-numpy", ["min-clients=9"], ""),
    ],
    ids=["strategy", "its own", "legacy"],
)
def test_an_app_that_waits_for_nodes_that_never_come_ends(app, setting, at, tmp_path, monkeypatch):
    monkeypatch.setattr(flower, "PATIENCE_S", 0.05)
    monkeypatch.setattr(flower_grid, "PATIENCE_S", 0.05)
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda _s: sleep(0.01))
    root = APPS / app if app == "legacy-numpy" else write_app(tmp_path / "app", server=app)
    with pytest.raises(AppError) as caught:
        run(root, tmp_path / "run", setting, clients=4)
    first = str(caught.value).partition("\n\n")[0]
    assert "failed: TooFewNodes: it waits for more nodes than there are: 4; run it with" in first
    assert first.endswith(f"{at})")


def test_one_client_that_fails_is_named_once_with_its_traceback_and_the_run_goes_on(tmp_path):
    client = CLIENT.replace(
        "    metrics = ",
        "    if context.node_config['partition-id'] == 1:\n        1 / 0\n    metrics = ",
    )
    view, lines, warnings = noting()
    root = write_app(tmp_path / "app", client=client)
    outcome = run(root, tmp_path / "run", view=view, workers=2)
    assert outcome.failures == 2
    assert [line["train"]["failures"] for line in lines] == [1, 1]
    (warning,) = warnings
    assert warning.startswith(
        "round 1: client 1 failed: ZeroDivisionError: division by zero "
        f"({root}/client_app.py:8)\n\nTraceback"
    )
    assert [file.name for file in sorted((tmp_path / "run/failures").iterdir())] == [
        "round-000001-client-1-message-1.txt",
        "round-000002-client-1-message-2.txt",
    ]
    assert arrays(tmp_path / "run")["0"].tolist() == [2.0, 2.0, 2.0]


NUMBER = 'context.node_config["partition-id"]'

DYING = """
import os
from pathlib import Path

def die_once(mark):
    if not mark.exists():
        mark.touch()
        os._exit(5)

"""


def test_a_client_whose_process_dies_is_named_and_keeps_what_it_had_and_the_run_goes_on(tmp_path):
    mark = str(tmp_path / "mark")
    died = f"    if known == 1 and number == 1: die_once(Path({mark!r}))\n"
    client = REMEMBERING.replace("PACE", "0.0").replace(
        "    metrics = ", f"    number = {NUMBER}\n{died}    metrics = "
    )
    client = client.replace('"num-examples": 1', '"num-examples": 1, "known": known')
    view, lines, warnings = noting()
    root = write_app(tmp_path / "app", client=DYING + client)
    run(root, tmp_path / "run", ["num-server-rounds=3"], view=view, workers=2)
    assert warnings == [
        "round 2: client 1 failed: the process of client 1 was ended by exit code 5"
    ]
    assert [line["train"]["replies"] for line in lines] == [4, 3, 4]
    assert [line["train"]["metrics"]["known"] for line in lines] == [0.0, 1.0, 7 / 4]


@pytest.mark.parametrize(
    ("name", "line"),
    [("quickstart_numpy", "(w,) = msg.content"), ("legacy_numpy", "w, b = parameters")],
)
def test_workers_that_die_again_and_again_end_the_run_whatever_the_app_makes_of_it(
    name, line, tmp_path
):
    root = tmp_path / "app"
    shutil.copytree(APPS / name.replace("_", "-"), root)
    client = root / name / "client_app.py"
    client.write_text(client.read_text().replace(line, f"__import__('os')._exit(5); {line}"))
    with pytest.raises(RunFailed, match="a worker has died 3 times in a row") as caught:
        run(root, tmp_path / "run", clients=8, workers=2)
    assert caught.value.exit_code == 1
    assert "3 times in a row" in (tmp_path / "run/failed.txt").read_text()


def test_a_strategy_that_overrides_start_still_shows_its_result(tmp_path):
    server = SERVER.replace(
        "app = ServerApp()",
        "class Mine(FedAvg):\n"
        "    def start(self, *args, **kwargs):\n"
        "        return super().start(*args, **kwargs)\n\n"
        "app = ServerApp()",
    ).replace("    FedAvg(", "    Mine(")
    root = write_app(tmp_path / "app", server=server)
    assert run(root, tmp_path / "run").source == "the result of the strategy"


def test_an_app_draws_nothing_from_the_generators_of_its_caller(tmp_path):
    server = SERVER.replace("[np.zeros(3)]", "[np.random.normal(size=3)]")
    client = CLIENT.replace("w + 1", "w + np.random.normal(size=3)")
    root = write_app(tmp_path / "app", server=server, client=client)
    np.random.seed(7)  # noqa: NPY002 - the generator in question
    expected = np.random.normal(size=2)  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    run(root, tmp_path / "one")
    assert (np.random.normal(size=2) == expected).all()  # noqa: NPY002
    run(root, tmp_path / "two", workers=2)
    assert (arrays(tmp_path / "one")["0"] == arrays(tmp_path / "two")["0"]).all()


def test_a_directory_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/file").touch()
    with pytest.raises(Exception, match="is not an empty directory; choose another one with --out"):
        run(APPS / "custom-strategy", tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["file"]
