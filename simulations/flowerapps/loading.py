"""Import the parts of a Flower app, and say what is wrong with one that cannot be."""

import ast
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import Any

from roundel.core.usercode import own_traceback, story
from roundel.simulations.flowerapps.project import AppError, Project


@dataclass(frozen=True, kw_only=True)
class Apps:
    """A Flower app that was loaded.

    Attributes:
        server: Its ServerApp; None if that was not asked for.
        client: Its ClientApp; likewise.
    """

    server: Any
    client: Any


@contextmanager
def loaded(project: Project, kinds: Mapping[str, type]) -> Iterator[Apps]:
    """Import an app; its modules are forgotten afterwards, as if in a process of their own.

    Args:
        project: The app.
        kinds: What its parts are to be, by their keys; the others are not imported.

    Raises:
        AppError: A part is missing, is something else, or raises when it is imported.
    """
    before = dict(sys.modules)
    sys.path.insert(0, str(project.root))
    invalidate_caches()  # the files may be newer than what was looked at before
    try:
        named = {"serverapp": project.server, "clientapp": project.client}
        parts = {key: _component(named[key], key, kind) for key, kind in kinds.items()}
        yield Apps(server=parts.get("serverapp"), client=parts.get("clientapp"))
    finally:
        sys.path.remove(str(project.root))
        for name, module in dict(sys.modules).items():  # at once, whoever imports meanwhile
            if name not in before and _lies_in(module, project.root):
                sys.modules.pop(name, None)


def _component(reference: str, key: str, kind: type) -> object:
    path, _, attributes = reference.partition(":")
    said = f"{key} = {reference!r}"
    try:
        module = import_module(path)
    except (Exception, SystemExit) as error:
        details = own_traceback(error).rstrip()
        raise AppError(f"{said}: importing {path} failed: {story(error)}\n\n{details}") from error
    found: Any = module
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise AppError(
                f"{said}: {module.__file__} has no {attributes!r}; define it there as a "
                f"{kind.__name__}"
            )
        found = getattr(found, attribute)
    if not isinstance(found, kind):
        raise AppError(
            f"{said} is a {type(found).__name__} and not a {kind.__name__} "
            f"({_place(module, attributes)}); name the {kind.__name__}"
        )
    return found


def _place(module: ModuleType, attributes: str) -> str:
    """Return ``file:line`` of where a module defines a name."""
    file = module.__file__ or ""
    name = attributes.partition(".")[0]
    for statement in ast.parse(Path(file).read_bytes()).body:
        if name in {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)} or (
            getattr(statement, "name", None) == name
        ):
            return f"{file}:{statement.lineno}"
    return file


def _lies_in(module: ModuleType, root: Path) -> bool:
    """Tell whether a module is of an app; a package without an ``__init__.py`` has no file."""
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", ()))
    return any(Path(place).is_relative_to(root) for place in places)
