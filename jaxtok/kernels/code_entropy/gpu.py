"""The Pallas kernels for GPUs, through Triton: a program of a block of tokens walks over the codebook, or one
of a block of codes over the tokens. Scores are computed again in each walk, as on TPUs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float

from jaxtok.kernels.blocks import Blocks, for_device, power_of_two
from jaxtok.kernels.code_entropy import reference
from jaxtok.kernels.code_entropy.reference import NEVER, dot
from jaxtok.kernels.code_entropy.shapes import PALLAS_GPU
from jaxtok.kernels.nearest_code.gpu import SMALLEST


class _Tile:
    """Where a program is in the arrays, and the scores of a tile there."""

    def __init__(self, blocks: Blocks, codes: int):
        self.blocks, self.codes = blocks, codes

    def tokens(self, i) -> Any:
        return pl.ds(i * self.blocks.tokens, self.blocks.tokens)

    def these(self, j) -> Any:
        return pl.ds(j * self.blocks.codes, self.blocks.codes)

    def scores(self, z: jax.Array, codebook: jax.Array, j) -> jax.Array:
        places = j * self.blocks.codes + jnp.arange(self.blocks.codes, dtype=jnp.int32)
        return jnp.where(places[None, :] < self.codes, dot(z, codebook.T), NEVER)


def _totals(z_ref, codes_ref, top_ref, total_ref, mean_ref, *, tile):
    z = z_ref[tile.tokens(pl.program_id(0)), :]

    def step(j, carry):
        top, total, mean = carry
        scores = tile.scores(z, codes_ref[tile.these(j), :], j)
        new = jnp.maximum(top, jnp.max(scores, axis=1))
        old, away = jnp.exp(top - new), scores - new[:, None]
        e = jnp.exp(away)
        mean = (mean + total * (top - new)) * old + jnp.sum(e * away, axis=1)
        return new, total * old + jnp.sum(e, axis=1), mean

    zeros = jnp.zeros(z.shape[0], jnp.float32)
    steps = codes_ref.shape[0] // tile.blocks.codes
    top_ref[...], total_ref[...], mean_ref[...] = jax.lax.fori_loop(
        0, steps, step, (zeros + NEVER, zeros, zeros)
    )


def _log_p(tile, z, numbers, codebook, j):
    return tile.scores(z, codebook, j) - numbers[0][:, None] - numbers[1][:, None]


def _mass(z_ref, numbers_ref, codes_ref, out_ref, *, tile):
    j = pl.program_id(0)
    codebook = codes_ref[tile.these(j), :]

    def step(i, total):
        at = tile.tokens(i)
        top, log_total, weights = (numbers_ref[row, at] for row in range(3))
        log_p = _log_p(tile, z_ref[at, :], (top, log_total), codebook, j)
        return total + jnp.sum(weights[:, None] * jnp.exp(log_p), axis=0)

    start = jnp.zeros(tile.blocks.codes, jnp.float32)
    out_ref[...] = jax.lax.fori_loop(0, z_ref.shape[0] // tile.blocks.tokens, step, start)


def _by_scores(tile, z, numbers, mean, codebook, by_mass, j):
    log_p = _log_p(tile, z, numbers, codebook, j)
    _, _, weights, by_entropy, entropy = (x[:, None] for x in numbers)
    return jnp.exp(log_p) * (weights * (by_mass[None, :] - mean[:, None]) - by_entropy * (log_p + entropy))


def _by_tokens(z_ref, numbers_ref, codes_ref, by_mass_ref, mean_ref, out_ref, *, tile):
    at = tile.tokens(pl.program_id(0))
    z, numbers = z_ref[at, :], tuple(numbers_ref[row, at] for row in range(5))
    steps = codes_ref.shape[0] // tile.blocks.codes

    def average(j, mean):
        p = jnp.exp(_log_p(tile, z, numbers, codes_ref[tile.these(j), :], j))
        return mean + jnp.sum(p * by_mass_ref[tile.these(j)][None, :], axis=1)

    mean = jax.lax.fori_loop(0, steps, average, jnp.zeros(z.shape[0], jnp.float32))

    def step(j, total):
        codebook, by_mass = codes_ref[tile.these(j), :], by_mass_ref[tile.these(j)]
        return total + dot(_by_scores(tile, z, numbers, mean, codebook, by_mass, j), codebook)

    mean_ref[...], out_ref[...] = mean, jax.lax.fori_loop(0, steps, step, jnp.zeros(z.shape, jnp.float32))


def _by_codes(z_ref, numbers_ref, mean_ref, codes_ref, by_mass_ref, out_ref, *, tile):
    j = pl.program_id(0)
    codebook, by_mass = codes_ref[tile.these(j), :], by_mass_ref[tile.these(j)]

    def step(i, total):
        at = tile.tokens(i)
        z, numbers = z_ref[at, :], tuple(numbers_ref[row, at] for row in range(5))
        return total + dot(_by_scores(tile, z, numbers, mean_ref[at], codebook, by_mass, j).T, z)

    start = jnp.zeros(codebook.shape, jnp.float32)
    out_ref[...] = jax.lax.fori_loop(0, z_ref.shape[0] // tile.blocks.tokens, step, start)


def _call(kernel: Callable[..., None], inputs: tuple[jax.Array, ...], block: int, outputs, tile, interpret):
    """Runs a kernel that sees all inputs, on blocks of the first axis of its outputs (of these shapes)."""

    def spec(shape, walks):
        return pl.BlockSpec(shape, lambda i: (i if walks else 0, *(0,) * (len(shape) - 1)))

    return pl.pallas_call(
        functools.partial(kernel, tile=tile),
        grid=(outputs[0][0] // block,),
        in_specs=[spec(x.shape, walks=False) for x in inputs],
        out_specs=[spec((block, *shape[1:]), walks=True) for shape in outputs],
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in outputs],
        # Named, because the default GPU back end of Pallas differs between versions of JAX.
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(*inputs)


def _filled(blocks: Blocks, z: jax.Array, codebook: jax.Array):
    """Blocks no larger than the codebook, and both arrays filled up to whole blocks."""
    codes, width = codebook.shape
    blocks = Blocks(blocks.tokens, min(blocks.codes, max(SMALLEST, power_of_two(codes))), blocks.width)
    wide = max(SMALLEST, power_of_two(width)) - width
    z = jnp.pad(z, ((0, -z.shape[0] % blocks.tokens), (0, wide)))
    return _Tile(blocks, codes), z, jnp.pad(codebook, ((0, -codes % blocks.codes), (0, wide)))


def assign(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, " M"],
    codebook: Float[jax.Array, "K D"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Float[jax.Array, " K"]]:
    """See `reference.assign`."""
    (count, width), codes = z.shape, codebook.shape[0]
    blocks = blocks or for_device(PALLAS_GPU)
    if width > blocks.width:
        return reference.assign(z, weights, codebook)
    tile, z, codebook = _filled(blocks, z, codebook)
    rows = [(z.shape[0],)] * 3
    top, total, mean = _call(_totals, (z, codebook), tile.blocks.tokens, rows, tile, interpret)
    log_total = jnp.log(total)
    numbers = jnp.stack([top, log_total, jnp.pad(weights, (0, z.shape[0] - count))])
    (mass,) = _call(_mass, (z, numbers, codebook), tile.blocks.codes, [(codebook.shape[0],)], tile, interpret)
    entropy = log_total - mean / total
    return (entropy[:count], top[:count], log_total[:count]), mass[:codes]


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
    (count, width), codes = z.shape, codebook.shape[0]
    blocks = blocks or for_device(PALLAS_GPU)
    if width > blocks.width:
        tokens = z, weights, entropy, top, log_total, by_entropy
        return reference.assign_gradient(*tokens, codebook, by_mass)
    tile, z, codebook = _filled(blocks, z, codebook)
    numbers = jnp.stack([top, log_total, weights, by_entropy, entropy])
    numbers = jnp.pad(numbers, ((0, 0), (0, z.shape[0] - count)))
    by_mass = jnp.pad(by_mass, (0, codebook.shape[0] - codes))
    rows = [(z.shape[0],), z.shape]
    mean, dz = _call(_by_tokens, (z, numbers, codebook, by_mass), tile.blocks.tokens, rows, tile, interpret)
    inputs = z, numbers, mean, codebook, by_mass
    (dcodebook,) = _call(_by_codes, inputs, tile.blocks.codes, [codebook.shape], tile, interpret)
    return dz[:count, :width], dcodebook[:codes, :width]
