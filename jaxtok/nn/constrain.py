"""Sharding constraints on activations that do nothing without a mesh."""

import jax
from jax.sharding import PartitionSpec

Axes = str | tuple[str, ...] | None


def constrain(x: jax.Array, *axes: Axes) -> jax.Array:
    """Asks the compiler to lay out an activation over the current mesh (`jax.set_mesh`).

    Without constraints inside the scanned layer body the partitioner may re-shard activations at every layer.

    Args:
      x: the activation.
      axes: mesh axis name(s) per dimension of `x`, or None. Names that the mesh lacks, and axes whose size
        does not divide the dimension, are left out.

    Returns:
      x, constrained; x itself when no mesh is set or it is not the automatic kind.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or len(axes) != x.ndim:
        return x
    auto = {
        n
        for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == jax.sharding.AxisType.Auto
    }

    def usable(dim, names):
        names = tuple(n for n in ((names,) if isinstance(names, str) else names or ()) if n in auto)
        size = 1
        for n in names:
            size *= mesh.shape[n]
        return names if names and dim % size == 0 else None

    spec = [usable(dim, names) for dim, names in zip(x.shape, axes, strict=True)]
    return x if not any(spec) else jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
