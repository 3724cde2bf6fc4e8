"""Running an operation on the shards of its tokens.

A loop over tiles of tokens, or a Pallas call, is opaque to XLA's partitioner: it would gather all tokens on
every device. These wrappers split the tokens over the data axes of the current mesh by hand
(`jax.shard_map`).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

TOKEN_AXES = ("data", "fsdp")
CODE_AXIS = "tensor"


def auto_axes(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the named axes of the current mesh that have several devices and are left to the compiler.

    Inside `shard_map` axes are manual: along those the caller already works on a shard, and nothing is left
    to do.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(n for n in names if n in _compiler_axes(mesh) and mesh.shape[n] > 1)


def _compiler_axes(mesh: jax.sharding.AbstractMesh) -> set[str]:
    return {n for n, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Auto}


def devices_of(axes: tuple[str, ...]) -> int:
    """Number of devices along these axes of the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in axes)


def code_axes(codes: int) -> tuple[str, ...]:
    """The axis of the current mesh that splits a codebook of so many codes: "tensor", or none.

    None where the axis does not divide the codes; every device then has all of them.
    """
    axes = auto_axes((CODE_AXIS,))
    return axes if codes % devices_of(axes) == 0 else ()


def own_codes(codes: jax.Array, size: int, axes: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    """Inside `over_tokens`: the places of codes among the `size` ones of this device, and which are there.

    Args:
      codes: of the whole codebook.
      size: codes per device.
      axes: from `code_axes`, outside.

    Returns:
      Places int32 in [0, size), 0 for codes of other devices, and a bool array.
    """
    own = codes - jax.lax.axis_index(axes[0]) * size
    there = (own >= 0) & (own < size)
    return jnp.where(there, own, 0), there


def whole(x: jax.Array) -> jax.Array:
    """`x` on every device, so that what is computed of it has the same bits on any mesh."""
    left = _compiler_axes(jax.sharding.get_abstract_mesh())
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if left else x


def over_tokens(
    function: Callable[..., Any],
    tokens: tuple[jax.Array, ...],
    shared: tuple[jax.Array, ...] = (),
    summed: bool | tuple[bool, ...] = False,
    shared_specs: tuple[PartitionSpec, ...] | None = None,
    sum_spec: PartitionSpec | None = None,
) -> Any:
    """`function(*tokens, *shared)` with the tokens split over the data axes.

    Args:
      function: of tokens [M, ...] (each) and shared arrays; its outputs lead with M too, or are sums over the
        tokens.
      tokens: arrays with the same leading axis; it is padded with zeros to a multiple of the devices, and
        outputs are cut again. A function that sums must be told by one of `tokens` (weights) which are real.
      shared: arrays that every device gets whole.
      summed: whether the output is a sum over tokens (a pytree of arrays), to be added over the devices; one
        answer per output if there is a tuple of them.
      shared_specs: how the shared arrays are split instead, for functions that know.
      sum_spec: how sums are split over axes that do not split tokens: each device returns its part of them.

    Returns:
      What `function` returns for all tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = auto_axes(TOKEN_AXES)
    # Every axis that is left, the ones without tokens too: a Pallas call may not meet any of the compiler's.
    manual = _compiler_axes(mesh)
    if devices_of(tuple(manual)) == 1:
        return function(*tokens, *shared)
    count = tokens[0].shape[0]
    padding = -count % devices_of(axes)
    if padding:
        tokens = tuple(jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1))) for x in tokens)
    rows = PartitionSpec(axes) if axes else PartitionSpec()

    several = isinstance(summed, tuple)
    kinds = summed if isinstance(summed, tuple) else (summed,)

    def local(*arguments):
        out = function(*arguments)
        parts = zip(kinds, out if several else (out,), strict=True)
        return tuple(jax.lax.psum(part, axes) if kind and axes else part for kind, part in parts)

    specs = shared_specs or (PartitionSpec(),) * len(shared)
    out = jax.shard_map(
        local,
        axis_names=manual,
        in_specs=((rows,) * len(tokens)) + tuple(specs),
        out_specs=tuple((sum_spec or PartitionSpec()) if kind else rows for kind in kinds),
        check_vma=False,  # Pallas calls and custom gradients say nothing about what varies over the mesh
    )(*tokens, *shared)
    cut = lambda x: x[:count]
    parts = zip(kinds, out, strict=True)
    whole = tuple(part if kind else jax.tree.map(cut, part) for kind, part in parts)
    return whole if several else whole[0]
