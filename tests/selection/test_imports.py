"""The import graph, on a small repository that is made up here."""

import json

import pytest

from tests.selection.imports import ImportGraph

FILES = {
    "jaxtok/__init__.py": "if TYPE_CHECKING:\n    from jaxtok.priors import Raster",
    "jaxtok/codes.py": "",
    "jaxtok/nn/__init__.py": "",
    "jaxtok/nn/rope.py": "from ..codes import CodeSpace",
    "jaxtok/nn/transformer.py": "def f():\n    from jaxtok.nn import rope",
    "jaxtok/priors/__init__.py": "if TYPE_CHECKING:\n"
    "    from jaxtok.priors.masked import Masked\n    from jaxtok.priors.raster import Raster",
    "jaxtok/priors/masked.py": "import jaxtok.nn.transformer as t",
    "jaxtok/priors/raster.py": "",
    "jaxtok/kernels/__init__.py": "",
    "jaxtok/kernels/find/__init__.py": "",
    "jaxtok/kernels/find/api.py": "FOLDER = 'jaxtok.kernels.find'",
    "jaxtok/kernels/find/tpu.py": "",
    "jaxtok/systems/__init__.py": "",
    "jaxtok/systems/registry.py": "NAMES = {'var': 'jaxtok.systems.image.var:VAR'}",
    "jaxtok/systems/image/__init__.py": "",
    "jaxtok/systems/image/var.py": "WEIGHTS = 'digits.safetensors'",
    "jaxtok/systems/image/digits.safetensors": "",
    "experiments/image/var.py": "from jaxtok.systems.image.var import VAR",
    "experiments/image/var.claims.json": "",
    "notebooks/01.ipynb": json.dumps(
        {"cells": [{"cell_type": "code", "source": ["%pip install x\n", "import jaxtok.codes"]}]}
    ),
    "tests/conftest.py": "def small_run():\n    import experiments.image.var",
    "tests/test_var.py": "from jaxtok.systems import registry\nregistry.system_class('var')",
    "tests/test_masked.py": "from jaxtok.priors import Masked",
    "tests/test_all.py": "import importlib\nimportlib.import_module(f'experiments.image.{name}')",
    "tests/test_notebooks.py": "ROOT / 'notebooks'",
    "tests/test_find.py": "from jaxtok.kernels.find.api import find",
    "tests/test_lazy.py": "import jaxtok\njaxtok.Raster(Path('.'))",
    "README.md": "",
}
SYSTEMS = {"var": "jaxtok/systems/image/var.py"}


@pytest.fixture(scope="module")
def graph():
    return ImportGraph(FILES, SYSTEMS)


@pytest.mark.parametrize(
    ("root", "needed"),
    [
        ("jaxtok/nn/transformer.py", ["jaxtok/nn/rope.py", "jaxtok/codes.py", "jaxtok/nn/__init__.py"]),
        ("tests/test_masked.py", ["jaxtok/priors/masked.py", "jaxtok/codes.py"]),
        ("tests/test_find.py", ["jaxtok/kernels/find/tpu.py"]),
        ("tests/test_lazy.py", ["jaxtok/priors/raster.py"]),
        ("tests/test_var.py", ["jaxtok/systems/image/var.py", "jaxtok/systems/image/digits.safetensors"]),
        ("tests/test_all.py", ["experiments/image/var.claims.json", "jaxtok/systems/image/var.py"]),
        ("tests/test_notebooks.py", ["notebooks/01.ipynb", "jaxtok/codes.py"]),
        ("tests/conftest.py::small_run", ["experiments/image/var.py", "jaxtok/systems/image/var.py"]),
    ],
)
def test_what_a_file_needs(graph, root, needed):
    assert set(needed) < graph.needs({root})


@pytest.mark.parametrize(
    ("root", "other"),
    [
        ("tests/test_masked.py", "jaxtok/priors/raster.py"),  # another lazy name of the same package
        ("jaxtok/systems/registry.py", "jaxtok/systems/image/var.py"),  # named by who asks
        ("tests/conftest.py", "experiments/image/var.py"),  # only tests that ask for the fixture
        ("jaxtok/nn/rope.py", "jaxtok/nn/transformer.py"),
        ("tests/test_lazy.py", "jaxtok/priors/masked.py"),  # another name of the package
        ("tests/test_lazy.py", "README.md"),  # "." names no file
    ],
)
def test_what_a_file_does_not_need(graph, root, other):
    assert other not in graph.needs({root})


def test_strings_of_the_roots_count_only_if_asked(graph):
    assert "experiments/image/var.py" not in graph.needs({"tests/test_all.py"}, mentioned=False)


def test_the_files_of_a_name(graph):
    assert graph.files_of("jaxtok.kernels.find") == {
        f"jaxtok/kernels/find/{name}.py" for name in ("__init__", "api", "tpu")
    }
    assert graph.files_of("jaxtok.nn.rope") == {"jaxtok/nn/rope.py"}
    assert graph.files_of("notebooks/01.ipynb") == {"notebooks/01.ipynb"}
    assert not graph.files_of("jaxtok.nn.rop")
