"""Who imports whom in this repository, read from the files without running them."""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath


def module_name(path: str) -> str:
    """`jaxtok/nn/rope.py` -> `jaxtok.nn.rope`, `jaxtok/nn/__init__.py` -> `jaxtok.nn`."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Imports(ast.NodeVisitor):
    """Modules that are imported anywhere in a file, inside functions too.

    Attributes:
      found: `(module, name)` of each import; the name is empty for `import module`.
      lazy: what an `__init__` imports for type checkers only: name -> module that defines it.
      aliases: what `import module` and `import module as alias` call modules: name -> module.
      attributes: `(name, attribute)` of expressions such as `jaxtok.load`.
      strings: constants of the file, and the beginnings of its f-strings.
    """

    def __init__(self, package: str, is_package: bool):
        self.package, self.is_package = package, is_package
        self.found: set[tuple[str, str]] = set()
        self.lazy: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.attributes: set[tuple[str, str]] = set()
        self.strings: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        # An `__init__` repeats its lazy names under TYPE_CHECKING for type checkers: nothing runs there.
        if self.is_package and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.body:
                if isinstance(statement, ast.ImportFrom):
                    self.lazy |= {
                        alias.asname or alias.name: self._source(statement) for alias in statement.names
                    }
            return
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {(alias.name, "") for alias in node.names}
        self.aliases |= {alias.asname or alias.name: alias.name for alias in node.names}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name):
            self.attributes.add((node.value.id, node.attr))
        self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.found |= {(self._source(node), alias.name) for alias in node.names}

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.strings.add(node.value)

    def _source(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        base = ".".join(self.package.split(".")[: -(node.level - 1) or None])
        return f"{base}.{node.module}" if node.module else base


def read_imports(path: str, text: str) -> _Imports:
    """The imports of one Python file, or of the code cells of a notebook."""
    module, is_package = module_name(path), PurePosixPath(path).name == "__init__.py"
    visitor = _Imports(module if is_package else module.rpartition(".")[0], is_package)
    if path.endswith(".ipynb"):
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        lines = "".join("".join(cell) + "\n" for cell in cells).splitlines()
        text = "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines)  # not Python
    tree = ast.parse(text)
    if (
        PurePosixPath(path).name == "conftest.py"
    ):  # its functions are fixtures, and only some tests ask for one
        tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    visitor.visit(tree)
    return visitor


def _functions(path: str, text: str) -> dict[str, _Imports]:
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = _Imports(module_name(path).rpartition(".")[0], False)
            found[node.name].visit(node)
    return found


def resolve(found: Iterable[tuple[str, str]], known: Iterable[str]) -> set[str]:
    """The modules that imports name: `from package import module` is the module where there is one."""
    known = set(known)
    return {f"{source}.{name}" if f"{source}.{name}" in known else source for source, name in found if source}


class ImportGraph:
    """What each file of the repository needs, directly and through others.

    A file needs what it imports, and the packages around that. `from package import Name` needs the module
    that defines a lazy name. A dotted name in a string (`"jaxtok.kernels.lookup"`, also as the beginning of
    an f-string) needs that module, or all files of that package; the name of a file of data, or of its
    folder, that data. A fixture of a conftest is a node of its own, `tests/conftest.py::small_run`.

    Args:
      texts: the repository's files by path, "/" between folders; only Python and notebooks are read.
      systems: what systems are called -> their file; a test or an experiment that has the name in a string
        needs the file. Strings of the library may list all of them and do not count.

    Attributes:
      imports, mentions: what each file needs directly, by its imports and by its strings.
    """

    def __init__(self, texts: Mapping[str, str], systems: Mapping[str, str] | None = None):
        self._modules = {module_name(path): path for path in texts if path.endswith(".py")}
        self._read = {
            path: read_imports(path, text) for path, text in texts.items() if path.endswith((".py", ".ipynb"))
        }
        self._systems = systems or {}
        self._data: dict[str, set[str]] = {}
        for path in texts:
            if not path.endswith(".py"):
                here = PurePosixPath(path)
                folder = (str(here.parent),) if len(here.parts) > 1 else ()
                for name in (path, here.name, *folder):
                    self._data.setdefault(name, set()).add(path)
        self._paths = set(texts)
        self._folders = {str(PurePosixPath(path).parent) for path in texts}
        self._read |= {
            f"{path}::{name}": read
            for path, text in texts.items()
            if PurePosixPath(path).name == "conftest.py"
            for name, read in _functions(path, text).items()
        }
        self.imports = {path: self._direct(read) for path, read in self._read.items()}
        self.mentions = {path: self._mentioned(path, read.strings) for path, read in self._read.items()}
        for path in texts:  # what was measured stands beside what measured it: titok.py, titok.claims.json
            owner = str(PurePosixPath(path).with_name(PurePosixPath(path).name.split(".")[0] + ".py"))
            if path != owner and owner in self.mentions:
                self.mentions[owner].add(path)

    def _direct(self, read: _Imports) -> set[str]:
        needed = set()
        used = {
            (read.aliases[name], attribute) for name, attribute in read.attributes if name in read.aliases
        }
        for source, name in read.found | used:
            module = f"{source}.{name}" if f"{source}.{name}" in self._modules else source
            if module not in self._modules:
                continue
            needed |= self._with_packages(module)
            init = self._read[self._modules[module]]
            if module == source and name in init.lazy:
                needed |= self._with_packages(self._defining(init.lazy[name], name))
        return needed

    def _defining(self, module: str, name: str) -> str:
        """Follows a lazy name through packages that pass it on."""
        lazy = self._read[self._modules[module]].lazy if module in self._modules else {}
        return self._defining(lazy[name], name) if name in lazy else module

    def _with_packages(self, module: str) -> set[str]:
        parts = module.split(".")
        names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        return {self._modules[name] for name in names if name in self._modules}

    def _mentioned(self, path: str, strings: set[str]) -> set[str]:
        needed = set()
        for string in strings:
            name = string.partition(":")[0].removesuffix(".")
            if string in self._systems and not path.startswith("jaxtok/"):
                needed.add(self._systems[string])
            if path.startswith("jaxtok/") and self._modules.get(name) in self._systems.values():
                continue
            if "." in name and (name in self._modules or name.replace(".", "/") in self._folders):
                needed |= self._with_packages(name) | self.files_of(name)
            needed |= self._data.get(string, set())
        return needed

    def files_of(self, name: str) -> set[str]:
        """The files of a module or package (dotted), or of a path."""
        folder = name if "/" in name else name.replace(".", "/")
        return {
            path for path in self._paths if path in (folder, f"{folder}.py") or path.startswith(f"{folder}/")
        }

    def needs(self, roots: Iterable[str], *, mentioned: bool = True) -> set[str]:
        """Every file that `roots` need, themselves included.

        Args:
          roots: paths.
          mentioned: whether what the roots themselves only name in strings counts; of the files that they
            import it always does.
        """
        roots = set(roots)
        seen, queue = set(roots), list(roots)
        while queue:
            path = queue.pop()
            direct = self.imports.get(path, set())
            if mentioned or path not in roots:
                direct = direct | self.mentions.get(path, set())
            new = direct - seen
            seen |= new
            queue += new
        return seen
