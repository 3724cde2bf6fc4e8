"""Where every array of a run lives: the mesh, path rules for the state, and global batches.

Parallelism is `jax.jit` with shardings: `data` splits the batch, `fsdp` splits the batch and the parameters,
`tensor` splits the width of layers. One table of path rules per system says how; a leaf that no rule names is
split over `fsdp` when it is large.
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtok.train.tree_paths import leaves_by_path, map_with_path

log = logging.getLogger(__name__)

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
LARGE = 2**16  # elements; splitting a smaller leaf costs more in messages than it saves in memory


@dataclass(frozen=True)
class MeshShape:
    """How the devices are arranged. -1 (on at most one axis) takes all devices that the others leave.

    Attributes:
      data: Groups of devices with a different part of the batch and a full copy of the parameters.
      fsdp: Devices with a different part of the batch that share one copy of the parameters.
      tensor: Devices that share the same part of the batch and split the width of the layers.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """The three sizes for a number of devices.

        Raises:
          ValueError: They do not multiply to that number.
        """
        sizes = [self.data, self.fsdp, self.tensor]
        shown = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes))
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(f"mesh {shown}: sizes are 1 or more, and -1 (the rest) on at most one axis.")
        if -1 in sizes:
            fixed = -math.prod(sizes)
            sizes = [devices // fixed if size == -1 else size for size in sizes]
        if math.prod(sizes) != devices:
            raise ValueError(
                f"mesh {shown} does not fit {devices} devices: the sizes must multiply to {devices}. "
                "Change them, or give -1 to one axis for what is left."
            )
        data, fsdp, tensor = sizes
        return data, fsdp, tensor


def make_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh with axes `("data", "fsdp", "tensor")` over the given devices (default: all of the run).

    Raises:
      ValueError: The shape does not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    # Since JAX 0.9 the default is Explicit; here the compiler propagates what rules and `constrain` say.
    return jax.make_mesh(
        shape.sizes(len(devices)), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


@dataclass(frozen=True)
class Rule:
    """How the leaves whose path ends with `pattern` are split.

    Attributes:
      pattern: Regular expression for whole trailing segments: `mlp/up/kernel` fits
        `params/blocks/mlp/up/kernel` and its moments in the optimizer state, not `my_mlp/up/kernel`.
      spec: For each of the last dimensions a mesh axis, a tuple of axes, or None; dimensions in front of
        them, such as the layer axis of a scanned stack, are not split.
      optional: Whether it may decide about no leaf, because it speaks about parts that only some systems
        have.
    """

    pattern: str
    spec: tuple[str | tuple[str, ...] | None, ...]
    optional: bool = False

    def matches(self, path: str) -> bool:
        """Whether the rule speaks about this leaf."""
        return re.search(rf"(?:^|/)(?:{self.pattern})$", path) is not None


# The transformers of `jaxtok.nn`: the inner width (heads, feed-forward channels) over `tensor`, the outer one
# over `fsdp`, so that a block needs one reduction after attention and one after the feed-forward half.
TRANSFORMER_RULES = (
    Rule(r"attention/(query|key|value)/kernel", ("fsdp", "tensor")),
    Rule(r"attention/out/kernel", ("tensor", "fsdp")),
    Rule(r"feed_forward/(up|gate)/kernel", ("fsdp", "tensor")),
    Rule(r"feed_forward/down/kernel", ("tensor", "fsdp")),
)
# Embeddings and heads of a vocabulary (`jaxtok.nn.slots`): its entries over `tensor`. The logits stay split
# too: a softmax then exchanges two numbers per slot.
VOCABULARY_RULES = (
    Rule(r"embedding/table", ("tensor", "fsdp"), optional=True),
    Rule(r"(?<!attention/)out/kernel", ("fsdp", "tensor")),
    Rule(r"(?<!attention/)out/bias", ("tensor",), optional=True),
)
# Codebooks (`jaxtok.quantize`) and what is kept about each code: the codes over `tensor`, whose devices
# search and count among their own (`jaxtok.kernels`), and over `fsdp`, which only stores them.
CODEBOOK_RULES = (
    Rule(r"(codebook|sums|offset|(codebook|proposal)_\d+)", (("tensor", "fsdp"), None), optional=True),
    Rule(r"quantizer/(\w+/)*(counts|usage)", (("tensor", "fsdp"),), optional=True),
)
# What a stage of each kind needs; a prior reads the codebook of its frozen tokenizer.
TOKENIZER_RULES = (*TRANSFORMER_RULES, *CODEBOOK_RULES)
PRIOR_RULES = (*TRANSFORMER_RULES, *VOCABULARY_RULES, *CODEBOOK_RULES)
# A prior whose table of tokens is its head too, or that has no table because its latents are continuous.
TIED_RULES = (*TRANSFORMER_RULES, Rule(r"table", ("tensor", "fsdp"), optional=True), *CODEBOOK_RULES)


def shardings(tree: Any, rules: Sequence[Rule], mesh: Mesh) -> Any:
    """Chooses a sharding for every leaf of a state.

    The first rule that matches a leaf decides. Of a dimension that its axes do not divide the last axes are
    left out until they do, and the log says so. Leaves without a rule: large ones are split over `fsdp` along
    the largest dimension that divides, small ones are replicated.

    Args:
      tree: Pytree of arrays or of `jax.ShapeDtypeStruct`.
      rules: Path rules, the more special ones first.
      mesh: From `make_mesh`.

    Returns:
      Pytree of `NamedSharding`, same structure.

    Raises:
      ValueError: A rule that is not optional decides about no leaf, or a rule names an axis twice or one that
        the mesh lacks, or has more entries than a leaf has dimensions.
    """
    for rule in rules:
        _check(rule, mesh)
    unused = dict.fromkeys(rule.pattern for rule in rules if not rule.optional)

    def choose(path: str, leaf: Any) -> NamedSharding:
        rule = next((rule for rule in rules if rule.matches(path)), None)
        if rule is None:
            return NamedSharding(mesh, _default_spec(leaf.shape, mesh))
        unused.pop(rule.pattern, None)
        return NamedSharding(mesh, _spec_of(rule, path, leaf.shape, mesh))

    chosen = map_with_path(choose, tree)
    if unused:
        examples = ", ".join(list(leaves_by_path(tree))[:5])
        raise ValueError(
            f"sharding rules {list(unused)} decide about no leaf. Correct the pattern, move the rule "
            f"in front of the one that hides it, or remove it. Paths look like {examples}."
        )
    return chosen


def _check(rule: Rule, mesh: Mesh) -> None:
    axes = [axis for entry in rule.spec for axis in axes_of(entry)]
    if unknown := [axis for axis in axes if axis not in mesh.axis_names]:
        raise ValueError(
            f"sharding rule {rule.pattern!r} names the axes {unknown}; the mesh has {mesh.axis_names}."
        )
    if len(axes) != len(set(axes)):
        raise ValueError(
            f"sharding rule {rule.pattern!r} names an axis twice in {rule.spec}; a mesh axis can split only "
            "one dimension of a leaf."
        )


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes that an entry of a `Rule.spec` names."""
    return (entry,) if isinstance(entry, str) else entry or ()


def _spec_of(rule: Rule, path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    leading = len(shape) - len(rule.spec)
    if leading < 0:
        raise ValueError(
            f"sharding rule {rule.pattern!r} has {len(rule.spec)} entries, but {path} has shape {shape}."
        )
    entries: list[Any] = [None] * leading
    for size, entry in zip(shape[leading:], rule.spec):
        axes = axes_of(entry)
        while size % math.prod(mesh.shape[axis] for axis in axes):
            axes = axes[:-1]
        if axes != axes_of(entry):
            log.warning(
                "%s %s: dimension %d does not divide over %s (%d parts), so it %s",
                path,
                shape,
                size,
                "x".join(axes_of(entry)),
                math.prod(mesh.shape[axis] for axis in axes_of(entry)),
                f"is split over {'x'.join(axes)}" if axes else "stays whole",
            )
            entry = axes or None
        entries.append(entry)
    return PartitionSpec(*entries)


def _default_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    parts = mesh.shape["fsdp"]
    dividing = [(size, axis) for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or math.prod(shape) < LARGE or not dividing:
        return PartitionSpec()
    _, axis = max(dividing)
    return PartitionSpec(*("fsdp" if i == axis else None for i in range(len(shape))))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension over `data` and `fsdp`; the devices along `tensor` see the same examples."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def to_global(local_batch: Any, mesh: Mesh) -> Any:
    """Joins the batches of all processes into global arrays, without copying them between processes.

    Args:
      local_batch: Pytree of NumPy arrays [b, ...]: this process's equal share, in process order.
      mesh: From `make_mesh`. Its `tensor` axis has to lie within a process.

    Returns:
      Pytree of arrays [B, ...] with `batch_sharding(mesh)`, where B is b times the number of processes.

    Raises:
      ValueError: B does not divide over the devices that split the batch.
    """
    sharding = batch_sharding(mesh)
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)

    def join(path: str, array: np.ndarray) -> jax.Array:
        batch = array.shape[0] * jax.process_count()
        if batch % parts:
            raise ValueError(
                f"global batch {batch} ({path}) does not divide over {parts} devices on mesh axes 'data' x "
                f"'fsdp'. Use {max(batch // parts, 1) * parts} or {(batch // parts + 1) * parts}, or fewer "
                "devices on these axes."
            )
        return jax.make_array_from_process_local_data(sharding, array)

    return map_with_path(join, local_batch)


def sharding_table(tree: Any, chosen: Any) -> list[tuple[str, str, str, str]]:
    """Rows (path, dtype and shape, split, MiB per device), largest first, for a table at the start of a run.

    Args:
      tree: What `shardings` was given.
      chosen: What it returned.
    """
    rows = []
    placements = leaves_by_path(chosen)
    for path, leaf in leaves_by_path(tree).items():
        placement = placements[path]
        local = math.prod(placement.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        split = ", ".join("x".join(axes_of(entry)) or "-" for entry in placement.spec) or "replicated"
        rows.append((local, (path, f"{leaf.dtype}{list(leaf.shape)}", split, f"{local / 2**20:.3f}")))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def sharding_text(tree: Any, chosen: Any, mesh: Mesh, rows: int = 10) -> str:
    """Lines for the start of a run: the largest arrays of a state, how they are split, and the sum of all.

    Args:
      tree: What `shardings` was given.
      chosen: What it returned.
      mesh: From `make_mesh`.
      rows: How many arrays to show.
    """
    table = sharding_table(tree, chosen)
    shown, total = table[:rows], sum(float(row[3]) for row in table)
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    widths = [max(len(row[column]) for row in shown) for column in range(4)]
    lines = [
        f"  {mib.rjust(widths[3])}  {path.ljust(widths[0])}  {kind.ljust(widths[1])}  {split}"
        for path, kind, split, mib in shown
    ]
    title = f"mesh {shape}; {total:,.1f} MiB of state per device in {len(table)} arrays, the largest:"
    return "\n".join([title, *lines])
