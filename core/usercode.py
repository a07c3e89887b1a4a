"""Where in the user's own code an exception came from."""

import sysconfig
from pathlib import Path
from traceback import walk_tb
from types import FrameType


def user_line(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame that is the user's own.

    Roundel, Python's own files and installed packages are not; if every frame is one of theirs,
    the innermost of all is named.
    """
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{error.filename}:{error.lineno}"
    frames = list(walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in frames if not _is_library(frame)]
    frame, line = (own or frames)[-1]
    return f"{frame.f_code.co_filename}:{line}"


def one_line(error: BaseException) -> str:
    """Return the error's type and message in one line."""
    return " ".join([f"{type(error).__name__}:", *str(error).split()]).removesuffix(":")


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<frozen ") or frame.f_globals.get("__name__", "").startswith("roundel."):
        return True
    paths = sysconfig.get_paths()
    return any(Path(file).is_relative_to(paths[kind]) for kind in ("stdlib", "purelib", "platlib"))
