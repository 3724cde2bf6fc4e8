"""The official layout of `RandomProjectionQuantizer`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.random_projection import RandomProjectionQuantizer
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers import vector
from jaxtok.systems.quantizers.vector import arguments_of
from jaxtok.weights import Entry, Table


def random_projection(config: Mapping[str, Any]) -> RandomProjectionQuantizer:
    """Our module for official arguments.

    Raises:
      ValueError: arguments without counterpart.
    """
    known = {"dim", "codebook_size", "codebook_dim", "num_codebooks", "norm"}
    a = arguments_of(config, known, "RandomProjectionQuantizer")
    slots, width = a.get("num_codebooks", 1), a["codebook_dim"]
    return RandomProjectionQuantizer(
        a["codebook_size"],
        a["dim"],
        width,
        slots,
        a.get("norm", True),
        # Each codebook of the class sees the projections of all of them, through a linear map.
        mixed_width=slots * width if slots > 1 else 0,
    )


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `RandomProjectionQuantizer(**config["args"])`."""
    module = random_projection(config)
    shapes = jax.eval_shape(
        lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 1, module.width)))
    )
    inner = VectorQuantizer(
        codes=module.codes,
        width=module.slots * module.code_width,
        code_width=module.slots * module.mixed_width,
        learning="frozen",
        metric="cosine",
        slots=module.slots,
    )
    books = vector.table(inner, prefix="vq.", ours="codebooks/")
    entries = Entry("rand_projs", "quantizer:projections"), *books.entries
    return OfficialComponent("quantizer", module, dict(shapes), Table(entries, books.unused), "rand_projs")
