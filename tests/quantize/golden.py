"""Recorded behaviour of the classes of `vector-quantize-pytorch`, one case per configuration."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.weights import read_tensors


@dataclasses.dataclass
class Recording:
    """One configuration.

    Attributes:
      config: class, constructor and forward arguments.
      loaded: our module and variables, from the state before.
      io: recorded arrays by name, such as "train.quantized".
      after: official state after one training step.
    """

    config: dict[str, Any]
    loaded: Any
    io: dict[str, np.ndarray]
    after: dict[str, np.ndarray]

    def __getitem__(self, name):
        """A recorded array of features, with tokens before channels."""
        return tokens_first(self.io[name], self.config)


class Recordings:
    """The configurations of a file by name; each is converted when it is asked for."""

    def __init__(self, path):
        self._tensors, metadata = read_tensors(path)
        self._configs = json.loads(metadata["config"])
        self._loaded = {}

    def _starts(self, prefix):
        return {k.removeprefix(prefix): v for k, v in self._tensors.items() if k.startswith(prefix)}

    def __getitem__(self, name):
        if name not in self._loaded:
            config = self._configs[name]
            tensors = self._starts(f"model.{name}.")
            loaded = convert.load("vector_quantize_pytorch", tensors, config)["model"]
            loaded = dataclasses.replace(loaded, variables=jax.tree.map(jnp.asarray, loaded.variables))
            io, after = self._starts(f"io.{name}."), self._starts(f"model_after.{name}.")
            self._loaded[name] = Recording(config, loaded, io, after)
        return self._loaded[name]


def with_gradients(function, cotangent, *arguments):
    """A training pass and its gradients, for one compilation.

    Args:
      function: returns a `Quantized`.
      cotangent: weights of its values.
      arguments: of the function, to differentiate by.

    Returns:
      What the function returns, the sum of its losses, and the gradients by the arguments of the weighed sum
      of values ("quantized") and of the losses ("loss").
    """

    def both(*arguments):
        out = function(*arguments)
        return (out.values, sum(out.losses.values(), jnp.float32(0))), out

    (values, loss), pull, out = jax.vjp(both, *arguments, has_aux=True)
    gradients = {
        "quantized": pull((jnp.asarray(cotangent, values.dtype), jnp.zeros_like(loss))),
        "loss": pull((jnp.zeros_like(values), jnp.ones_like(loss))),
    }
    return out, loss, gradients


def cases(all_of_them, quick):
    """Parameters of a parity test: the quick ones run by default, the others are slow."""

    def parameter(case):
        values = case if isinstance(case, tuple) else (case,)
        return pytest.param(*values, id="-".join(values), marks=() if case in quick else pytest.mark.slow)

    return [parameter(case) for case in all_of_them]


def channels_first(config):
    arguments = config["args"]
    return bool(
        arguments.get("accept_image_fmap")
        or arguments.get("channel_first")
        or arguments.get("is_channel_first")
        or arguments.get("channel_last") is False
    )


def tokens_first(x, config):
    """[B, N, D] of features that may be [B, D, N] or images."""
    x = np.asarray(x)
    if x.ndim == 2:  # single tokens
        return x[:, None]
    if x.ndim >= 4 or channels_first(config):
        return np.moveaxis(x, 1, -1).reshape(x.shape[0], -1, x.shape[1])
    return x


def close(ours, theirs, message="", atol=1e-5):
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=atol, rtol=1e-5, err_msg=message)


def alike(ours, theirs, message=""):
    """Of small numbers such as gradients: to 1e-5, and to 1e-4 of the largest."""
    close(ours, theirs, message, atol=min(1e-5, 1e-4 * float(np.abs(theirs).max())))
