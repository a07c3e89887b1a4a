"""What the files of deploy/ ask of `roundel` it can do, and they agree with each other."""

import configparser
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from roundel.cli.main import app
from roundel.core.configfile import load_experiment

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """What `roundel` understands of a command line, without doing it."""
    command, arguments = typer.main.get_command(app), list(words)
    while named := getattr(command, "commands", {}).get(arguments[0] if arguments else None):
        command, arguments = named, arguments[1:]
    return command.make_context(command.name, arguments).params


def shown(page: Path) -> Iterator[list[str]]:
    """The `roundel` commands in the shell blocks of a page."""
    for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
            if words[0] == "roundel":
                yield words[1:]


def served(arguments: Sequence[str], cwd: Path) -> list[str]:
    """The arguments that serve-or-resume gives to `roundel`."""
    (cwd / "roundel").write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    (cwd / "roundel").chmod(0o755)
    script = [str(DEPLOY / "serve-or-resume"), *arguments]
    environment = {"PATH": f"{cwd}:/usr/bin:/bin"}
    ended = subprocess.run(
        script, cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return ended.stdout.splitlines()


def test_a_run_is_served_where_there_is_none_and_gone_on_with_where_there_is(tmp_path):
    arguments = ("runs/one", "one.toml", "--listen=0.0.0.0:8470")
    first = parsed(served(arguments, tmp_path))
    assert (str(first["file"]), str(first["out"])) == ("one.toml", "runs/one")
    assert (first["resume"], first["listen"]) == (None, "0.0.0.0:8470")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.toml").touch()
    again = parsed(served(arguments, tmp_path))
    assert (again["file"], again["out"]) == (None, None)
    assert (str(again["resume"]), again["listen"]) == ("runs/one", "0.0.0.0:8470")


def test_a_flower_app_is_served_where_a_directory_is_named(tmp_path):
    (tmp_path / "app").mkdir()
    arguments = ("runs/one", "app", "--listen=0.0.0.0:8470")
    first = parsed(served(arguments, tmp_path))
    assert (first["file"], str(first["flower"]), str(first["out"])) == (None, "app", "runs/one")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "flower.toml").touch()
    again = parsed(served(arguments, tmp_path))
    assert (again["flower"], str(again["resume"])) == (None, "runs/one")


def test_the_coordinator_of_the_compose_file_can_be_started(tmp_path):
    coordinator = COMPOSE["services"]["coordinator"]
    assert coordinator["entrypoint"] == ["serve-or-resume"]
    assert parsed(served(coordinator["command"], tmp_path))["listen"] == "0.0.0.0:8470"
    load_experiment(DEPLOY / "experiment.toml")


def test_the_compose_file_opens_its_ports_to_this_machine_alone():
    ports = COMPOSE["services"]["coordinator"]["ports"]
    assert ports == ["127.0.0.1:8470:8470", "127.0.0.1:8471:8471"]


def test_the_nodes_of_the_compose_file_take_every_share_once():
    nodes = {name: one for name, one in COMPOSE["services"].items() if name != "coordinator"}
    shares = [parsed(node["command"])["partition"] for node in nodes.values()]
    assert shares == [f"{number}/{len(nodes)}" for number in range(1, len(nodes) + 1)]
    mounted = [node["volumes"][0].partition(":")[0] for node in nodes.values()]
    assert mounted == [node["hostname"] for node in nodes.values()] == list(nodes)
    assert set(COMPOSE["volumes"]) == {"coordinator", "tokens", *nodes}


def test_what_the_compose_file_mounts_is_there_in_the_image():
    made = re.search(r"install --directory .* (\S+) (\S+)$", DOCKERFILE, re.MULTILINE)
    assert made is not None
    services = COMPOSE["services"].values()
    places = {mount.split(":")[1] for service in services for mount in service["volumes"]}
    assert places == {*made.groups(), "/etc/roundel/experiment.toml"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_what_can_be_started(unit, tmp_path):
    service = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    service.optionxform = str  # type: ignore[assignment]
    service.read_string(unit.read_text())
    program, *arguments = shlex.split(service["Service"]["ExecStart"])
    words = [word for word in arguments if word != "$OPTIONS"]
    if program == "/opt/roundel/bin/serve-or-resume":
        words = served(words, tmp_path)
    assert parsed(words)
    assert service["Service"]["LimitNOFILE"] == "65536"
    assert (
        service["Service"]["KillSignal"]
        == re.findall(r"^STOPSIGNAL (\w+)", DOCKERFILE, re.MULTILINE)[0]
    )


def test_what_the_page_about_deployment_shows_can_be_said():
    commands = list(shown(DEPLOY.parent / "docs" / "deployment.md"))
    assert len(commands) >= 9
    for words in commands:
        parsed(words)  # refuses what cannot be said


def test_wheels_are_collected_for_the_python_of_the_image():
    base = re.findall(r"^ARG BASE=python:([\d.]+)-", DOCKERFILE, re.MULTILINE)
    assert base == ["3.11"]
    assert "PYTHON=python3.11" in (DEPLOY / "wheels.sh").read_text()


def test_the_health_check_starts_without_torch():
    imports = "roundel.cli.main, roundel.cli.nodes, roundel.client.grpc_operate"
    program = f"import {imports}, sys; print('torch' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "False\n"
