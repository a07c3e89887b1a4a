"""The user's own code: finding a function by its name, and where an exception in it came from."""

import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any

from roundel.core.errors import ConfigError, RoundelError
from roundel.core.suggest import suggest

FORM = "package.module:function"


def load_function(
    name: str, key: str, also: Callable[[object], bool] | None = None
) -> Callable[..., Any]:
    """Find the function that ``package.module:function`` names.

    The module is imported, from the current directory too, as ``python -m`` does.

    Args:
        name: What the experiment says.
        key: Where it says it, such as ``"task.name"``.
        also: Tells what else than a function will do.

    Raises:
        ConfigError: The name has another form, its module cannot be imported, or has no such
            function.
    """
    path, _, attribute = name.partition(":")
    if path.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"{key} = {name!r} belongs to Python itself; name a function of your own")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise ConfigError(
            f"{key} = {name!r} is not of the form {FORM}; write it such as mypackage.birds:task"
        )
    module = _import(path, f"{key} = {name!r}")
    found = getattr(module, attribute, None)
    if found is None or not (isfunction(found) or (also is not None and also(found))):
        raise ConfigError(
            f"{key} = {name!r}: the module {path!r} has no function {attribute!r}; "
            f"{_other_functions(module, attribute)}"
        )
    if found.__module__.partition(".")[0] != path.partition(".")[0]:
        raise ConfigError(
            f"{key} = {name!r} is a {'class' if isclass(found) else 'function'} of "
            f"{found.__module__!r}, which {path!r} only imports; "
            "name it where it is defined"
        )
    function: Callable[..., Any] = found
    return function


def _import(path: str, said: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(path)
    except (Exception, SystemExit) as error:
        if _is_absent(path, error):
            reason = f"there is no module {path!r}, neither in {here} nor among installed packages"
        else:
            reason = f"importing {path!r} failed: {story(error)}"
        raise ConfigError(f"{said}: {reason}") from error


def _is_absent(path: str, error: BaseException) -> bool:
    """Tell a module that does not exist from one that imports something that does not exist."""
    return (
        isinstance(error, ModuleNotFoundError)
        and error.name is not None
        and f"{path}.".startswith(f"{error.name}.")
    )


def _other_functions(module: ModuleType, wanted: str) -> str:
    """Suggest a function that the module does define."""
    names = [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]
    return suggest(wanted, names) if names else "define it there"


@contextmanager
def user_code(what: str, kind: type[RoundelError]) -> Iterator[None]:
    """Turn whatever the user's code raises into one error that names its line.

    Args:
        what: What was being done, such as ``"loading the data of birds"``.
        kind: The error to raise; those of Roundel's own pass as they are.
    """
    try:
        yield
    except RoundelError:
        raise
    except (Exception, SystemExit) as error:
        details = own_traceback(error).rstrip()
        raise kind(f"{what} failed: {story(error)}\n\n{details}") from error


def story(error: BaseException) -> str:
    """Return the error's type, message and place, in one line."""
    return f"{one_line(error)} ({user_line(error)})"


def user_line(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame that is the user's own.

    Roundel, Python's own files and installed packages are not; if every frame is one of theirs,
    the innermost of all is named.
    """
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{error.filename}:{error.lineno}"
    places = list(_places(error))
    last = (_own(places) or places)[-1]
    return f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"


def own_traceback(error: BaseException) -> str:
    """Return the traceback from the first line that is the user's own; whole if none is."""
    places = list(_places(error))
    first = next(iter(_own(places) or places), None)
    return "".join(traceback.format_exception(type(error), error, first))


def _places(error: BaseException) -> Iterator[TracebackType]:
    """Yield where an exception passed, outermost first."""
    at = error.__traceback__
    while at is not None:
        yield at
        at = at.tb_next


def _own(places: Sequence[TracebackType]) -> list[TracebackType]:
    return [at for at in places if not _is_library(at.tb_frame)]


def one_line(error: BaseException) -> str:
    """Return the error's type and message in one line."""
    return " ".join([f"{type(error).__name__}:", *str(error).split()]).removesuffix(":")


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<frozen ") or frame.f_globals.get("__name__", "").startswith("roundel."):
        return True
    paths = sysconfig.get_paths()
    return any(Path(file).is_relative_to(paths[kind]) for kind in ("stdlib", "purelib", "platlib"))
