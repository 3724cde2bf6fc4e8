"""Clustering VQ, and codes that come back to life."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.cvq import anchor_weight, towards_anchors, usage_step
from jaxtok.quantize.revival import (
    batch_sample,
    dead_codes,
    replace_codes,
    resample_dead_codes,
    sampled_vectors,
)
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.quantize.vq_state import fold_offset
from jaxtok.weights import read_tensors
from tests.filled import normal
from tests.quantize.golden import close


def test_three_steps_equal_the_recorded_ones(shared):
    tensors, _ = read_tensors(shared("goldens/tatitok_vq.safetensors"))
    latents = np.moveaxis(tensors["io.latents"][:, :, 0], 1, -1).reshape(-1, 6)

    @jax.jit
    def move(codebook, usage, counts, latents):
        usage = usage_step(usage, counts, 0.99)
        return towards_anchors(codebook, usage, latents, 0.99), usage

    codebook = jnp.asarray(tensors["model.quantize.embedding.weight"])
    usage = jnp.asarray(tensors["io.cvq.embed_prob_before"])
    for step, scale in enumerate(tensors["io.cvq.scales"]):
        counts = np.bincount(tensors[f"io.cvq.step{step}.codes"].reshape(-1), minlength=32).astype(np.float32)
        codebook, usage = move(codebook, usage, counts, latents * np.float32(scale))
        close(usage, tensors[f"io.cvq.step{step}.embed_prob"])
        close(codebook, tensors[f"io.cvq.step{step}.codebook"])


def test_used_codes_stay_and_unused_ones_leave():
    weight = jax.jit(lambda usage: anchor_weight(usage, 0.99))(jnp.asarray([1 / 4, 0.0, 1e-4, 3 / 4]))
    np.testing.assert_allclose(weight, [0, np.exp(-1e-3), np.exp(-0.4 - 1e-3), 0], atol=1e-6)


@pytest.mark.parametrize("options", [{"learning": "cvq"}, {"revive_below": 0.9, "revival": "sample"}])
def test_a_codebook_learned_by_gradient_moves_by_its_offset(options):
    quantizer = VectorQuantizer(codes=5, width=3, decay=0.5, **options)
    z = 4 + normal(2, 9, 3)

    @jax.jit
    def run(z):
        variables = quantizer.init(jax.random.key(0), z)
        out: Any = quantizer.apply(variables, z, train=True, key=jax.random.key(1))
        state = quantizer.update(variables["quantizer"], out.statistics, jax.random.key(2))
        moved = {"params": variables["params"], "quantizer": state}
        folded = fold_offset(moved)
        decode = lambda variables: quantizer.apply(variables, out.codes, method="decode")
        return moved, folded, decode(moved), decode(folded)

    moved, folded, of_moved, of_folded = jax.device_get(run(z))
    assert (np.abs(moved["quantizer"]["offset"]).max(-1) > 1).any()
    assert "offset" not in folded["quantizer"]
    np.testing.assert_array_equal(of_moved, of_folded)


def test_a_sample_of_the_batch_consists_of_its_tokens_and_adds_up():
    z = normal(64, 4)
    uniforms = jnp.asarray(np.random.default_rng(0).random((64, 3)), jnp.float32)

    @jax.jit
    def run(z, uniforms):
        take = lambda x: batch_sample(x[0], 16, x[1], jnp.ones(x[0].shape[0]), 64)
        split = lambda x: x.reshape(4, 16, -1)
        summed = jax.tree.map(lambda leaf: leaf.sum(0), jax.lax.map(take, (split(z), split(uniforms))))
        return sampled_vectors(take((z, uniforms))), sampled_vectors(summed)

    (vectors, there), (again, _) = jax.device_get(run(z, uniforms))
    np.testing.assert_allclose(vectors, again, atol=1e-5)
    distance = np.linalg.norm(vectors[:, None] - np.asarray(z), axis=-1).min(-1)
    assert np.mean(distance < 0.05) > 0.8 and there.sum() > 8


def test_all_that_is_kept_about_a_code_starts_anew():
    counts = jnp.asarray([4.0, 0.125, 1.875, 2.0])  # their mean is exact
    state = {"codebook": normal(4, 2), "counts": counts, "sums": normal(4, 2, seed=1)}

    @jax.jit
    def run(state):
        dead, count = dead_codes(state["counts"], 0.5)
        new = replace_codes(state, dead, jnp.full((4, 2), 7.0), count)
        return dead, count, new, dead_codes(state["counts"], 2.0, "tokens")[0]

    dead, count, new, few = jax.device_get(run(state))
    assert dead.tolist() == [False, True, False, False] and float(count[0]) == 2.0
    np.testing.assert_array_equal(new["sums"][1], [14, 14])
    np.testing.assert_array_equal(new["codebook"][0], state["codebook"][0])
    assert few.tolist() == [False, True, True, False]


def test_no_two_dead_codes_become_the_same_token():
    state = {
        "codebook": jnp.zeros((6, 2)),
        "counts": jnp.asarray([9.0, 0, 0, 0, 0, 0]),
        "sums": jnp.zeros((6, 2)),
    }
    sample = {"sample": jnp.zeros((6, 2)).at[2].set(3.0), "sample_weight": jnp.zeros(6).at[2].set(1.0)}
    new = jax.jit(lambda *args: resample_dead_codes(*args, jax.random.key(3), 0.5))(state, sample)
    assert (np.asarray(new["codebook"]) == 3).all(-1).sum() <= 1
