"""The public function."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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
    if function is reference.look_up or not tokens:
        return reference.look_up(codebooks, codes)
    if not single:
        raise ValueError(
            f"lookup: implementation {implementation!r} takes float32 codebooks, not {codebooks.dtype}; "
            "use implementation='xla' or None"
        )
    gradient = choose("lookup", implementation, code_statistics.IMPLEMENTATIONS, interpret)
    size, flat = codebooks.shape[1], codes.reshape(-1, codes.shape[-1]).astype(jnp.int32)
    flat = jnp.clip(jnp.where(flat < 0, flat + size, flat), 0, size - 1)
    values = _look_up((function, gradient), interpret, size, codebooks, flat)
    return values.reshape(*codes.shape[:-1], codebooks.shape[2])


def _forward(passes, interpret, size, codebooks, codes):
    del size
    function = lambda codes, codebooks: passes[0](codebooks, codes, interpret=interpret)
    return spmd.over_tokens(function, (codes,), (codebooks,)), codes


def _backward(passes, interpret, size, codes, upstream):
    def function(upstream, codes):
        ones = jnp.ones(upstream.shape[0], jnp.float32)
        sums = functools.partial(passes[1], weights=ones, interpret=interpret)
        return jax.lax.map(lambda slot: sums(upstream, slot, size)[1], codes.T)

    return spmd.over_tokens(function, (upstream, codes), summed=True), None


def _values(
    passes: tuple[Callable[..., Any], Callable[..., Any]], interpret: bool, size: int, codebooks, codes
) -> jax.Array:
    return _forward(passes, interpret, size, codebooks, codes)[0]


_look_up = jax.custom_vjp(_values, nondiff_argnums=(0, 1, 2))
_look_up.defvjp(_forward, _backward)
