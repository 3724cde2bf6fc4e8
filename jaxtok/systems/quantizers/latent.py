"""The official layout of `LatentQuantize`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.latent import LatentQuantizer
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers.scalar import projection_entries
from jaxtok.systems.quantizers.vector import arguments_of
from jaxtok.weights import Entry, Table

_UNUSED = {"keep_num_codebooks_dim", "channel_first"}


def latent(config: Mapping[str, Any]) -> LatentQuantizer:
    """Our module for official arguments.

    Raises:
      ValueError: arguments without counterpart.
    """
    known = {
        "levels", "dim", "commitment_loss_weight", "quantization_loss_weight", "num_codebooks",
        "codebook_dim", "optimize_values", *_UNUSED,
    }  # fmt: skip
    a = arguments_of(config, known, "LatentQuantize")
    levels = a["levels"]
    return LatentQuantizer(
        (levels,) * a["codebook_dim"] if isinstance(levels, int) else tuple(levels),
        a["dim"],
        a.get("num_codebooks", 1),
        # The official names go by what is detached the other way round.
        commitment=float(a.get("quantization_loss_weight", 0.1)),
        values_weight=float(a.get("commitment_loss_weight", 0.1)),
        learn_values=a.get("optimize_values", True),
        compare="outputs",
        spread="grid",
    )


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `LatentQuantize(**config["args"])`."""
    module = latent(config)
    shapes = jax.eval_shape(
        lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 2, module.width)))
    )
    entries = projection_entries() if module.width != module.space.slots else []
    if module.learn_values:
        entries += [Entry(f"values_per_latent.{i}", f"values_{i}") for i in range(len(module.levels))]
    return OfficialComponent("quantizer", module, dict(shapes), Table(tuple(entries)), "values_per_latent.0")
