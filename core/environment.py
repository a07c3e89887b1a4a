"""What a run ran on: everything that bits can depend on and the config does not say."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from roundel.core.runfiles import SCHEMA_VERSION
from roundel.core.status import Capabilities


def roundel_version() -> str:
    """Return the installed version, or ``"unknown"`` for a bare source tree."""
    try:
        return version("roundel")
    except PackageNotFoundError:
        return "unknown"


def describe_environment(
    run_id: str, engine: dict[str, Any], unsaid: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of ``environment.json``.

    Args:
        run_id: The run's identity.
        engine: How it was computed: mode, executor, threads, device.
        unsaid: What else a run depends on and the experiment does not say.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "roundel": roundel_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "engine": engine,
        **unsaid,
    }


def describe_computer() -> Capabilities:
    """Return what this process computes with, for people to see."""
    gpu = torch.cuda.is_available()
    return Capabilities(
        cores=os.cpu_count() or 0,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        device=torch.cuda.get_device_name() if gpu else "cpu",
        machine=platform.machine(),
        python=platform.python_version(),
        torch=torch.__version__,
    )
