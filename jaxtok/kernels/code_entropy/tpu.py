"""The Pallas kernels for TPUs: codes in rows and tokens in lanes, so that softmax reductions are additions of
vectors, and numbers per token are stored without padding.

Every array is [rows, tokens] or [rows, codes], and every kernel walks over tiles of scores in one of two
orders: over all codes for numbers per token, over all tokens for numbers per code. What a tile adds goes into
the block of the output, which stays on the chip until its row of tiles is done. Scores are computed again in
each kernel: 2 products of tokens with codes forward and 5 backward, one more than XLA's loop takes, which
adds to the gradient of the whole codebook in each step.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float

from jaxtok.kernels.blocks import LANES, Blocks, fit_tpu, for_device
from jaxtok.kernels.code_entropy import reference
from jaxtok.kernels.code_entropy.reference import NEVER
from jaxtok.kernels.code_entropy.shapes import PALLAS_TPU
from jaxtok.kernels.lanes import column, fold, row


def _dot(a: jax.Array, b: jax.Array, over: tuple[int, int] = (1, 0)) -> jax.Array:
    """Product over an axis of each, float32 at full precision."""
    contracted = ((over[:1], over[1:]), ((), ()))
    return jax.lax.dot_general(
        a, b, contracted, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def _scores(z_ref, codes_ref, block: jax.Array, codes: int) -> jax.Array:
    """[codes, tokens] of a tile."""
    scores = _dot(codes_ref[...], z_ref[...], (0, 0))
    if codes % codes_ref.shape[1] == 0:
        return scores
    places = block * codes_ref.shape[1] + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    return jnp.where(places < codes, scores, NEVER)


def _totals(z_ref, codes_ref, out_ref, *, codes):
    """Rows of the output: the largest score, the total of exp(score - top), and that of it times the rest."""
    step = pl.program_id(1)

    @pl.when(step == 0)
    def _():
        out_ref[...] = jnp.zeros(out_ref.shape, jnp.float32)
        out_ref[0:1] = jnp.full((1, out_ref.shape[1]), NEVER, jnp.float32)

    top, total, mean = out_ref[0:1], out_ref[1:2], out_ref[2:3]
    scores = _scores(z_ref, codes_ref, step, codes)
    new = jnp.maximum(top, jnp.max(scores, axis=0, keepdims=True))
    old, away = jnp.exp(top - new), scores - new
    e = jnp.exp(away)
    out_ref[2:3] = (mean + total * (top - new)) * old + jnp.sum(e * away, axis=0, keepdims=True)
    out_ref[1:2] = total * old + jnp.sum(e, axis=0, keepdims=True)
    out_ref[0:1] = new


def _log_p(z_ref, tokens_ref, codes_ref, block, codes):
    return _scores(z_ref, codes_ref, block, codes) - tokens_ref[0:1] - tokens_ref[1:2]


def _mass(z_ref, tokens_ref, codes_ref, out_ref, sums, *, codes):
    step = pl.program_id(1)

    @pl.when(step == 0)
    def _():
        sums[...] = jnp.zeros(sums.shape, jnp.float32)

    sums[...] += fold(
        tokens_ref[2:3] * jnp.exp(_log_p(z_ref, tokens_ref, codes_ref, pl.program_id(0), codes))
    )

    @pl.when(step == pl.num_programs(1) - 1)
    def _():
        out_ref[...] = row(sums[...])


def _mean(z_ref, tokens_ref, codes_ref, by_mass_ref, out_ref, *, codes):
    step = pl.program_id(1)

    @pl.when(step == 0)
    def _():
        out_ref[...] = jnp.zeros(out_ref.shape, jnp.float32)

    p = jnp.exp(_log_p(z_ref, tokens_ref, codes_ref, step, codes))
    out_ref[...] += jnp.sum(p * column(by_mass_ref[...]), axis=0, keepdims=True)


def _by_scores(z_ref, tokens_ref, mean_ref, codes_ref, by_mass_ref, block, codes):
    """Gradient to the scores of a tile."""
    _, _, weights, by_entropy, entropy = (tokens_ref[i : i + 1] for i in range(5))
    log_p = _log_p(z_ref, tokens_ref, codes_ref, block, codes)
    pulled = weights * (column(by_mass_ref[...]) - mean_ref[...])
    return jnp.exp(log_p) * (pulled - by_entropy * (log_p + entropy))


def _by_tokens(z_ref, tokens_ref, mean_ref, codes_ref, by_mass_ref, out_ref, *, codes):
    step = pl.program_id(1)

    @pl.when(step == 0)
    def _():
        out_ref[...] = jnp.zeros(out_ref.shape, jnp.float32)

    d = _by_scores(z_ref, tokens_ref, mean_ref, codes_ref, by_mass_ref, step, codes)
    out_ref[...] += _dot(codes_ref[...], d)


def _by_codes(z_ref, tokens_ref, mean_ref, codes_ref, by_mass_ref, out_ref, *, codes):
    @pl.when(pl.program_id(1) == 0)
    def _():
        out_ref[...] = jnp.zeros(out_ref.shape, jnp.float32)

    d = _by_scores(z_ref, tokens_ref, mean_ref, codes_ref, by_mass_ref, pl.program_id(0), codes)
    out_ref[...] += _dot(z_ref[...], d, (1, 1))


class _Tiles:
    """Features [W, N] and codes [W, K], filled up to whole blocks, and the kernels over their tiles."""

    def __init__(self, z: jax.Array, codebook: jax.Array, blocks: Blocks | None, interpret: bool):
        (self.tokens, width), self.codes = z.shape, codebook.shape[0]
        blocks = blocks or for_device(PALLAS_TPU)
        # The gradient of one side is accumulated beside both inputs.
        self.blocks = fit_tpu(blocks, self.tokens, self.codes, width, per_feature=24, per_score=24)
        self.interpret = interpret
        self.z, self.codebook = self.by_token(z.T), self.by_code(codebook.T)

    def by_token(self, x: jax.Array) -> jax.Array:
        """[rows, N] filled up with zeros."""
        return jnp.pad(x, ((0, 0), (0, -self.tokens % self.blocks.tokens)))

    def by_code(self, x: jax.Array) -> jax.Array:
        """[rows, K] filled up with zeros."""
        return jnp.pad(x, ((0, 0), (0, -self.codes % self.blocks.codes)))

    def run(
        self,
        kernel: Callable[..., None],
        per_token: tuple[jax.Array, ...],
        per_code: tuple[jax.Array, ...],
        rows: int,
        over_codes: bool,
        scratch: Any = (),
    ) -> jax.Array:
        """Output [rows, N] of a kernel that walks over the codes, or [rows, K] of one that walks over tokens.

        Args:
          kernel: of references to features, `per_token`, codes, `per_code`, the output, and scratch.
          per_token: further arrays [rows, N].
          per_code: further arrays [rows, K].
          rows: of the output.
          over_codes: which it is.
          scratch: memory of the kernel.
        """
        token_block, code_block = self.blocks.tokens, self.blocks.codes
        outer, inner = (lambda i, j: (0, i)), (lambda i, j: (0, j))
        by_token, by_code = (outer, inner) if over_codes else (inner, outer)
        tokens, codes = (self.z, *per_token), (self.codebook, *per_code)
        count_tokens, count_codes = self.z.shape[1], self.codebook.shape[1]
        grid = count_tokens // token_block, count_codes // code_block
        block, count = (token_block, count_tokens) if over_codes else (code_block, count_codes)
        return pl.pallas_call(
            functools.partial(kernel, codes=self.codes),
            grid=grid if over_codes else grid[::-1],
            in_specs=[pl.BlockSpec((x.shape[0], token_block), by_token) for x in tokens]
            + [pl.BlockSpec((x.shape[0], code_block), by_code) for x in codes],
            out_specs=pl.BlockSpec((rows, block), outer),
            out_shape=jax.ShapeDtypeStruct((rows, count), jnp.float32),
            scratch_shapes=scratch,
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
            interpret=self.interpret,
        )(*tokens, *codes)


def assign(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, " M"],
    codebook: Float[jax.Array, "K D"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Float[jax.Array, " K"]]:
    """See `reference.assign`."""
    if z.shape[1] > (blocks or for_device(PALLAS_TPU)).width:
        return reference.assign(z, weights, codebook)
    tiles = _Tiles(z, codebook, blocks, interpret)
    top, total, mean = tiles.run(_totals, (), (), 3, over_codes=True)
    log_total = jnp.log(total)
    per_token = jnp.stack([top, log_total, tiles.by_token(weights[None])[0]])
    sums = [pltpu.VMEM((tiles.blocks.codes, LANES), jnp.float32)]
    mass = tiles.run(_mass, (per_token,), (), 1, over_codes=False, scratch=sums)
    entropy, count = log_total - mean / total, z.shape[0]
    return (entropy[:count], top[:count], log_total[:count]), mass[0, : codebook.shape[0]]


def assign_gradient(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, " M"],
    entropy: Float[jax.Array, " M"],
    top: Float[jax.Array, " M"],
    log_total: Float[jax.Array, " M"],
    by_entropy: Float[jax.Array, " M"],
    codebook: Float[jax.Array, "K D"],
    by_mass: Float[jax.Array, " K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Float[jax.Array, "M D"], Float[jax.Array, "K D"]]:
    """See `reference.assign_gradient`."""
    tokens = z, weights, entropy, top, log_total, by_entropy
    if z.shape[1] > (blocks or for_device(PALLAS_TPU)).width:
        return reference.assign_gradient(*tokens, codebook, by_mass)
    tiles, width = _Tiles(z, codebook, blocks, interpret), z.shape[1]
    per_token = tiles.by_token(jnp.stack([top, log_total, weights, by_entropy, entropy]))
    per_code = (tiles.by_code(by_mass[None]),)
    mean = tiles.run(_mean, (per_token,), per_code, 1, over_codes=True)
    dz = tiles.run(_by_tokens, (per_token, mean), per_code, width, over_codes=True)
    dcodebook = tiles.run(_by_codes, (per_token, mean), per_code, width, over_codes=False)
    return dz[:, : z.shape[0]].T, dcodebook[:, : codebook.shape[0]].T
