"""Parity with the recorded residual classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from tests.quantize.golden import channels_first, close, recordings

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


@pytest.fixture(scope="module")
def files(shared):
    loaded = {}

    def read(kind):
        if kind not in loaded:
            loaded[kind] = recordings(shared(f"goldens/vq_zoo_{kind}.safetensors"))
        return loaded[kind]

    return read


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


@pytest.mark.parametrize("kind, name", CASES, ids=[f"{k}-{n}" for k, n in CASES])
def test_it_does_what_the_official_class_does(files, kind, name):
    case = files(kind)[name]
    module, variables, io = case.loaded.module, case.loaded.variables, case.io
    x = jnp.asarray(case["x"])
    mask = jnp.asarray(io["arg.mask"].astype(bool)) if "arg.mask" in io else None
    theirs = tokens_before_depths(io["train.indices"], case)
    real = theirs >= 0
    if "dropout" in name:
        kept = int(real.reshape(-1, real.shape[-1])[0].sum())
        assert 1 <= kept < module.depths
    else:
        kept = None

    def run(variables, x, **options):
        return module.apply(variables, x, mask=mask, **options)

    if "eval.quantized" in io and name != "diveq":  # upstream perturbs in evaluation too
        out = run(variables, x)
        close(out.values, case["eval.quantized"], "values in evaluation")
        evaluated = tokens_before_depths(io["eval.indices"], case)
        ours = official_codes(module, out.codes, kind)
        np.testing.assert_array_equal(ours[evaluated >= 0], evaluated[evaluated >= 0])
        if "eval.decoded" in io:
            close(module.apply(variables, out.codes, method="decode"), case["eval.decoded"], "decoded")
    key = jax.random.key(0)
    extra = {} if kept is None else {"kept": kept}
    if name == "diveq":
        noise = jnp.asarray(io["train.noise.0"])
        train = lambda variables, x: perturbed(module, variables, x, noise)
    else:
        train = lambda variables, x: run(variables, x, train=True, key=key, **extra)
    out = train(variables, x)
    close(out.values, case["train.quantized"], "values in training")
    np.testing.assert_array_equal(official_codes(module, out.codes, kind)[real], theirs[real])
    cotangent = jnp.asarray(case["train.cotangent"])
    weigh = lambda x: jnp.vdot(train(variables, x).values, cotangent)
    close(jax.grad(weigh)(x), case["train.grad_x_from_quantized"], "gradient of values")
    if "train.loss" in io and name != "diveq":
        loss = lambda x: sum(train(variables, x).losses.values(), jnp.float32(0))
        # One official term moves both sides of a learned codebook; here it is two terms of the same value.
        twice = out.losses["codebook"] if name == "implicit_neural" else 0.0
        close(loss(x) - twice, io["train.loss"].sum(), "loss")
        close(jax.grad(loss)(x), case["train.grad_x_from_loss"], "gradient of the loss")
    state = variables.get("quantizer", {})
    if not any("cluster_size" in key for key in case.after) or not state or name == "diveq":
        return
    state = module.update(state, out.statistics, key)
    after = {key: value for key, value in case.after.items() if value.ndim}
    compared = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
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
    from jaxtok.codes import Quantized
    from jaxtok.quantize.routing import directional

    def forward(module, x):
        codes = module.encode(x)
        return codes, module.decode(codes)

    codes, total = module.apply(variables, x, method=forward)
    return Quantized(directional(x, total, noise, module.perturbation), codes)
