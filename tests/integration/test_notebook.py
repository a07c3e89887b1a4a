"""The notebook runs from its first cell to its last, and is stored without what it prints."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def test_it_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestWarning")
def test_it_runs_and_both_models_have_learned(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    printed = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )
    digits, ring = (
        float(line.split()[1]) for line in printed.splitlines() if line.startswith("accuracy ")
    )
    assert digits > 0.85
    assert ring > 0.85
    assert "the same " in printed
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o]
    assert [o.data.get("image/png") is not None for o in pictures] == [True, True]
    assert len(list((tmp_path / "runs").iterdir())) == 9
