"""Foreign checkpoints as data: declarative tables of names, shapes and transposes, and strict loading
through them.

A `Table` is a list of `Entry`s, each saying which tensor of an official state dict (`theirs`) becomes which
leaf of our parameter tree (`ours`) and how its axes move (`Transform`). Loading is strict, because a tensor
that is silently left at its initial value is the most expensive kind of bug; saving is the exact inverse.
The module knows arrays only (NumPy, no JAX and no PyTorch), so tables can be read, tested and printed
anywhere.

    table = Table(
        (
            Entry("head.weight", "head/kernel", dense),
            Entry("blocks.{i}.attn.q.weight", "blocks/attention/query/kernel", dense, range(12)),
        ),
        unused=(r".*num_batches_tracked",),
    )
    params, extras = load_table(table, tensors, jax.eval_shape(module.init, key, x)["params"])
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxtok.param_trees import PartialLoad, flatten, partial_load, unflatten
from jaxtok.tensor_files import read_tensors, write_tensors

__all__ = [
    "Entry",
    "FrozenNetwork",
    "PartialLoad",
    "Table",
    "Transform",
    "conv",
    "dense",
    "flatten",
    "identity",
    "load_table",
    "partial_load",
    "patch_dense",
    "read_tensors",
    "reshape",
    "save_table",
    "squeeze_leading",
    "unflatten",
    "write_tensors",
]

# ----------------------------------------------------------------------------------------------------
# Transforms
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transform:
    """An invertible re-arrangement of one tensor.

    Attributes:
        name: how error messages call it.
        forward: official layout -> our layout. Raises `ValueError` when the tensor does not have the right
            rank or shape.
        backward: our layout -> official layout, the inverse of `forward`.
    """

    name: str
    forward: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    backward: Callable[[np.ndarray], np.ndarray] = field(repr=False)

    def then(self, other: "Transform") -> "Transform":
        """The transform that applies `self` and then `other` on the way from the official layout to ours."""
        return Transform(
            f"{self.name}, {other.name}",
            lambda x: other.forward(self.forward(x)),
            lambda x: self.backward(other.backward(x)),
        )


def _require(condition: bool, name: str, wants: str, x: np.ndarray) -> None:
    if not condition:
        raise ValueError(f"{name} wants {wants}, got shape {x.shape}")


def _transpose_matrix(x: np.ndarray) -> np.ndarray:
    _require(x.ndim == 2, "dense", "a matrix", x)
    return x.T


def _conv_forward(x: np.ndarray) -> np.ndarray:
    _require(x.ndim >= 3, "conv", "[out, in, *window]", x)
    return x.transpose(*range(2, x.ndim), 1, 0)


def _conv_backward(x: np.ndarray) -> np.ndarray:
    _require(x.ndim >= 3, "conv", "[*window, in, out]", x)
    return x.transpose(x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))


identity = Transform("identity", lambda x: x, lambda x: x)

# PyTorch Linear weight [out, in] <-> Flax Dense kernel [in, out].
dense = Transform("dense", _transpose_matrix, _transpose_matrix)

# PyTorch convolution weight [out, in, *window] <-> Flax Conv kernel [*window, in, out]; 1D, 2D, 3D, grouped.
conv = Transform("conv", _conv_forward, _conv_backward)


def reshape(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Transform:
    """A fixed shape on both sides, for example heads split off a width.

    Args:
        ours: shape of the leaf of our tree (one layer of it when the entry is stacked).
        theirs: shape of the official tensor.

    Raises:
        ValueError: the two shapes hold different numbers of elements.
    """
    if math.prod(ours) != math.prod(theirs):
        raise ValueError(
            f"reshape: {theirs} and {ours} hold {math.prod(theirs)} and {math.prod(ours)} elements"
        )

    def to(shape: tuple[int, ...], source: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
        def apply(x: np.ndarray) -> np.ndarray:
            _require(x.shape == source, "reshape", f"shape {source}", x)
            return x.reshape(shape)

        return apply

    return Transform(f"reshape {theirs} to {ours}", to(ours, theirs), to(theirs, ours))


def squeeze_leading(n: int) -> Transform:
    """`n` leading axes of size one that the official tensor has and ours does not: [1, 1, D] <-> [D] for n =
    2."""
    ones = (1,) * n

    def forward(x: np.ndarray) -> np.ndarray:
        _require(x.shape[:n] == ones, f"squeeze_leading({n})", f"{n} leading axes of size 1", x)
        return x.reshape(x.shape[n:])

    return Transform(f"squeeze_leading({n})", forward, lambda x: x.reshape(ones + x.shape))


def patch_dense(patch: int, channels: int) -> Transform:
    """A patch convolution [D, C, P, P] (stride P) <-> the dense kernel [P*P*C, D] on patches flattened as
    (py, px, c)."""

    def forward(x: np.ndarray) -> np.ndarray:
        _require(
            x.shape[1:] == (channels, patch, patch), "patch_dense", f"[D, {channels}, {patch}, {patch}]", x
        )
        return x.transpose(2, 3, 1, 0).reshape(patch * patch * channels, x.shape[0])

    def backward(x: np.ndarray) -> np.ndarray:
        _require(x.ndim == 2, "patch_dense", f"[{patch * patch * channels}, D]", x)
        return x.reshape(patch, patch, channels, x.shape[1]).transpose(3, 2, 0, 1)

    return Transform(f"patch_dense({patch}, {channels})", forward, backward)


# ----------------------------------------------------------------------------------------------------
# Tables
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One tensor of the official state dict, or one per layer, and the leaf of our tree that it becomes.

    Attributes:
        theirs: official name; `{i}` stands for the layer number when `indices` is given.
        ours: path of the leaf, keys joined by "/".
        transform: how one official tensor becomes (one layer of) our leaf.
        indices: layer numbers whose tensors are stacked, in this order, along a new leading axis (scanned
            layers). Entries of one table that name the same `ours` are segments of one stack, concatenated
            in the table's order.
        part: (i, n) for the i-th of n equal parts of the official tensor along its first axis, such as the
            keys of a packed query-key-value map; a table has all n of them.
    """

    theirs: str
    ours: str
    transform: Transform = identity
    indices: range | tuple[int, ...] | None = None
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if ("{i}" in self.theirs) != (self.indices is not None):
            raise ValueError(
                f"Entry {self.theirs!r}: `indices` and {{i}} in the name go together; give both or neither"
            )
        if self.indices is not None and not len(self.indices):
            raise ValueError(f"Entry {self.theirs!r}: `indices` is empty; leave the entry out of the table")
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise ValueError(f"Entry {self.theirs!r}: part={self.part} must be (i, n) with 0 <= i < n")

    @property
    def names(self) -> tuple[str, ...]:
        """The official names, in the order of the stack."""
        if self.indices is None:
            return (self.theirs,)
        return tuple(self.theirs.replace("{i}", str(i)) for i in self.indices)

    def take(self, tensor: np.ndarray) -> np.ndarray:
        """What of an official tensor this entry is about.

        Raises:
            ValueError: it does not divide into the parts.
        """
        if self.part is None:
            return tensor
        index, parts = self.part
        _require(
            tensor.ndim > 0 and tensor.shape[0] % parts == 0,
            f"part {index} of {parts}",
            f"a first axis that divides by {parts}",
            tensor,
        )
        return np.split(tensor, parts)[index]


@dataclass(frozen=True)
class Table:
    """How an official state dict maps to a parameter tree.

    Attributes:
        entries: the tensors that the model uses; every official name (apart from parts of a tensor) and
            (apart from segments of a stack) every leaf once.
        unused: regular expressions (full match) of official tensors that the model does not use. They ride
            in extras.
    """

    entries: tuple[Entry, ...]
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts: dict[str, list[tuple[int, int]]] = {}
        for entry in self.entries:
            for name in entry.names:
                parts.setdefault(name, []).append(entry.part or (0, 1))
        twice = sorted(
            name
            for name, found in parts.items()
            if sorted(found) != [(i, found[0][1]) for i in range(found[0][1])]
        )
        plain = [
            path
            for path, group in self.leaves().items()
            if len(group) > 1 and any(e.indices is None for e in group)
        ]
        if twice or plain:
            raise ValueError(
                f"Table uses these official names twice: {twice} (or not all of their parts); produces these "
                f"leaves twice: {plain}"
            )

    def leaves(self) -> dict[str, tuple[Entry, ...]]:
        """The entries of every leaf of our tree, by its path."""
        groups: dict[str, tuple[Entry, ...]] = {}
        for entry in self.entries:
            groups[entry.ours] = (*groups.get(entry.ours, ()), entry)
        return groups


def _is_float(dtype: np.dtype) -> bool:
    # By name: NumPy does not count bfloat16 and float8 (ml_dtypes) among its floating types.
    return "float" in dtype.name


def _convert(
    entry: Entry, name: str, tensor: np.ndarray, shape: tuple[int, ...], wrong: list[str]
) -> np.ndarray | None:
    try:
        ours = entry.transform.forward(entry.take(tensor))
    except ValueError as error:
        wrong.append(f"{name} {tensor.shape} -> {entry.ours} {shape}: {error}")
        return None
    if ours.shape != shape:
        wrong.append(
            f"{name} {tensor.shape} ({entry.transform.name}) gives {ours.shape}, {entry.ours} expects {shape}"
        )
        return None
    return ours


def _raise_if_any(headline: str, problems: dict[str, list[str]], remedy: str) -> None:
    if any(problems.values()):
        lines = [f"{headline}:"]
        for kind, names in problems.items():
            lines += [f"  {kind} ({len(names)}):", *(f"    {name}" for name in names)] if names else []
        raise ValueError("\n".join([*lines, remedy]))


def load_table(
    table: Table, tensors: Mapping[str, np.ndarray], expected: Mapping[str, Any], dtype: Any = np.float32
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Builds our parameter tree from an official state dict, strictly.

    Args:
        table: the mapping.
        tensors: official name -> array.
        expected: our parameter tree, with anything that has a `.shape` as leaves (`jax.eval_shape` of `init`
            gives one).
        dtype: of the floating-point leaves; other leaves keep their own.

    Returns:
        `(params, extras)`: the tree with exactly the leaves of `expected`, and the tensors listed in
        `table.unused`.

    Raises:
        ValueError: tensors are missing, unexpected or mis-shaped, or the table and the tree disagree.
            Everything that is wrong is listed at once.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(expected).items()}
    leaves = table.leaves()
    claimed = {name for entry in table.entries for name in entry.names}
    rest = [name for name in tensors if name not in claimed]
    extras = {
        name: tensors[name] for name in rest if any(re.fullmatch(pattern, name) for pattern in table.unused)
    }
    wrong: list[str] = []
    params: dict[str, np.ndarray] = {}
    for path, entries in leaves.items():
        if path not in shapes:
            continue
        shape, stacked = shapes[path], entries[0].indices is not None
        depth = sum(len(entry.names) for entry in entries)
        if stacked and shape[:1] != (depth,):
            wrong.append(f"{entries[0].theirs} stacks {depth} layers, {path} expects {shape}")
            continue
        pieces = [
            _convert(entry, name, tensors[name], shape[1:] if stacked else shape, wrong)
            for entry in entries
            for name in entry.names
            if name in tensors
        ]
        pieces = [piece for piece in pieces if piece is not None]  # those that fit
        if len(pieces) == depth:
            kind = dtype if _is_float(pieces[0].dtype) else pieces[0].dtype
            params[path] = (
                np.stack(pieces, dtype=kind, casting="unsafe") if stacked else pieces[0].astype(kind)
            )

    _raise_if_any(
        "The checkpoint does not fit the model",
        {
            "missing tensors": list(
                dict.fromkeys(name for entry in table.entries for name in entry.names if name not in tensors)
            ),
            "unexpected tensors": [name for name in rest if name not in extras],
            "mis-shaped tensors": wrong,
            "parameters of the model that no entry produces": [path for path in shapes if path not in leaves],
            "entries for parameters that the model lacks": [path for path in leaves if path not in shapes],
        },
        "Build the model with the checkpoint's own configuration; name tensors that the model does not use "
        "in Table(unused=...); strip or add a name prefix before loading.",
    )
    return unflatten(params), extras


def save_table(
    table: Table, params: Mapping[str, Any], extras: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The inverse of `load_table`: an official state dict from our parameter tree.

    Args:
        table: the mapping.
        params: our parameter tree.
        extras: official tensors that the model does not use, written as they are.

    Raises:
        ValueError: the tree's leaves are not those of the table, a stack has another depth, or extras
            collide with a name that the table produces.
    """
    flat, leaves = flatten(params), table.leaves()
    pieces: dict[str, dict[int, np.ndarray]] = {}
    wrong: list[str] = []
    for path in flat.keys() & leaves.keys():
        leaf, entries = np.asarray(flat[path]), leaves[path]
        names = [(entry, name) for entry in entries for name in entry.names]
        stacked = entries[0].indices is not None
        if stacked and leaf.shape[:1] != (len(names),):
            wrong.append(f"{path} {leaf.shape} must stack {len(names)} layers")
            continue
        for (entry, name), piece in zip(names, leaf if stacked else [leaf], strict=True):
            index = entry.part[0] if entry.part else 0
            pieces.setdefault(name, {})[index] = entry.transform.backward(np.asarray(piece))
    produced = {
        name: np.concatenate([found[i] for i in sorted(found)])
        if len(found) > 1
        else next(iter(found.values()))
        for name, found in pieces.items()
    }
    _raise_if_any(
        "The parameters do not fit the table",
        {
            "missing parameters": [path for path in leaves if path not in flat],
            "parameters without an entry": [path for path in flat if path not in leaves],
            "stacks of another depth": wrong,
            "extras that the table also produces": [name for name in extras if name in produced],
        },
        "Save with the table that belongs to this model's configuration.",
    )
    return {**produced, **extras}


# ----------------------------------------------------------------------------------------------------
# Networks that are read and never trained
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrozenNetwork:
    """A network that a model reads and never trains; calling it loads its variables.

    Attributes:
        load: () -> variables.
        shapes: () -> their shapes, from sizes alone, so that a run can be planned without the weights.
    """

    load: Callable[[], Any]
    shapes: Callable[[], Any]

    def __call__(self) -> Any:
        return self.load()
