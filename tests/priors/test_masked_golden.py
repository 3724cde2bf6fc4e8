"""Steps of the official samplers of MaskGIT and of its Halton variant, given their logits and noise."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.decoding.unmasking import halton_order, masked_after
from jaxtok.priors.masked import MaskedSettings
from jaxtok.priors.masked_sampling import reveal
from jaxtok.tensor_files import read_tensors


def golden(shared, name):
    tensors, metadata = read_tensors(shared(f"goldens/{name}.safetensors"))
    io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
    return io, json.loads(metadata["config"])


@pytest.mark.parametrize("run", ["full", "edit", "square"])
def test_maskgit_draws_and_keeps_the_same(shared, run):
    io, config = golden(shared, "maskgit_transformer")
    arguments, space = config["decode"][run], CodeSpace((config["codebook_size"],))
    settings = dataclasses.replace(
        MaskedSettings.maskgit(arguments["num_iter"], arguments["choice_temperature"]),
        schedule=arguments["method"],
        start=arguments["start_iter"],
    )
    of = lambda name: io[f"decode.{run}.{name}"]
    step = jax.jit(reveal, static_argnames=("space", "settings"))
    ids, counts = of("inputs")[:, 1:], of("masks_after_step")
    for i, logits in enumerate(of("logits")):
        known = ids >= 0
        codes, known = step(
            logits[:, 1:],
            np.where(known, ids, 0)[..., None].astype(np.int32),
            known,
            counts[i].astype(np.int32),
            space,
            settings,
            (settings.start + i + 1) / settings.steps,
            [of("token_gumbel")[i][:, 1:]],
            of("choice_gumbel")[i][:, 1:],
        )
        drawn = of("sampled_per_step")[:, settings.start + i, 1:]
        np.testing.assert_array_equal(codes[..., 0], drawn, err_msg=f"draw {i}")
        ids = of("ids_after_step")[i][:, 1:]
        np.testing.assert_array_equal(np.where(known, codes[..., 0], -1), ids, err_msg=f"step {i}")


@pytest.mark.parametrize("run", ["halton_sampler", "halton_sampler_plain"])
def test_the_halton_sampler_reveals_the_same(shared, run):
    io, config = golden(shared, "halton_transformer")
    side, arguments = config["input_size"], config[run]
    tokens, values = side**2, config["codebook_size"] + 1  # the mask is a value that may be drawn
    settings = MaskedSettings.halton(arguments["step"], grid=(side, side))
    rank = np.argsort(halton_order((side, side)))
    shift = io[f"{run}.shift"][:, None] if arguments["randomize"] else np.zeros((4, 1), np.int64)
    rank = jnp.asarray((rank + shift) % tokens)
    counts = masked_after("arccos", settings.steps, tokens, rounding="known")[:, tokens]
    codes, known = jnp.zeros((4, tokens, 1), jnp.int32), jnp.zeros((4, tokens), bool)
    step = jax.jit(reveal, static_argnames=("space", "settings"))
    for i in range(settings.steps):
        before = np.asarray(known)
        codes, known = step(
            jnp.log(io[f"{run}.probs"][i]),
            codes,
            known,
            jnp.full(4, counts[i]),
            CodeSpace((values,)),
            settings,
            (i + 1) / settings.steps,
            [io[f"{run}.gumbel"][i]],
            jnp.zeros((4, tokens)),
            rank,
        )
        revealed = io[f"{run}.mask"][i].reshape(4, tokens) > 0
        np.testing.assert_array_equal(np.asarray(known) & ~before, revealed, err_msg=f"step {i}")
        predicted = io[f"{run}.predicted"][i].reshape(4, tokens)
        np.testing.assert_array_equal(
            np.asarray(codes)[revealed, 0], predicted[revealed], err_msg=f"step {i}"
        )
