"""Tables of what the source files say: systems, presets, flags of verbs, kernels. Nothing is imported."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from experiments.tables.markdown import link, markdown_table

# "TiTok: an image as 32 tokens of a ViT, ... (arXiv 2406.07550)."
_FIRST = re.compile(r"(?P<name>[^:]+): (?P<what>.+) \(arXiv (?P<paper>\d{4}\.\d{4,5})\)\.")
# Stages that train no prior that a system is about: tokenizers, and baselines of independent codes.
_NO_PRIOR = re.compile(r"tokenizer|teacher|proxy|independent.*")
# Where the flags of a verb are: the fields of a dataclass of that name.
_VERBS = {
    "train": "Run", "evaluate": "Evaluate", "sample": "Sample", "encode": "Encode", "decode": "Decode",
    "verify": "Verify", "plan": "Plan", "sweep": "Sweep",
}  # fmt: skip


def experiments(root: Path) -> list[Path]:
    """The files that have presets; benchmarks have none."""
    files = sorted((root / "experiments").glob("*/*.py"))
    return [path for path in files if "\nPRESETS = " in path.read_text(encoding="utf-8")]


def _counts(root: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Experiment -> preset -> stage -> trained parameters."""
    return json.loads((root / "tests/experiments/parameter_counts.json").read_text(encoding="utf-8"))


# -- systems and presets --


def systems(root: Path, folder: Path) -> str:
    """A table per modality: what the first sentence of each experiment says, and its priors."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for path in experiments(root):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found = _FIRST.fullmatch(" ".join(doc.partition("\n\n")[0].split()))
        if found is None:
            continue  # an analysis of no single paper
        stages = [stage for preset in _counts(root).get(path.stem, {}).values() for stage in preset]
        priors = [stage for stage in dict.fromkeys(stages) if not _NO_PRIOR.fullmatch(stage)]
        row = (
            link(path, folder, found["name"]),
            f"[{found['paper']}](https://arxiv.org/abs/{found['paper']})",
            found["what"],
            ", ".join(prior.replace("_", " ") for prior in priors) or "-",
        )
        groups.setdefault(path.parent.name, []).append(row)
    header = ("system", "paper", "latents and how they are modelled", "priors")
    tables = [f"**{group.capitalize()}**\n\n{markdown_table(header, rows)}" for group, rows in groups.items()]
    return "\n\n".join(tables)


def presets(root: Path, folder: Path) -> str:
    """Trained parameters of every stage of every preset."""
    counts, rows = _counts(root), []
    for path in experiments(root):
        for preset, stages in counts.get(path.stem, {}).items():
            first = preset == next(iter(counts[path.stem]))
            trained = ", ".join(f"{stage} {_short(number)}" for stage, number in stages.items())
            rows.append((link(path, folder) if first else "", f"`{preset}`", trained))
    return markdown_table(("experiment", "preset", "stages and their trained parameters"), rows)


def _short(number: int) -> str:
    return (
        f"{number / 1e6:,.0f} M"
        if number >= 1e7
        else f"{number / 1e6:.1f} M"
        if number >= 1e6
        else f"{number:,}"
    )


# -- flags of verbs --


def flags(root: Path, folder: Path) -> str:
    """The flags of every verb, beside those of the configuration.

    Raises:
      ValueError: a flag without a line in the docstring of its dataclass.
    """
    del folder
    classes = {
        node.name: node
        for part in ("train", "run")
        for path in sorted((root / "jaxtok" / part).rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    parts = []
    for verb, name in _VERBS.items():
        rows = list(_flags(classes[name], classes, "--"))
        table = markdown_table(("flag", "default", "what"), rows)
        parts.append(f"<details><summary>{verb}</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts)


def _flags(node: ast.ClassDef, classes: dict[str, ast.ClassDef], prefix: str) -> Iterator[tuple[str, ...]]:
    told = _attributes(ast.get_docstring(node) or "")
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name, kind = field.target.id, ast.unparse(field.annotation)
        flag = prefix + name.replace("_", "-")
        if kind in classes:
            yield from _flags(classes[kind], classes, f"{flag}.")
            continue
        if name not in told:
            raise ValueError(f"{node.name} has no line about {name!r} in its docstring; add one")
        yield f"`{flag}`", _default(field.value), _with_choices(told[name], field.annotation)


def _attributes(doc: str) -> dict[str, str]:
    """Name -> description, of the part "Attributes:" of a docstring."""
    lines = doc.partition("Attributes:\n")[2].splitlines()
    joined = re.sub(r"\n {3,}", " ", "\n".join(lines))
    return dict(re.findall(r"^ *(\w+): (.*)$", joined, flags=re.MULTILINE))


def _default(value: ast.expr | None) -> str:
    default = None if value is None else ast.literal_eval(value)
    if default is None or default == "" or default == ():
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return f"`{' '.join(map(str, default))}`"
    return (
        f"`{default:,}`".replace(",", "_")
        if isinstance(default, int) and default >= 10_000
        else f"`{default}`"
    )


def _with_choices(text: str, annotation: ast.expr) -> str:
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "Literal":
        return text
    return f"{text} ({', '.join(str(choice) for choice in ast.literal_eval(annotation.slice))})"


# -- kernels --


def kernels(root: Path, folder: Path) -> str:
    """The operations, with the implementations that each has."""
    implementations = {"reference.py": "XLA", "tpu.py": "Pallas for TPUs", "gpu.py": "Pallas for GPUs"}
    rows = []
    for init in sorted((root / "jaxtok" / "kernels").glob("*/__init__.py")):
        own = init.parent
        what = (ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or "").strip()
        there = [
            link(own / file, folder, name) for file, name in implementations.items() if (own / file).exists()
        ]
        rows.append((link(own / "api.py", folder, f"`{own.name}`"), what, ", ".join(there)))
    return markdown_table(("operation", "what it computes", "implementations"), rows)
