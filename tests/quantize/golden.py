"""Recorded behaviour of the classes of `vector-quantize-pytorch`, one case per configuration."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def recordings(path, skip=(), only=None):
    """All configurations of a file by name, or only some."""
    tensors, metadata = read_tensors(path)
    configs = {
        name: c for name, c in json.loads(metadata["config"]).items() if "class" in c and name not in skip
    }
    configs = configs if only is None else {name: configs[name] for name in only}
    starts = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    out = {}
    for name, config in configs.items():
        loaded = convert.load("vector_quantize_pytorch", starts(f"model.{name}."), config)["model"]
        loaded = dataclasses.replace(loaded, variables=jax.tree.map(jnp.asarray, loaded.variables))
        out[name] = Recording(config, loaded, starts(f"io.{name}."), starts(f"model_after.{name}."))
    return out


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
    np.testing.assert_allclose(np.asarray(jnp.asarray(ours)), theirs, atol=atol, rtol=1e-5, err_msg=message)


def alike(ours, theirs, message=""):
    """Of small numbers such as gradients: to 1e-5, and to 1e-4 of the largest."""
    close(ours, theirs, message, atol=min(1e-5, 1e-4 * float(np.abs(theirs).max())))
