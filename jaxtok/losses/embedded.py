"""A small feature network trained on the embedded digits: what perceptual losses use when there are no
weights.

It stands in for VGG where nothing can be downloaded, so that everything that uses a perceptual loss runs and
can be tested. Numbers made with it are about strokes, not natural images, and must not be called LPIPS.

Its weights lie beside this file, so that it is the same network on every machine: training it anew gives one
that is as good but differs in its last digits. `python -m jaxtok.losses.embedded` made the file.
"""

import functools
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from jaxtok.param_trees import flatten, unflatten
from jaxtok.tensor_files import read_tensors, write_tensors

WEIGHTS = Path(__file__).with_name("digits.safetensors")
WIDTHS = (16, 32, 64)
STEPS, BATCH, LEARNING_RATE = 200, 64, 3e-3
# The same 1500 of 1797 digits that `jaxtok.data` trains with: a loss must not have seen the held-out ones.
HELD_OUT, SPLIT_SEED = 297, 20_240_613


class DigitFeatures(nn.Module):
    """Three 3x3 convolutions (strides 1, 2, 2) and a linear classifier of their pooled output."""

    @nn.compact
    def __call__(
        self, image: Float[jax.Array, "B H W 1"]
    ) -> tuple[tuple[Float[jax.Array, "B _ _ _"], ...], Float[jax.Array, "B 10"]]:
        """One channel in [-1, 1], any size -> (the map after every convolution, the logits)."""
        x, maps = image.astype(jnp.float32), []
        for layer, width in enumerate(WIDTHS):
            stride = 1 if layer == 0 else 2
            x = nn.relu(nn.Conv(width, (3, 3), (stride, stride), padding=1, name=f"conv{layer}")(x))
            maps.append(x)
        return tuple(maps), nn.Dense(10, name="head")(jnp.mean(x, axis=(1, 2)))


def training_digits() -> tuple[np.ndarray, np.ndarray]:
    """(float32 images [1500, 8, 8, 1] in [-1, 1], labels [1500])."""
    from sklearn.datasets import load_digits  # slow to import

    bunch: Any = load_digits()
    chosen = np.random.default_rng(SPLIT_SEED).permutation(len(bunch.target))[HELD_OUT:]
    images = (bunch.images[chosen, :, :, None] / 8 - 1).astype(np.float32)
    return images, bunch.target[chosen].astype(np.int32)


@functools.cache
def trained_variables() -> dict[str, Any]:
    """The variables of `DigitFeatures`, float32, read from the package and kept in memory."""
    return unflatten(read_tensors(WEIGHTS)[0])


def train() -> dict[str, Any]:
    """Trains `DigitFeatures` anew, in a few seconds; what the weight file was made by."""
    images, labels = map(jnp.asarray, training_digits())
    module, optimizer = DigitFeatures(), optax.adam(LEARNING_RATE)

    def loss(variables: Any, rows: jax.Array) -> jax.Array:
        _, logits = cast(tuple[Any, jax.Array], module.apply(variables, images[rows]))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]))

    @jax.jit
    def step(variables: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
        rows = jax.random.randint(key, (BATCH,), 0, len(images))
        updates, state = optimizer.update(jax.grad(loss)(variables, rows), state)
        return optax.apply_updates(variables, updates), state

    key_init, key_steps = jax.random.split(jax.random.key(0))
    variables = jax.jit(module.init)(key_init, images[:1])
    state = optimizer.init(variables)
    # Not a scan: XLA's CPU back end runs convolutions inside a loop several times slower.
    for key in jax.random.split(key_steps, STEPS):
        variables, state = step(variables, state, key)
    return jax.device_get(variables)


if __name__ == "__main__":
    write_tensors(WEIGHTS, flatten(train()), {"format": "jaxtok"})
