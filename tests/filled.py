"""Parameters without compilation: eager initialisers compile one by one, which costs more than most tests."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def filled(module: Any, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Any]:
    """Variables of a Linen module, shaped by `init` but drawn with NumPy, nothing zero, of sensible size."""
    return draw_like(
        jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, *args, **kwargs)), seed
    )


def draw_like(shapes: Any, seed: int = 0) -> Any:
    """The same for a tree of shapes."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape)
        if name == "scale":
            noise = 1 + 0.1 * noise
        elif name == "kernel":
            noise = noise / math.sqrt(math.prod(leaf.shape[-2:-1] if leaf.ndim < 4 else leaf.shape[:-1]))
        else:
            noise = 0.3 * noise
        return jnp.asarray(noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    """Standard normal numbers, float32, drawn with NumPy."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
