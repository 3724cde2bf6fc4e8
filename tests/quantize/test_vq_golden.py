"""Parity with the recorded `VectorQuantize`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.quantize.codebook import kmeans
from jaxtok.quantize.revival import dead_codes, replace_codes
from jaxtok.quantize.vq_losses import cross_entropy, similarities
from jaxtok.quantize.vq_state import by_book, each_book
from tests.quantize.golden import Recordings, cases, close, with_gradients

IN_PLACE_RATE = 0.5  # of the recorded optimizer
# "vq_bridge", a map of the codebook, is in test_simvq.
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
    return Recordings(shared("goldens/vq_zoo_VectorQuantize.safetensors"))


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


@pytest.mark.parametrize("name", cases(NAMES, ["euclidean_ema", "learnable_sync_v"]))
def test_it_does_what_the_official_class_does(files, name):
    case = files[name]
    module, variables, io = case.loaded.module, case.loaded.variables, case.io
    mask = jnp.asarray(io["arg.mask"].astype(bool)) if "arg.mask" in io else None
    official = case.config["args"]

    def start(variables, x):
        """The state that the recorded forward pass has met."""
        state = variables.get("quantizer", {})
        if official.get("kmeans_init"):
            points, weights = by_book(module.apply(variables, x, method="inner"), mask, module.books)
            fit = lambda z, w, means: kmeans(z, means, official.get("kmeans_iters", 10), module.metric, w)
            means = jnp.asarray(io["train.sampled.0"])
            state = each_book(fit, module.books, points, weights, means[0] if module.books == 1 else means)
        if module.affine:  # the first forward pass sets the moments
            books = {"codebook": variables["params"]["codebook"]} if module.learning == "gradient" else {}
            fitted = module.apply(variables, state | books, x, jax.random.key(0), mask, method="initialise")
            state = {key: fitted[key] for key in state}
        return state

    def train(params, state, x):
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

    @jax.jit
    def run(variables, x):
        state, params, found = start(variables, x), variables["params"], {}
        if "eval.quantized" in io:
            found["eval"] = module.apply(variables, x, mask=mask)
        if name == "inplace_sgd":
            # The class steps its codebook within the forward pass and quantizes again; here the caller does.
            gradient = jax.grad(lambda params: train(params, state, x).losses["codebook"])(params)
            params = jax.tree.map(lambda p, g: p - IN_PLACE_RATE * g, params, gradient)
        pass_ = with_gradients(lambda p, x: train(p, state, x), case["train.cotangent"], params, x)
        if name != "freeze":  # said in the call, which our modules do not know
            new = module.update(state, pass_[0].statistics, jax.random.key(0))
            found["state"] = {"codebook": params["codebook"]} | new if "codebook" in params else new
        return {**found, "train": pass_}

    found = jax.device_get(run(variables, jnp.asarray(case["x"])))
    if "eval" in found:
        close(found["eval"].values, case["eval.quantized"], "values in evaluation")
        theirs = codes_of(case, "eval.indices")
        np.testing.assert_array_equal(found["eval"].codes, np.where(theirs < 0, 0, theirs))
    out, loss, gradients = found["train"]
    close(out.values, case["train.quantized"], "values in training")
    theirs = codes_of(case, "train.indices")
    np.testing.assert_array_equal(out.codes, np.where(theirs < 0, 0, theirs))
    # One official term moves both sides of a learned codebook; here it is two terms of the same value.
    close(loss - out.losses.get("codebook", 0.0), io["train.loss"].sum(), "loss")
    close(gradients["quantized"][1], case["train.grad_x_from_quantized"], "gradient of values")
    if "train.grad_x_from_loss" in io:
        close(gradients["loss"][1], case["train.grad_x_from_loss"], "gradient of losses")
    for what, (by_params, _) in gradients.items():
        prefix = f"train.grad_from_{what}."
        recorded = {key.removeprefix(prefix): value for key, value in io.items() if key.startswith(prefix)}
        if recorded:
            variables_like = {**variables, "params": by_params}
            ours = convert.save(dataclasses.replace(case.loaded, variables=variables_like))
            for key, value in recorded.items():
                close(ours[key], value, f"gradient of {key} by {what}")
    if "state" not in found:
        return
    state = found["state"]
    if "train.sampled.0" in io and module.revive_below:
        state, dead = jax.jit(functools.partial(revived, module))(state, io["train.sampled.0"][0])
        assert dead == len(io["train.sampled.0"][0])
    after = {key: value[0] if module.books == 1 else value for key, value in case.after.items() if value.ndim}
    names = {"codebook": "_codebook.embed", "counts": "_codebook.cluster_size", "sums": "_codebook.embed_avg"}
    for ours, theirs in names.items():
        if ours in state:
            close(state[ours], after[theirs], f"{theirs} after a step")


def revived(module, state, sampled):
    """The state after dead codes have become the recorded samples, in turn, and the number of dead codes."""
    dead, count = dead_codes(state["counts"], module.revive_below, module.revive_unit)
    places = jnp.flatnonzero(dead, size=len(sampled), fill_value=dead.size)
    vectors = jnp.zeros_like(state["codebook"]).at[places].set(sampled, mode="drop")
    return replace_codes(state, dead, vectors, count), jnp.sum(dead)


def test_cross_entropy_to_given_codes(files):
    case = files["ce_to_given_indices"]
    given = jnp.asarray(case.io["arg.indices"].astype(np.int32))[..., None]

    @jax.jit
    def run(codebook, x):
        similarity = similarities_to_moved_codes(case, codebook)
        return jax.value_and_grad(lambda x: cross_entropy(similarity(x[:, :, None]), given).mean())(x)

    loss, gradient = run(case.loaded.variables["quantizer"]["codebook"], jnp.asarray(case["x"]))
    close(loss, case.io["train.loss"])
    close(gradient, case["train.grad_x_from_loss"])


def test_the_k_most_similar_codes(files):
    case = files["topk"]
    module, variables, x = case.loaded.module, case.loaded.variables, jnp.asarray(case["x"])
    codes = jax.jit(lambda variables, x: module.apply(variables, x, 3, method="nearest_codes"))(variables, x)
    np.testing.assert_array_equal(codes[:, :, 0], case.io["train.indices"])
