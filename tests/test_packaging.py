"""What gets installed: `roundel`, all of it, and nothing beside it."""

import ast
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["setuptools"]["packages"]
FOLDERS = sorted({package.split(".")[1] for package in PACKAGES})


def sources() -> Iterator[Path]:
    """All modules, relative to the root of the project."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            yield path.relative_to(ROOT)


def run_python(*arguments: str, cwd: Path) -> str:
    """What an isolated interpreter, which does not see its working directory, prints."""
    command = [sys.executable, "-I", *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what a build reads, so that no build writes into this one."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    return copy


def build_wheel(source: Path, out: Path) -> zipfile.ZipFile:
    build = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run_python("-m", "pip", "wheel", *build, "--wheel-dir", str(out), str(source), cwd=out)
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Iterator[zipfile.ZipFile]:
    with build_wheel(checkout, tmp_path_factory.mktemp("wheel")) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    program = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    run_python("-c", program, str(out), cwd=checkout)
    (archive,) = out.glob("*.tar.gz")
    return archive


def test_pyproject_lists_exactly_the_packages_on_disk():
    assert sorted(PACKAGES) == sorted(
        {".".join(("roundel", *path.parent.parts)) for path in sources()}
    )


def test_every_folder_is_mapped_to_the_package_of_its_name():
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == {
        f"roundel.{folder}": folder for folder in FOLDERS
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_says_what_it_is(package):
    folder = ROOT.joinpath(*package.split(".")[1:])
    assert (folder / "py.typed").exists()
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


def test_links_show_type_checkers_every_folder_under_its_package_name():
    links = {link.name: link.readlink() for link in (ROOT / ".links" / "roundel").iterdir()}
    assert links == {folder: Path("../..") / folder for folder in FOLDERS}


def test_pyright_checks_every_folder_through_its_link():
    config = json.loads((ROOT / ".links" / "pyrightconfig.json").read_text())
    assert config["include"] == [*(f"roundel/{folder}" for folder in FOLDERS), "../tests"]


def test_the_wheel_holds_every_file_of_every_package_and_nothing_else(wheel, checkout):
    expected = {
        f"roundel/{path.relative_to(checkout).as_posix()}"
        for folder in FOLDERS
        for path in (checkout / folder).rglob("*")
        if path.is_file()
    }
    installed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert installed == expected


def test_the_wheel_carries_the_licence(wheel):
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_a_wheel_built_from_the_sdist_holds_the_same_files(wheel, sdist, tmp_path):
    with build_wheel(sdist, tmp_path) as from_sdist:
        assert sorted(from_sdist.namelist()) == sorted(wheel.namelist())


def test_an_install_adds_one_name_to_site_packages(wheel, tmp_path):
    install = ("--no-deps", "--no-index", "--quiet", "--target", str(tmp_path))
    run_python("-m", "pip", "install", *install, wheel.filename, cwd=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"roundel", f"roundel-{PYPROJECT['project']['version']}.dist-info", "bin"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_cannot_be_imported_by_its_bare_name(folder, tmp_path):
    program = f"import importlib.util as util; print(util.find_spec({folder!r}))"
    assert run_python("-c", program, cwd=tmp_path) == "None\n"


def test_the_version_is_that_of_the_installed_distribution():
    assert importlib.metadata.version("roundel") == PYPROJECT["project"]["version"]


def test_importing_the_packages_imports_neither_flower_nor_grpc(tmp_path):
    imports = "".join(f"import {name}\n" for name in PACKAGES if name != "roundel.core.wire")
    program = f"{imports}import sys; print({{'flwr', 'grpc'}} & set(sys.modules))"
    assert run_python("-c", program, cwd=tmp_path) == "set()\n"


def test_importing_the_wire_does_not_import_flower(tmp_path):
    program = "import roundel.core.wire, sys; print('flwr' in sys.modules)"
    assert run_python("-c", program, cwd=tmp_path) == "False\n"


def imported_by(path: Path) -> Iterator[str]:
    """The top-level names that a module imports, wherever in its body."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def test_no_module_imports_a_library_that_can_unpickle():
    banned = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
    assert [str(path) for path in sources() if banned.intersection(imported_by(path))] == []


def test_the_generated_grpc_code_is_current(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools comes with the dev extra")
    wire = ROOT / "core" / "wire"
    protos = [str(path.relative_to(ROOT)) for path in wire.glob("*.proto")]
    if protos:
        outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
        roots = "-Iroundel/core/wire=core/wire"
        run_python("-m", "grpc_tools.protoc", roots, *outs, *protos, cwd=ROOT)
    generated = {path.name: path.read_text() for path in tmp_path.rglob("*_pb2*")}
    committed = {path.name: path.read_text() for path in wire.glob("*_pb2*")}
    assert committed == generated, "run `make proto`"
