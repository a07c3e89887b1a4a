"""What every test starts from, and what is said at the end."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Runs make what they write durable, which takes milliseconds on a disk and none in memory.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 4 * 1024**3:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# What programs keep for their user, they keep here, also those that tests start.
_KEPT = tempfile.TemporaryDirectory(prefix="roundel-tests-")
os.environ["XDG_STATE_HOME"] = os.environ["XDG_DATA_HOME"] = _KEPT.name

# One thread, so that the bits of a result do not depend on the number of cores.
torch.set_num_threads(1)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty current directory, whose modules are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (vars(module).get("__file__") or "").startswith(f"{tmp_path}/"):
            del sys.modules[name]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List which oracle cases were reproduced, which were not, and which are not known."""
    for outcome, said in (("passed", "reproduced"), ("failed", "FAILED"), ("skipped", "unknown")):
        reports = terminalreporter.getreports(outcome)
        names = [dict(report.user_properties).get("oracle case") for report in reports]
        if ids := [str(name) for name in names if name]:
            terminalreporter.write_line(f"oracle cases {said} ({len(ids)}): {', '.join(ids)}")
