"""The public function."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from jaxtok.codes import Array
from jaxtok.kernels import spmd
from jaxtok.kernels.blocks import for_device
from jaxtok.kernels.code_statistics import api as code_statistics
from jaxtok.kernels.dispatch import Implementation, choose
from jaxtok.kernels.lookup import reference
from jaxtok.kernels.lookup.shapes import MOST_CODES, PALLAS_TPU

_FOLDER = "jaxtok.kernels.lookup"
_IMPLEMENTATIONS = {
    "xla": reference.look_up,
    "pallas_tpu": f"{_FOLDER}.tpu:look_up",
    "pallas_gpu": f"{_FOLDER}.gpu:look_up",
}


def lookup(
    codebooks: Float[Array, "*slots K D"],
    codes: Int[Array, "*rest"],
    *,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> Float[jax.Array, "*out D"]:
    """Code vectors, summed over the slots of a token: the numbers of the codebook, to the bit.

    XLA's gather reads each vector once, and its gradient is a scatter-add; on CPU both run at the speed of
    memory (measured at N=16,384: 0.1 to 2 ms to read, as fast as or faster than PyTorch's `index_add` to
    add). A TPU reads row after row, which takes as long from a small codebook as from a large one; there the
    kernel, a product with one-hot blocks that exist only on the chip, is the default for what fills a block
    of tokens from few codes (1,024, see `shapes.py`). Its work grows with the codebook, so large ones stay
    with XLA. Both give the same bits, so it does not matter which one encoded and which one decodes.

    On a mesh whose axis "tensor" divides the codes of a single codebook, each device reads from its own codes
    only, and the vectors are added over that axis: the codebook is never gathered, nor is its gradient.

    Args:
      codebooks: [K, D], or [Q, K, D] for Q slots; finite.
      codes: [...] for one codebook, [..., Q] for several; they must lie in [0, K); larger ones
        are clamped to K - 1, and negative ones count from the end.
      implementation: "xla", "pallas_tpu" or "pallas_gpu" (for float32 codebooks, differentiated backward
        only, with sums that are the same in every run), or None for the best one here (XLA on GPUs).
      interpret: run a Pallas kernel in interpret mode.

    Returns:
      Values [..., D] in the dtype of the codebooks.

    Raises:
      ValueError: another number of slots, or an implementation that does not exist or cannot run here.
    """
    codebooks, codes = jnp.asarray(codebooks), jnp.asarray(codes)
    if codebooks.ndim == 2:
        codebooks, codes = codebooks[None], codes[..., None]
    if codebooks.ndim != 3 or not codes.ndim or codes.shape[-1] != codebooks.shape[0]:
        raise ValueError(
            f"codes {codes.shape} do not fit codebooks {codebooks.shape}; give [K, D] with any codes, or "
            "[Q, K, D] with codes [..., Q]"
        )
    tokens, single = math.prod(codes.shape[:-1]), codebooks.dtype == jnp.float32
    few = codebooks.shape[1] <= for_device(MOST_CODES) and tokens >= for_device(PALLAS_TPU).tokens
    if implementation is None and not (few and single):
        implementation = "xla"
    function = choose("lookup", implementation, _IMPLEMENTATIONS, interpret)
    plain = function is reference.look_up
    axes = spmd.code_axes(codebooks.shape[1]) if codebooks.shape[0] == 1 else ()
    if not tokens or (plain and not axes):
        return reference.look_up(codebooks, codes)
    if not plain and not single:
        raise ValueError(
            f"lookup: implementation {implementation!r} takes float32 codebooks, not {codebooks.dtype}; "
            "use implementation='xla' or None"
        )
    gradient = choose(
        "lookup", "xla" if plain else implementation, code_statistics.IMPLEMENTATIONS, interpret
    )
    options = {} if plain or not interpret else {"interpret": True}
    size, flat = codebooks.shape[1], codes.reshape(-1, codes.shape[-1]).astype(jnp.int32)
    flat = jnp.clip(jnp.where(flat < 0, flat + size, flat), 0, size - 1)
    passes = tuple(functools.partial(f, **options) for f in (function, gradient))
    values = _look_up(passes, size, axes, codebooks, flat)
    return values.reshape(*codes.shape[:-1], codebooks.shape[2])


def _forward(passes, size, axes, codebooks, codes):
    part = size // spmd.devices_of(axes)

    def function(codes, codebooks):
        if not axes:
            return passes[0](codebooks, codes)
        own, there = spmd.own_codes(codes, part, axes)
        # The vectors of other devices' codes are zeros here, and adding zeros changes no bit.
        return jax.lax.psum(jnp.where(there, passes[0](codebooks, own), 0), axes)

    specs = (PartitionSpec(None, axes or None),)
    return spmd.over_tokens(function, (codes,), (codebooks,), shared_specs=specs), (codes, codebooks[:0])


def _backward(passes, size, axes, saved, upstream):
    codes, empty = saved
    part = size // spmd.devices_of(axes)

    def function(upstream, codes):
        def sums(slot):
            own, there = spmd.own_codes(slot, part, axes) if axes else (slot, jnp.ones(slot.shape, bool))
            return passes[1](upstream, own, part, weights=there.astype(jnp.float32))[1]

        return jax.lax.map(sums, codes.T)

    spec = PartitionSpec(None, axes or None)
    tokens = upstream.astype(jnp.float32), codes
    return spmd.over_tokens(function, tokens, summed=True, sum_spec=spec).astype(empty.dtype), None


def _values(
    passes: tuple[Callable[..., Any], ...], size: int, axes: tuple[str, ...], codebooks, codes
) -> jax.Array:
    return _forward(passes, size, axes, codebooks, codes)[0]


_look_up = jax.custom_vjp(_values, nondiff_argnums=(0, 1, 2))
_look_up.defvjp(_forward, _backward)
