"""The command finds its verbs, and says in a sentence and a code what is wrong."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
from click import Command, Group

from roundel.cli import main as cli
from tests.commands import call
from tests.reports.made_runs import make_run, record

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
VERBS = [
    *("simulate", "resume", "flower"),
    *("compare", "tune", "report", "export", "landscape"),
    *("runs", "show", "diff", "predict", "replay"),
    *("strategies", "tasks", "check", "new"),
    *("serve", "join", "nodes", "audit", "doctor"),
]


def group() -> Group:
    found = typer.main.get_command(cli.app)
    assert isinstance(found, Group)
    return found


def examples(verb: Command) -> list[list[str]]:
    """The commands that the help of a verb shows, split as a shell does, without redirections."""
    lines = (line.strip() for line in (verb.help or "").splitlines())
    words = (shlex.split(line.partition(" > ")[0]) for line in lines if "roundel " in line[:8])
    return [w for w in words if w[0] == "roundel"]


def test_the_version_is_that_of_the_project():
    assert call("--version").out == f"{VERSION}\n"


def test_the_version_help_and_looking_at_runs_do_not_wait_for_torch(tmp_path):
    script = (
        "import sys; from roundel.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert (end.code, 'torch' in sys.modules) == (0, False)"
    )
    run = make_run(tmp_path / "run", record(1)).path
    looks = (["--version"], ["--help"], ["runs", tmp_path], ["show", run], ["diff", run, run])
    for words in looks:
        command = [sys.executable, "-c", script, *words]
        assert subprocess.run(command, stdout=subprocess.PIPE, check=False).returncode == 0


def test_without_a_verb_the_help_is_shown_and_the_code_is_2():
    ended = call()
    assert ended.code == 2
    assert "Usage: roundel" in ended.out


def test_the_help_lists_every_verb():
    ended = call("--help")
    assert ended.code == 0
    assert sorted(group().commands) == sorted(VERBS)
    for verb in VERBS:
        assert f" {verb} " in ended.out


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_shows_an_example_of_it(verb):
    ended = call(verb, "--help")
    assert ended.code == 0
    assert "For example" in ended.out
    assert any(line.strip().startswith(f"roundel {verb}") for line in ended.out.splitlines())


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_in_the_help_are_commands_that_it_understands(verb):
    shown = examples(group().commands[verb])
    assert shown
    for _, other, *words in shown:
        with group().commands[other].make_context(other, words):
            pass


def test_an_unknown_verb_is_one_sentence_and_code_2():
    ended = call("simulat")
    assert ended.code == 2
    assert ended.err == (
        "roundel: No such command 'simulat'. Did you mean 'simulate'? (see `roundel --help`)\n"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_one_sentence_and_code_2(verb):
    ended = call(verb, "--bogus")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("roundel: No such option '--bogus'")
    assert re.search(rf"\(see `roundel {verb}( list)? --help`\)\n$", ended.err)
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "verb", ["resume", "join", "replay", "show", "diff", "predict", "new", "check"]
)
def test_a_missing_argument_is_one_sentence_and_code_2(verb):
    ended = call(verb)
    assert ended.code == 2
    assert ended.err.startswith("roundel: Missing argument")
    assert ended.err.count("\n") == 1


def test_an_interrupt_before_anything_ran_exits_with_130(monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("roundel.core.configfile.load_experiment", interrupted)
    assert call("simulate").code == 130
