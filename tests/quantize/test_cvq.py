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
    latents = jnp.moveaxis(jnp.asarray(tensors["io.latents"])[:, :, 0], 1, -1).reshape(-1, 6)
    codebook = jnp.asarray(tensors["model.quantize.embedding.weight"])
    usage = jnp.asarray(tensors["io.cvq.embed_prob_before"])
    for step, scale in enumerate(tensors["io.cvq.scales"]):
        counts = jnp.bincount(tensors[f"io.cvq.step{step}.codes"].reshape(-1), length=32).astype(jnp.float32)
        usage = usage_step(usage, counts, 0.99)
        codebook = towards_anchors(codebook, usage, latents * scale, 0.99)
        close(usage, tensors[f"io.cvq.step{step}.embed_prob"])
        close(codebook, tensors[f"io.cvq.step{step}.codebook"])


def test_used_codes_stay_and_unused_ones_leave():
    weight = anchor_weight(jnp.asarray([1 / 4, 0.0, 1e-4, 3 / 4]), 0.99)
    np.testing.assert_allclose(weight, [0, np.exp(-1e-3), np.exp(-0.4 - 1e-3), 0], atol=1e-6)


@pytest.mark.parametrize("options", [{"learning": "cvq"}, {"revive_below": 0.9, "revival": "sample"}])
def test_a_codebook_learned_by_gradient_moves_by_its_offset(options):
    quantizer = VectorQuantizer(codes=5, width=3, decay=0.5, **options)
    z = 4 + normal(2, 9, 3)
    variables = quantizer.init(jax.random.key(0), z)
    out: Any = quantizer.apply(variables, z, train=True, key=jax.random.key(1))
    state = quantizer.update(variables["quantizer"], out.statistics, jax.random.key(2))
    moved = {"params": variables["params"], "quantizer": state}
    codes = np.asarray(moved["params"]["codebook"] + state["offset"])
    assert (np.abs(codes - variables["params"]["codebook"]).max(-1) > 1).any()
    folded = fold_offset(moved)
    assert "offset" not in folded["quantizer"]
    decode = lambda variables: quantizer.apply(variables, out.codes, method="decode")
    np.testing.assert_array_equal(decode(moved), decode(folded))


def test_a_sample_of_the_batch_consists_of_its_tokens_and_adds_up():
    z = normal(64, 4)
    uniforms = jnp.asarray(np.random.default_rng(0).random((64, 3)), jnp.float32)
    take = lambda rows: batch_sample(z[rows], 16, uniforms[rows], jnp.ones(64)[rows], 64)
    whole, parts = take(slice(None)), [take(slice(i, i + 16)) for i in range(0, 64, 16)]
    summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    (vectors, there), (again, _) = sampled_vectors(whole), sampled_vectors(summed)
    np.testing.assert_allclose(vectors, again, atol=1e-5)
    distance = jnp.linalg.norm(vectors[:, None] - z, axis=-1).min(-1)
    assert np.mean(np.asarray(distance) < 0.05) > 0.8 and there.sum() > 8


def test_all_that_is_kept_about_a_code_starts_anew():
    state = {"codebook": normal(3, 2), "counts": jnp.asarray([4.0, 0.1, 1.9]), "sums": normal(3, 2, seed=1)}
    dead, count = dead_codes(state["counts"], 0.5)
    assert dead.tolist() == [False, True, False] and float(count[0]) == 2.0
    new = replace_codes(state, dead, jnp.full((3, 2), 7.0), count)
    np.testing.assert_array_equal(new["sums"][1], [14, 14])
    np.testing.assert_array_equal(new["codebook"][0], state["codebook"][0])
    assert dead_codes(state["counts"], 2.0, "tokens")[0].tolist() == [False, True, True]


def test_no_two_dead_codes_become_the_same_token():
    state = {
        "codebook": jnp.zeros((6, 2)),
        "counts": jnp.asarray([9.0, 0, 0, 0, 0, 0]),
        "sums": jnp.zeros((6, 2)),
    }
    sample = {"sample": jnp.zeros((6, 2)).at[2].set(3.0), "sample_weight": jnp.zeros(6).at[2].set(1.0)}
    new = resample_dead_codes(state, sample, jax.random.key(3), 0.5)
    assert (np.asarray(new["codebook"]) == 3).all(-1).sum() <= 1
