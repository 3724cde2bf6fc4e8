"""Parity with the recorded residual classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.routing import directional
from tests.quantize.golden import Recordings, cases, channels_first, close, with_gradients

FILES = {
    "ResidualVQ": "ema shared_codebook projection_cosine quantize_dropout different_sizes grad_frac diveq "
    "masked "
    "beam_train_batch1 implicit_neural",
    "ResidualLFQ": "residual clamped dropout",
    "ResidualFSQ": "residual soft_clamp channel_first dropout",
    "GroupedResidualVQ": "grouped grouped_cosine_proj",
    "GroupedResidualLFQ": "grouped",
    "GroupedResidualFSQ": "grouped",
    "ResidualSimVQ": "residual channel_first",
}
CASES = [(kind, name) for kind, names in FILES.items() for name in names.split()]


# The stack itself, groups, and a stack without children.
QUICK = [("ResidualVQ", "ema"), ("ResidualLFQ", "residual"), ("GroupedResidualFSQ", "grouped")]


@pytest.fixture(scope="module")
def files(shared):
    return functools.cache(lambda kind: Recordings(shared(f"goldens/vq_zoo_{kind}.safetensors")))


def tokens_before_depths(indices, case):
    """Official indices [..., N, depth]; those of images have the depth in front or behind."""
    if indices.ndim == 4 and channels_first(case.config):
        depth = case.loaded.module.depths
        behind = indices.shape[-1] == depth and indices.shape[1] != depth
        indices = indices if behind else np.moveaxis(indices, 1, -1)
        return indices.reshape(indices.shape[0], -1, depth)
    return indices


def official_codes(module, codes, kind):
    """[B, N, slots] as the official index per depth (and group, in front)."""
    codes = np.asarray(codes)
    if not hasattr(module, "quantizers"):  # a stack without children has one slot per depth
        return codes
    stacks = module.quantizers if kind.startswith("Grouped") else (module,)
    out = []
    for stack, part in zip(stacks, np.split(codes, len(stacks), axis=-1), strict=True):
        child = stack.quantizers[0]
        parts = np.split(part, stack.depths, axis=-1)
        if "FSQ" in kind:
            index = [CodeSpace(child.levels).join(p) for p in parts]
        elif "LFQ" in kind:
            index = [
                sum(((p[..., 0] >> j) & 1) << (child.bits - 1 - j) for j in range(child.bits)) for p in parts
            ]
        else:
            index = [p[..., 0] for p in parts]
        out.append(np.stack(index, axis=-1))
    return np.stack(out) if kind.startswith("Grouped") else out[0]


@pytest.mark.parametrize("kind, name", cases(CASES, QUICK))
def test_it_does_what_the_official_class_does(files, kind, name):
    case = files(kind)[name]
    module, variables, io, key = case.loaded.module, case.loaded.variables, case.io, jax.random.key(0)
    mask = jnp.asarray(io["arg.mask"].astype(bool)) if "arg.mask" in io else None
    theirs = tokens_before_depths(io["train.indices"], case)
    real, extra = theirs >= 0, {}
    if "dropout" in name:
        extra["kept"] = int(real.reshape(-1, real.shape[-1])[0].sum())
        assert 1 <= extra["kept"] < module.depths
    evaluates = "eval.quantized" in io and name != "diveq"  # upstream perturbs in evaluation too
    moves = any("cluster_size" in key for key in case.after) and "quantizer" in variables and name != "diveq"

    @jax.jit
    def run(variables, x):
        def train(x):
            if name == "diveq":
                return perturbed(module, variables, x, jnp.asarray(io["train.noise.0"]))
            return module.apply(variables, x, mask=mask, train=True, key=key, **extra)

        out, loss, gradients = with_gradients(train, case["train.cotangent"], x)
        found = {"out": out, "loss": loss, "gradients": gradients}
        if evaluates:
            found["eval"] = module.apply(variables, x, mask=mask)
            found["decoded"] = module.apply(variables, found["eval"].codes, method="decode")
        if moves:
            found["state"] = module.update(variables["quantizer"], out.statistics, key)
        return found

    found = jax.device_get(run(variables, jnp.asarray(case["x"])))
    if evaluates:
        close(found["eval"].values, case["eval.quantized"], "values in evaluation")
        evaluated = tokens_before_depths(io["eval.indices"], case)
        ours = official_codes(module, found["eval"].codes, kind)
        np.testing.assert_array_equal(ours[evaluated >= 0], evaluated[evaluated >= 0])
        if "eval.decoded" in io:
            close(found["decoded"], case["eval.decoded"], "decoded")
    out, gradients = found["out"], found["gradients"]
    close(out.values, case["train.quantized"], "values in training")
    np.testing.assert_array_equal(official_codes(module, out.codes, kind)[real], theirs[real])
    close(gradients["quantized"][0], case["train.grad_x_from_quantized"], "gradient of values")
    if "train.loss" in io and name != "diveq":
        # One official term moves both sides of a learned codebook; here it is two terms of the same value.
        twice = out.losses["codebook"] if name == "implicit_neural" else 0.0
        close(found["loss"] - twice, io["train.loss"].sum(), "loss")
        close(gradients["loss"][0], case["train.grad_x_from_loss"], "gradient of the loss")
    if not moves:
        return
    after = {key: value for key, value in case.after.items() if value.ndim}
    compared = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(found["state"]):
        names = [part.key for part in path]
        indices = [n.rpartition("_")[2] for n in names[:-1]]
        stem = f"rvqs.{indices[0]}.layers.{indices[1]}." if len(indices) == 2 else f"layers.{indices[0]}."
        if module_beam(module) and indices != ["0"]:
            continue  # upstream lets the paths that lost move the deeper codebooks too, several times
        official = {"codebook": "embed", "counts": "cluster_size", "sums": "embed_avg"}[names[-1]]
        close(leaf, after[f"{stem}_codebook.{official}"][0], f"{stem}{official}")
        compared += 1
    assert compared


def module_beam(module):
    return getattr(module, "beam", 1) > 1


def perturbed(module, variables, x, noise):
    """The training pass of a directional stack with recorded noise."""

    def forward(module, x):
        codes = module.encode(x)
        return codes, module.decode(codes)

    codes, total = module.apply(variables, x, method=forward)
    return Quantized(directional(x, total, noise, module.perturbation), codes)
