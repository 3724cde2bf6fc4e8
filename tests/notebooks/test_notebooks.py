"""Every notebook runs from top to bottom and shows its figures; the committed outputs are whole."""

import ast
import base64
import io
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from jaxtok import inspect

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1_500_000  # bytes; small enough for GitHub to show and for git to keep
FIGURES = (
    "importance_figure",
    "parallel_coordinates",
    "prefix_ladder",
    "reconstruction_grid",
    "sample_grid",
    "training_curves",
)
FEWEST = {"04_load_official_weights": 2, "05_plan_a_pod_run": 4, "06_sweep": 3}  # pictures; of others 5


each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows_figure(source: str) -> bool:
    """Whether a cell ends in a call of one of the library's figures."""
    body = [] if "%pip" in source else ast.parse(source).body  # only the first cell installs
    call = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in inspect.__all__
        and (call.func.id.startswith("plot_") or call.func.id in FIGURES)
    )


def pictures(cell) -> list[np.ndarray]:
    """The PNG outputs of a cell as grey levels."""
    found = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("L"), np.float32) for png in found
    ]


def check_outputs(notebook, fewest=5) -> None:
    """No errors, a picture under every cell that ends in a figure, and something in all of them."""
    for cell in code_cells(notebook):
        assert not [output for output in cell.outputs if output.output_type == "error"]
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], (
            "warnings in the output"
        )
    found = 0
    for cell in code_cells(notebook):
        shown = pictures(cell)
        found += len(shown)
        if shows_figure(cell.source):
            assert len(shown) == 1, f"one figure expected under:\n{cell.source}"
        for picture in shown:
            assert min(picture.shape) >= 100
            # A blank page has 0, curves 25, grids more than 60. Its content is for the figure's own tests.
            assert picture.std() > 20, f"an empty figure under:\n{cell.source}"
    assert found >= fewest


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.belongs_to(f"notebooks/{path.name}"), id=path.stem)
        for path in NOTEBOOKS
    ],
)
@pytest.mark.slow
def test_runs(path, tmp_path, monkeypatch):
    # A new folder, so that no earlier run is loaded, and one device, as on a reader's machine.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
        # A fifth of the training, half of the trials: enough to have something to show.
        for word, divisor in ((r"\bFit\(", 5), (r"warmup_steps=", 5), ("steps: int = ", 3), ("trials=", 2)):
            fewer = lambda found, divisor=divisor: f"{found[1]}{int(found[2]) // divisor}"
            cell.source = re.sub(rf"({word})(\d+)\b(?!_)", fewer, cell.source)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    check_outputs(notebook, FEWEST.get(path.stem, 5))


@each_notebook
def test_committed_outputs_are_whole(path):
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom before committing"
    check_outputs(notebook, FEWEST.get(path.stem, 5))


@each_notebook
def test_first_cell_installs_only_where_nothing_is_installed(path):
    source = code_cells(nbformat.read(path, as_version=4))[0].source
    before, found, after = source.partition('if importlib.util.find_spec("jaxtok") is None:')
    assert found and "pip" not in before and "REPOSITORY" in before
    assert re.search(r'^    %pip install -q "(jaxtok\[\w+\] @ )?git\+\{REPOSITORY\}"$', after, re.MULTILINE)


def test_a_blank_figure_is_found():
    white = io.BytesIO()
    Image.new("RGB", (200, 200), "white").save(white, "png")
    output = nbformat.v4.new_output(
        "display_data", {"image/png": base64.b64encode(white.getvalue()).decode()}
    )
    source = "from jaxtok.inspect import plot_codes\nplot_codes(codes)"
    cells = [nbformat.v4.new_code_cell(source, outputs=[output]) for _ in range(5)]
    with pytest.raises(AssertionError, match="an empty figure"):
        check_outputs(nbformat.v4.new_notebook(cells=cells))
    cells[0].outputs = []
    with pytest.raises(AssertionError, match="one figure expected"):
        check_outputs(nbformat.v4.new_notebook(cells=cells))
