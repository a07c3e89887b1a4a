"""An image of Roundel as it is in this checkout."""

import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import Network, docker, has_image, network, why_not

ROOT = Path(__file__).parents[2]
PYTHON = (3, 11)
BASE = os.environ.get("ROUNDEL_BASE_IMAGE", "python:3.11-slim-bookworm")
"""On a machine that has no registry of images to ask, the name of one that it has."""


def _what_an_image_is_made_of() -> Iterator[Path]:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for folder in (*setuptools["package-dir"].values(), "deploy"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix != ".pyc")
    yield from (ROOT / name for name in ("pyproject.toml", "constraints.txt", "README.md"))


def _fingerprint() -> str:
    digest = hashlib.sha256(BASE.encode())
    for path in sorted(path for path in _what_an_image_is_made_of() if path.is_file()):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the image, built unless there is one of the very same files."""
    if why := why_not():
        pytest.skip(why)
    if sys.version_info[:2] != PYTHON:
        pytest.skip("an image has Python 3.11, and wheels are collected by the one that runs tests")
    if not has_image(BASE):
        pytest.skip(f"there is no image {BASE}; pull it, or name another by ROUNDEL_BASE_IMAGE")
    tag = f"roundel:test-{_fingerprint()}"
    if not has_image(tag):
        old = docker("images", "--quiet", "--filter", "reference=roundel:test-*").split()
        environment = os.environ | {"PYTHON": sys.executable}
        collected = subprocess.run(
            [ROOT / "deploy" / "wheels.sh"],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert collected.returncode == 0, collected.stderr
        docker("build", "--build-arg", f"BASE={BASE}", "--file", str(ROOT / "deploy/Dockerfile"),
               "--tag", tag, str(ROOT))  # fmt: skip
        for earlier in old:
            docker("image", "rm", "--force", earlier)
    return tag


@pytest.fixture
def containers(image: str) -> Iterator[Network]:
    """A network for the containers of one test."""
    with network(image) as made:
        yield made
