"""Parity with the recorded `VectorQuantize`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.quantize.codebook import kmeans
from jaxtok.quantize.revival import dead_codes, replace_codes
from jaxtok.quantize.vq_losses import cross_entropy, similarities
from jaxtok.quantize.vq_state import by_book, each_book
from tests.quantize.golden import close, recordings

BRIDGED = "vq_bridge"  # a map of the codebook: see test_simvq
IN_PLACE_RATE = 0.5  # of the recorded optimizer
NAMES = [
    "euclidean_ema",
    "euclidean_straight_through",
    "cosine_ema",
    "projection",
    "heads_shared",
    "heads_separate",
    "learnable_orthogonal",
    "learnable_sync_v",
    "inplace_sgd",
    "diversity",
    "image_fmap",
    "channel_first",
    "masked",
    "cross_entropy_commitment",
    "affine",
    "kmeans_euclidean",
    "kmeans_cosine",
    "expire_dead_codes",
    "gumbel_stochastic",
    "gumbel_straight_through",
    "directional_reparam",
    "freeze",
    "single_token",
]


@pytest.fixture(scope="module")
def files(shared):
    return recordings(shared("goldens/vq_zoo_VectorQuantize.safetensors"), skip={BRIDGED})


def codes_of(case, name):
    codes = case.io[name]
    return codes.reshape(codes.shape[0], -1, case.loaded.module.slots)


def as_slots(drawn, inner, module):
    """[B, N, S, ...] of a draw for all tokens of [Q, B, N], or of [B, S, N] with one codebook."""
    batch, tokens, slots = inner.shape[:3]
    if module.books == 1:
        return jnp.swapaxes(drawn.reshape(batch, slots, tokens, -1), 1, 2)
    return jnp.moveaxis(drawn.reshape(slots, batch, tokens, -1), 0, 2)


def similarities_to_moved_codes(case, codebook):
    """Similarities whose gradient is the official one: the class moves its codes in place before the backward
    pass, which then reads the moved ones.
    """
    module = case.loaded.module
    moved = jnp.asarray(case.after["_codebook.embed"])
    moved = moved[0] if module.books == 1 else moved

    @jax.custom_vjp
    def similarity(x):
        return similarities(x, codebook, module.metric)

    def backward(x, g):
        towards = jnp.broadcast_to(moved, (*x.shape[:-1], *moved.shape[-2:]))
        if module.metric == "euclidean":
            towards = (x[..., None, :] - moved) / similarity(x)[..., None]
        return (jnp.sum(g[..., None] * towards, axis=-2),)

    similarity.defvjp(lambda x: (similarity(x), x), backward)
    return similarity


@pytest.mark.parametrize("name", NAMES)
def test_it_does_what_the_official_class_does(files, name):
    case = files[name]
    module, variables, io = case.loaded.module, case.loaded.variables, case.io
    x = jnp.asarray(case["x"])
    mask = jnp.asarray(io["arg.mask"].astype(bool)) if "arg.mask" in io else None
    if "eval.quantized" in io:
        out = module.apply(variables, x, mask=mask)
        close(out.values, case["eval.quantized"], "values in evaluation")
        theirs = codes_of(case, "eval.indices")
        np.testing.assert_array_equal(out.codes, np.where(theirs < 0, 0, theirs))
    state, official = variables.get("quantizer", {}), case.config["args"]
    if official.get("kmeans_init"):
        points, weights = by_book(module.apply(variables, x, method="inner"), mask, module.books)
        fit = lambda z, w, means: kmeans(z, means, official.get("kmeans_iters", 10), module.metric, w)
        means = jnp.asarray(io["train.sampled.0"])
        state = each_book(fit, module.books, points, weights, means[0] if module.books == 1 else means)
    if module.affine:  # the first forward pass sets the moments
        start = {"codebook": variables["params"]["codebook"]} if module.learning == "gradient" else {}
        fitted = module.apply(variables, state | start, x, jax.random.key(0), mask, method="initialise")
        state = {key: fitted[key] for key in state}

    def run(params, x):
        def forward(module):
            inner = module.inner(x)
            noise, similarity, codes = None, None, None
            if "train.noise.0" in io:
                drawn = jnp.asarray(io["train.noise.0"])
                if module.routing == "directional":
                    noise = as_slots(drawn, inner, module)
                else:
                    similarity = module.similarities(inner)
                    codes = jnp.argmax(
                        similarity / module.sample_temperature + as_slots(drawn, inner, module), -1
                    )
            if module.learning == "ema" and (
                module.commitment_form == "cross_entropy" or module.diversity_weight
            ):
                similarity = similarities_to_moved_codes(case, state["codebook"])(inner)
            codes = module.nearest(inner) if codes is None else codes.astype(jnp.int32)
            return module.quantize(inner, codes, noise, mask, similarity)

        return module.apply({"params": params, "quantizer": state}, method=forward)

    params = variables["params"]
    if name == "inplace_sgd":
        # The class steps its codebook within the forward pass and quantizes again; here the caller does.
        gradient = jax.grad(lambda params: run(params, x).losses["codebook"])(params)
        params = jax.tree.map(lambda p, g: p - IN_PLACE_RATE * g, params, gradient)
    out = run(params, x)
    close(out.values, case["train.quantized"], "values in training")
    theirs = codes_of(case, "train.indices")
    np.testing.assert_array_equal(out.codes, np.where(theirs < 0, 0, theirs))
    loss = lambda params, x: sum(run(params, x).losses.values(), jnp.float32(0))
    # One official term moves both sides of a learned codebook; here it is two terms of the same value.
    close(loss(params, x) - out.losses.get("codebook", 0.0), io["train.loss"].sum(), "loss")
    cotangent = jnp.asarray(case["train.cotangent"])
    weigh = lambda params, x: jnp.vdot(run(params, x).values, cotangent)
    close(jax.grad(weigh, 1)(params, x), case["train.grad_x_from_quantized"], "gradient of values")
    if "train.grad_x_from_loss" in io:
        close(jax.grad(loss, 1)(params, x), case["train.grad_x_from_loss"], "gradient of losses")
    for what, function in (("loss", loss), ("quantized", weigh)):
        start = f"train.grad_from_{what}."
        recorded = {key.removeprefix(start): value for key, value in io.items() if key.startswith(start)}
        if recorded:
            gradients = {**variables, "params": jax.grad(function)(params, x)}
            ours = convert.save(dataclasses.replace(case.loaded, variables=gradients))
            for key, value in recorded.items():
                close(ours[key], value, f"gradient of {key} by {what}")
    if name == "freeze":  # said in the call, which our modules do not know
        return
    state = module.update(state, out.statistics, jax.random.key(0))
    state = {"codebook": params["codebook"]} | state if "codebook" in params else state
    if "train.sampled.0" in io and module.revive_below:
        dead, count = dead_codes(state["counts"], module.revive_below, module.revive_unit)
        vectors = jnp.zeros_like(state["codebook"]).at[jnp.flatnonzero(dead)].set(io["train.sampled.0"][0])
        state = replace_codes(state, dead, vectors, count)
    after = {key: value[0] if module.books == 1 else value for key, value in case.after.items() if value.ndim}
    names = {"codebook": "_codebook.embed", "counts": "_codebook.cluster_size", "sums": "_codebook.embed_avg"}
    for ours, theirs in names.items():
        if ours in state:
            close(state[ours], after[theirs], f"{theirs} after a step")


def test_cross_entropy_to_given_codes(files):
    case = files["ce_to_given_indices"]
    x = jnp.asarray(case["x"])
    similarity = similarities_to_moved_codes(case, case.loaded.variables["quantizer"]["codebook"])
    given = jnp.asarray(case.io["arg.indices"].astype(np.int32))[..., None]
    loss = lambda x: cross_entropy(similarity(x[:, :, None]), given).mean()
    close(loss(x), case.io["train.loss"])
    close(jax.grad(loss)(x), case["train.grad_x_from_loss"])


def test_the_k_most_similar_codes(files):
    case = files["topk"]
    module, variables, x = case.loaded.module, case.loaded.variables, jnp.asarray(case["x"])
    codes = module.apply(variables, x, 3, method="nearest_codes")
    np.testing.assert_array_equal(codes[:, :, 0], case.io["train.indices"])
