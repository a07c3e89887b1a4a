"""Whether two copies of a Flower app are the same, on the machines of a federation."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from roundel.core.fingerprint import MAX_BYTES, Fingerprint, hashed
from roundel.simulations.flowerapps.project import Project

_ENVIRONMENT = "pyvenv.cfg"


def app_fingerprint(project: Project, flower: str | None) -> str:
    """Return the text of an app's fingerprint, as this side has it.

    Args:
        project: The app.
        flower: The release of Flower that is installed.
    """
    parts = {
        "flwr": flower or "none",
        "serverapp": project.server,
        "clientapp": project.client,
    }
    files = {str(file): _hash(project.root / file) for file in sorted(_files(project.root))}
    whole = _fingerprint(project, {**parts, **files})
    if len(whole) <= MAX_BYTES:
        return whole
    return _fingerprint(project, {**parts, f"one of {len(files)} files": hashed(files)})


def _fingerprint(project: Project, code: dict[str, str]) -> str:
    task = f"the Flower app {project.name!r}" if project.named else "a Flower app without a name"
    return Fingerprint(task=task, knobs={}, code=code, layout="").text()


def _hash(file: Path) -> str:
    return f"hash {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"


def _files(root: Path, below: Path = Path()) -> Iterator[Path]:
    """Yield the modules of an app, but for those of an environment that lies among them."""
    for path in (root / below).iterdir():
        place = below / path.name
        if path.is_file() and path.suffix == ".py":
            yield place
        elif path.is_dir() and not _is_passed_over(path):
            yield from _files(root, place)


def _is_passed_over(directory: Path) -> bool:
    hidden = directory.is_symlink() or directory.name.startswith((".", "__"))
    return hidden or (directory / _ENVIRONMENT).exists()
