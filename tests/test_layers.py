"""Imports inside jaxtok point up one list of layers, never in a circle, and `import jaxtok` stays cheap."""

import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.selection.imports import module_name, read_imports, resolve

ROOT = Path(__file__).parents[1]

# From the top of the design's list to its bottom: a module may import from its own layer and those before it.
LAYERS = (
    ("_lazy", "aliases", "kinds", "codes", "keys", "packing"),
    ("weights", "json_files", "config_files", "tensor_files", "param_trees"),
    ("kernels",),
    ("quantize",),
    ("nn",),
    ("lm",),
    ("data",),
    ("decoding",),
    ("tokenizers",),
    ("priors",),
    ("losses",),
    ("evaluate",),
    ("inspect",),
    ("modality",),
    ("systems",),
    ("convert",),
    ("train",),
    ("run",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


PATHS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "jaxtok").rglob("*.py"))]
FILES = {module_name(path): path for path in PATHS}


def imports(path: str, text: str, known) -> set[str]:
    return resolve(read_imports(path, text).found, known)


def misplaced(module: str, imported: set[str]) -> list[str]:
    """The imports of `module` that point down the list of layers, or out of the library."""
    if module == "jaxtok":
        return []
    own = RANK.get(module.split(".")[1], len(LAYERS))  # a module without a layer fails its own test
    wrong = []
    for name in imported:
        root, *rest = name.split(".")
        outside = root in ("experiments", "tests", "notebooks")
        facade = root == "jaxtok" and not rest  # `from jaxtok import CodeSpace` inside jaxtok
        if outside or facade or (root == "jaxtok" and RANK.get(rest[0], 0) > own):
            wrong.append(name)
    return sorted(wrong)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {
        module: imports(path, (ROOT / path).read_text(encoding="utf-8"), FILES)
        for module, path in FILES.items()
    }


def test_every_module_has_a_layer():
    names = {module.split(".")[1] for module in FILES if module != "jaxtok"}
    assert names <= set(RANK), "add the module to LAYERS, where the design's list has it"


def test_imports_point_up(graph):
    wrong = {module: bad for module, found in graph.items() if (bad := misplaced(module, found))}
    assert not wrong


def test_no_circles(graph):
    inside = {module: found & set(FILES) for module, found in graph.items()}
    graphlib.TopologicalSorter(inside).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("jaxtok.codes", "import jaxtok.train.loop", ["jaxtok.train.loop"]),
        ("jaxtok.nn.rope", "def f():\n    from jaxtok.priors import masked", ["jaxtok.priors.masked"]),
        ("jaxtok.nn.rope", "from ..data import source", ["jaxtok.data"]),
        ("jaxtok.nn.rope", "from jaxtok import CodeSpace", ["jaxtok"]),
        ("jaxtok.cli", "import experiments.image.titok", ["experiments.image.titok"]),
        ("jaxtok.priors.masked", "from jaxtok.nn.rope import rotate\nfrom jaxtok import codes", []),
    ],
)
def test_a_wrong_import_is_found(module, text, wrong):
    known = {"jaxtok", "jaxtok.codes", "jaxtok.nn.rope", "jaxtok.priors.masked"}
    assert misplaced(module, imports(f"{module.replace('.', '/')}.py", text, known)) == wrong


def test_packages_import_without_jax():
    # The functions of `kernels` have the names of their folders, and are therefore imported at once.
    packages = [
        module
        for module, path in FILES.items()
        if path.endswith("/__init__.py") and not module.startswith("jaxtok.kernels")
    ]
    code = f"import sys, {', '.join(packages)}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
