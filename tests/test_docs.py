"""What the documentation shows runs, what it names exists, and what it lists is complete.

A comment above a block says how its commands are tested, where they are not run as they stand:

    <!-- test: skip, why -->            not at all
    <!-- test: with -s rounds=1 -->     with these options at the end of each command
    <!-- test: side by side -->         all at once
    <!-- test: file NAME -->            the block is written to this file
"""

import importlib
import inspect
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from roundel.core.comparisonfile import load_comparison
from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.simulations import deployed, simulate
from roundel.strategies.registry import STRATEGIES
from tests.commands import call, nodes_from_the_zygote, start

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = sorted(SETUPTOOLS["package-dir"].values())
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
REFERENCE = ROOT / "docs" / "experiment-file.md"
BLOCK = re.compile(r"(?:^<!-- test: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=page_name)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, and how it is tested."""

    test: str
    language: str
    text: str

    @classmethod
    def of(cls, page: Path) -> "Iterator[Block]":
        for test, language, text in BLOCK.findall(page.read_text()):
            yield cls(test, language, text)

    def commands(self) -> Iterator[list[str]]:
        """The block's commands, split as a shell does."""
        extra = self.test.removeprefix("with ") if self.test.startswith("with ") else ""
        for line in self.text.splitlines():
            shown = line.removeprefix("$ ") if self.language == "console" else line
            words = shlex.split(shown, comments=True)
            if words:
                at = words.index(">") if ">" in words else len(words)
                yield words[:at] + shlex.split(extra) + words[at:]


def run_block(block: Block, here: Path) -> None:
    if block.test.startswith("skip"):
        return
    if block.test.startswith("file "):
        (here / block.test.removeprefix("file ")).write_text(block.text)
    match block.language:
        case "sh" | "console" if block.test == "side by side":
            run_side_by_side(block, here)
        case "sh" | "console":
            for words in block.commands():
                run_command(words, here)
        case "python":
            exec(compile(block.text, "documentation", "exec"), {"__name__": "documentation"})
        case "toml":
            (here / "shown.toml").write_text(block.text)
            load = load_comparison if "[grid]" in block.text else load_experiment
            load(here / "shown.toml")
        case "":
            pass
        case other:
            pytest.fail(f"nobody knows how to test a block of {other!r}")


def run_command(words: list[str], here: Path) -> None:
    command, *arguments = words
    match command:
        case "make":
            targets = [word for word in arguments if "=" not in word]
            for target in targets:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case "roundel":
            *arguments, out = [*arguments, None] if ">" not in arguments else arguments
            ended = call(*[word for word in arguments if word != ">"])
            assert ended.code == 0, ended.err
            if out is not None:
                (here / out).write_text(ended.out)
        case "python":
            assert (ROOT / arguments[0]).is_file()
        case _:
            assert (ROOT / command).is_file(), f"{shlex.join(words)} cannot be tested: skip it"


def run_side_by_side(block: Block, here: Path) -> None:
    """Run the block's commands at once, on a port that is free."""
    first, *others = block.commands()
    server = start(*first[1:], "--listen", "127.0.0.1:0", cwd=here)
    address = server.wait_for(r"listening on (\S+);")[1]
    dialling = [[address if "127.0.0.1" in word else word for word in words] for words in others]
    processes = [server, *(start(*words[1:], cwd=here) for words in dialling)]
    for ended in (process.wait() for process in processes):
        assert ended.code == 0, ended.err


@pages
def test_what_a_page_shows_runs(page, workplace, monkeypatch):
    nodes_from_the_zygote(monkeypatch, deployed, workplace)
    monkeypatch.syspath_prepend(workplace)  # files that a page shows may import each other
    for block in Block.of(page):
        run_block(block, workplace)


def test_the_readme_opens_with_the_two_commands():
    first = next(Block.of(ROOT / "README.md"))
    assert first.text == "make simulate\nmake test\n"
    assert (ROOT / "README.md").read_text().startswith("# Roundel\n\n```sh\n")


def test_every_verb_is_shown_in_the_readme():
    verbs = re.findall(r"^│ (\w+)  ", call("--help").out, re.MULTILINE)
    assert len(verbs) >= 12
    for verb in verbs:
        assert re.search(rf"^roundel {verb}\b", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_every_strategy_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [name for name in STRATEGIES if f"`{name}`" not in text] == []


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


# ---- names of the code


def modules() -> Iterator[ModuleType]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if not name.endswith("__main__"):
                yield importlib.import_module(f"roundel.{name.removesuffix('.__init__')}")


def has(owner: object, name: str) -> bool:
    """Tell whether something has an attribute, or declares a field of that name."""
    declared = inspect.get_annotations(owner) if isinstance(owner, type) else {}
    return hasattr(owner, name) or name in declared


def exists(dotted: str) -> bool:
    """Tell whether ``roundel.a.b.C.d`` is a module, or something in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            owner: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            if not has(owner, name):
                return False
            owner = getattr(owner, name, None)
        return True
    return False


@pages
def test_modules_and_functions_that_are_named_exist(page):
    named = set(re.findall(r"`(roundel(?:\.\w+)+)`", page.read_text()))
    assert [name for name in sorted(named) if not exists(name)] == []


def test_a_simulated_round_calls_what_the_map_says_in_its_order(tmp_path):
    text = ARCHITECTURE.read_text()
    promised = re.findall(
        r"`(roundel\.[\w.]+)`",
        text.partition("### The calls, in order")[2].partition("Over gRPC")[0],
    )
    assert len(promised) > 20
    called: list[str] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith("roundel."):
            called.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        loop = ["rounds=1", "strategy.name=scaffold", "engine.executor=loop"]
        simulate(settings=loop, out=tmp_path / "run")
    finally:
        sys.setprofile(None)
    place = 0
    for name in promised:
        assert name in called[place:], f"{name} is not called after {called[place]}"
        place = called.index(name, place)


def test_classes_that_are_named_exist():
    known = {name: value for module in modules() for name, value in vars(module).items()}
    text = ARCHITECTURE.read_text()
    for name, attribute in re.findall(r"`([A-Z][a-z]\w+)(?:\.(\w+))?`", text):
        assert name in known, name
        assert not attribute or has(known[name], attribute), f"{name}.{attribute}"


@pages
def test_files_and_folders_that_are_named_exist(page):
    folders = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir())
    for path in re.findall(r"`([\w./]+/[\w.]*)`", page.read_text()):
        if path.startswith(folders):
            assert (ROOT / path).exists(), path


def test_the_map_names_every_folder_that_is_a_package():
    text = ARCHITECTURE.read_text()
    assert [folder for folder in FOLDERS if f"`{folder}/`" not in text] == []


# ---- the reference of the experiment file


def rows(columns: int) -> Iterator[list[str]]:
    """The rows of all tables with so many columns, headings and rulers left out."""
    for line in REFERENCE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == columns:
            yield cells


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Each key of the experiment with its default and what it may be."""
    schemas = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        kind = field.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{name}.")
        else:
            yield (
                prefix + name,
                field.get_default(call_default_factory=True),
                allowed(schemas[name]),
            )


def allowed(schema: Mapping[str, Any]) -> str:
    """Say in words what a JSON schema lets through."""
    if "anyOf" in schema:
        return " or ".join(allowed(s) for s in schema["anyOf"] if s.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {allowed(schema['items'])}"
    if "const" in schema or "enum" in schema:
        *values, last = (shown(v) for v in schema.get("enum", [schema.get("const")]))
        return f"{', '.join(values)} or {last}" if values else last
    kind = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true` or `false`",
        "string": schema.get("format", "text"),
        "object": "table",
    }[schema["type"]]
    if schema.get("exclusiveMaximum") == 2**63:
        return f"{kind} of 64 bits"
    words = (
        {"exclusiveMinimum": "above", "minimum": "from"},
        {
            "exclusiveMaximum": "below",
            "maximum": "up to",
        },
    )
    bounds = [
        f"{word} {schema[bound]:g}"
        for side in words
        for bound, word in side.items()
        if bound in schema
    ]
    return f"{kind} {' and '.join(bounds)}".strip()


def shown(value: object) -> str:
    """Write a default as TOML does; a dash if there is none."""
    return "-" if value is None else f"`{json.dumps(value)}`"


def test_the_reference_lists_every_key_with_its_default_and_what_is_allowed():
    listed = [tuple(cells[:3]) for cells in rows(4) if "." in cells[0] or cells[0] in TOP]
    expected = [(f"`{key}`", shown(default), what) for key, default, what in keys(Experiment)]
    assert listed == expected


TOP = {"`name`", "`seed`", "`rounds`"}


def test_every_row_of_the_reference_says_what_it_means():
    assert all(cells[3] for cells in rows(4))
