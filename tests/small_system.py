"""The smallest Instella-T2I that has all of its parts, and what trains it; a step compiles in seconds."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.nn.byte_text import byte_ids
from jaxtok.priors.autoregressive import AutoregressiveSettings
from jaxtok.priors.binary_diffusion import DiffusionSettings
from jaxtok.quantize.binary import BinaryConfig
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.instella_t2i import InstellaT2I, PriorShape, TextShape
from jaxtok.systems.objectives import PriorObjective, objective_for
from jaxtok.tokenizers.query_vit import ViTShape
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import MeshShape, Rule, make_mesh, shardings, to_global

_VIT = ViTShape(1, 1, 16, axes_dims=(8, 4, 4))
SMALL = InstellaT2I(
    image_size=8,
    channels=1,
    patch=4,
    tokens=3,
    quantizer=BinaryConfig(bits=4, temperature=1.0),
    encoder=_VIT,
    decoder=_VIT,
    scale=None,
    prior=PriorShape(1, 2, 8),
    text=TextShape(length=16, layers=1, heads=1, head_dim=16),
    diffusion_settings=DiffusionSettings(steps=2),
    autoregressive_settings=AutoregressiveSettings(),
)
SMALL_VQ = dataclasses.replace(
    SMALL, quantizer=VQConfig(codes=16, learning="ema", decay=0.95, revive_below=0.1)
)

# Adam divides a gradient by its own size, so where it is almost zero a rounding error would count fully.
FIT = TrainConfig(steps=10, learning_rate=1e-2, warmup_steps=0, eps=1e-3, ema_decay=0.9)


def small_batch(size: int = 8, side: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch as the pipeline makes it, of noise."""
    rng = np.random.default_rng(seed)
    text, text_mask = byte_ids([f"a handwritten {digit}" for digit in rng.integers(10, size=size)], 16)
    return {
        "image": rng.integers(256, size=(size, side, side, 1), dtype=np.uint8),
        "label": rng.integers(10, size=size, dtype=np.int32),
        "text": text,
        "text_mask": text_mask,
    }


def tokenizer_update(model: InstellaT2I = SMALL, fit: TrainConfig = FIT) -> Any:
    return gradient(objective_for(model.quantizer)(model.tokenizer()), fit)


def prior_update(name: str, model: InstellaT2I = SMALL, fit: TrainConfig = FIT) -> Any:
    return gradient(PriorObjective(model.prior_named(name), model.encode, model.condition), fit)


def take_steps(
    update: Any,
    batches: list[dict[str, np.ndarray]],
    frozen: Any = None,
    shape: MeshShape | None = None,
    rules: tuple[Rule, ...] = (),
) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """Final state and metrics per step, on the host; on device 0 without a mesh, else as the loop does it.

    The first state is drawn here: compiling `init` would take as long as compiling a step.
    """
    frozen, key, metrics = frozen or {}, jax.random.key(7), []
    shapes = jax.eval_shape(update.init, key, batches[0], frozen)
    state = {
        "step": jnp.int32(0),
        "optimizer": jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes["optimizer"]),
        "params": random_like(shapes["params"]),
        "ema": random_like(shapes["params"]),
    }
    # Sums of a codebook are of any sign; its counts must be positive.
    state |= {name: jax.tree.map(jnp.abs, random_like(s)) for name, s in shapes.items() if name not in state}
    if shape is None:
        step = jax.jit(update)
        for batch in batches:
            state, values = step(state, batch, frozen, key)
            metrics.append(jax.device_get(values))
        return jax.device_get(state), metrics
    mesh = make_mesh(shape)
    spoken = [dataclasses.replace(rule, optional=True) for rule in rules]  # not all of them about `frozen`
    frozen = jax.device_put(frozen, shardings(frozen, spoken, mesh))
    with jax.set_mesh(mesh):
        placed = shardings(shapes, rules, mesh)
        state = jax.device_put(state, placed)
        # Told where the next state lies: it would be another program's otherwise, as in `train/step.py`.
        step = jax.jit(update, donate_argnums=0, out_shardings=(placed, None))
        for batch in batches:
            state, values = step(state, to_global(batch, mesh), frozen, key)
            metrics.append(jax.device_get(values))
    return jax.device_get(state), metrics


def assert_trees_close(actual: Any, expected: Any, tolerance: float, ignore: str = "") -> None:
    """Same structure, and every leaf within `tolerance` (absolute, and relative to the expected one)."""
    actual, expected = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (actual, expected))
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        name = jax.tree_util.keystr(path)
        if not ignore or ignore not in name:
            np.testing.assert_allclose(actual[path], leaf, rtol=tolerance, atol=tolerance, err_msg=name)


def random_like(shapes: Any, seed: int = 0) -> Any:
    """Small normal numbers in the shapes of a tree: parameters without compiling their initialisers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes)
