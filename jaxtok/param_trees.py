"""Parameter trees as paths: flatten, unflatten, and taking over what fits from another model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries -> {"a/b/c": leaf}. Empty dictionaries have no leaves and vanish.

    Raises:
        ValueError: a key is not a string or contains "/".
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or "/" in key:
            raise ValueError(f'parameter keys must be strings without "/", got {key!r}')
        if isinstance(value, Mapping):
            flat |= {f"{key}/{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`.

    Raises:
        ValueError: a path is both a leaf and a dictionary.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path!r} goes through {key!r}, which is a leaf; rename one of them")
        if last in node:
            raise ValueError(f"{path!r} is both a leaf and a dictionary; rename one of them")
        node[last] = leaf
    return tree


def merge_collections(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Flax variables as one tree: the parameters as they are, and the leaves of every other collection under
    a first key "collection:key", such as "quantizer:codebook".
    """
    others = {
        f"{name}:{key}": value
        for name, tree in variables.items()
        if name != "params"
        for key, value in tree.items()
    }
    return {**variables.get("params", {}), **others}


def split_collections(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `merge_collections`; "params" is always there."""
    variables: dict[str, Any] = {"params": {}}
    for key, value in tree.items():
        name, _, own = key.rpartition(":")
        variables.setdefault(name or "params", {})[own] = value
    return variables


@dataclass(frozen=True)
class PartialLoad:
    """What `partial_load` did, by path; `str()` prints it.

    Attributes:
        loaded: leaves taken from the candidate.
        skipped: (path, our shape, the candidate's shape) of leaves that keep our value because the shapes
            differ.
        missing: leaves that keep our value because the candidate lacks them.
        unused: leaves of the candidate that our tree lacks.
    """

    loaded: tuple[str, ...]
    skipped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        skipped = tuple(f"{path}: ours {ours}, candidate {theirs}" for path, ours, theirs in self.skipped)
        lines = []
        for kind in ("loaded", "skipped", "missing", "unused"):
            paths = skipped if kind == "skipped" else getattr(self, kind)
            lines += [f"{kind} ({len(paths)})", *(f"  {path}" for path in paths)]
        return "\n".join(lines)


def partial_load(
    params: Mapping[str, Any], candidate: Mapping[str, Any]
) -> tuple[dict[str, Any], PartialLoad]:
    """Takes every leaf of `candidate` whose path and shape are those of a leaf of `params`, for fine-tuning.

    Args:
        params: freshly initialised parameters.
        candidate: parameters of another model. Leaves are cast to the dtype of the leaf that they replace.

    Returns:
        The new tree (same paths, shapes and dtypes as `params`) and the full account of what was and was not
        taken.

    Raises:
        ValueError: no leaf matches.
    """
    ours, theirs = flatten(params), flatten(candidate)
    common = {path: np.shape(theirs[path]) for path in ours if path in theirs}
    loaded = tuple(path for path, shape in common.items() if shape == np.shape(ours[path]))
    report = PartialLoad(
        loaded=loaded,
        skipped=tuple(
            (p, np.shape(ours[p]), shape) for p, shape in common.items() if shape != np.shape(ours[p])
        ),
        missing=tuple(path for path in ours if path not in theirs),
        unused=tuple(path for path in theirs if path not in ours),
    )
    if not loaded:
        raise ValueError(
            f"no parameter has the same path and shape in both trees; is it the same kind of model?\n{report}"
        )
    taken = {path: np.asarray(theirs[path]).astype(ours[path].dtype) for path in loaded}
    return unflatten({**ours, **taken}), report
