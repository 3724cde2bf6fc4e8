"""Parity with the recorded `VectorQuantize`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.quantize.codebook import kmeans
from jaxtok.quantize.revival import dead_codes, replace_codes
from jaxtok.quantize.vq_losses import cross_entropy
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


def distances_to_moved_codes(case, state):
    """Similarities whose gradient is the official one: the class moves its codes in place before the backward
    pass, which then reads the moved ones.
    """
    moved = jnp.asarray(case.after["_codebook.embed"][0])

    @jax.custom_vjp
    def similarity(x):
        return -jnp.linalg.norm(x[..., None, :] - state["codebook"], axis=-1)

    def backward(x, g):
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
    state = variables.get("quantizer", {})
    if "train.sampled.0" in io and name.startswith("kmeans"):
        fitted = kmeans(
            x.reshape(-1, x.shape[-1]),
            jnp.asarray(io["train.sampled.0"][0]),
            case.config["args"]["kmeans_iters"],
            module.metric,
        )
        state = {key: fitted[key] for key in state}

    if name == "affine":
        state = module.apply(variables, state, x, jax.random.key(0), method="initialise")

    def run(params, x):
        def forward(module):
            inner = module.inner(x)
            noise, similarity, codes = None, None, None
            if "train.noise.0" in io:
                drawn = jnp.asarray(io["train.noise.0"])
                if module.routing == "directional":
                    noise = drawn.reshape(inner.shape)
                else:
                    similarity = module.similarities(inner)
                    codes = jnp.argmax(
                        similarity / module.sample_temperature + drawn.reshape(similarity.shape), -1
                    )
            if name in ("cross_entropy_commitment", "diversity"):
                similarity = distances_to_moved_codes(case, state)(inner)
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
    if name == "freeze":
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
    similarity = distances_to_moved_codes(case, case.loaded.variables["quantizer"])
    given = jnp.asarray(case.io["arg.indices"].astype(np.int32))
    loss = lambda x: cross_entropy(similarity(x), given).mean()
    close(loss(x), case.io["train.loss"])
    close(jax.grad(loss)(x), case["train.grad_x_from_loss"])


def test_the_k_most_similar_codes(files):
    case = files["topk"]
    module, variables, x = case.loaded.module, case.loaded.variables, jnp.asarray(case["x"])
    similarity = module.apply(variables, x, method=lambda m, x: m.similarities(m.inner(x)))
    _, codes = jax.lax.top_k(similarity[:, :, 0], 3)
    np.testing.assert_array_equal(codes, case.io["train.indices"])
