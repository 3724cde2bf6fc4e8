"""The official layouts of `FSQ` and `FSP`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.fsp import FSP
from jaxtok.quantize.fsq import FSQ
from jaxtok.quantize.moments import Regulariser
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers.vector import arguments_of
from jaxtok.weights import Entry, Table, dense

_LAYOUT = {"channel_first", "return_indices", "allowed_dtypes", "force_quantization_f32"}


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `FSQ(**config["args"])` or `FSP(...)`.

    Raises:
      ValueError: arguments without counterpart.
    """
    module = {"FSQ": fsq, "FSP": fsp}[config["class"]](config)
    slots = len(module.space.levels)
    width = module.width or slots
    entries = projection_entries(bias=module.projection_bias) if width != slots else []
    if isinstance(module, FSQ) and module.rotated:
        entries.append(Entry("orthogonal_rot", "quantizer:rotation"))
    shapes = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 2, width))))
    return OfficialComponent("quantizer", module, dict(shapes), Table(tuple(entries)), "project_in.weight")


def fsq(config: Mapping[str, Any]) -> FSQ:
    """Our module for official arguments."""
    known = {
        "levels", "dim", "num_codebooks", "preserve_symmetry", "bound_hard_clamp", "noise_dropout", "scale",
        "orthogonal_rotation", "keep_num_codebooks_dim", "projection_has_bias", *_LAYOUT,
    }  # fmt: skip
    a = arguments_of(config, known, "FSQ")
    return FSQ(
        tuple(a["levels"]),
        a.get("dim", 0),
        a.get("num_codebooks", 1),
        symmetric=bool(a.get("preserve_symmetry")),
        bound="clip" if a.get("bound_hard_clamp") else "tanh",
        noise=a.get("noise_dropout", 0.0),
        rotated=bool(a.get("orthogonal_rotation")),
        projection_bias=a.get("projection_has_bias", True),
    )


# Up to which moment, and the variance that is aimed at.
_REGULARISERS: dict[str, tuple[Regulariser, float]] = {
    "none": ("none", 1.0),
    "var": ("variance", 1.0),
    "var_tanh": ("variance", 0.8225),
    "var_sigmoid": ("variance", 3.29),
    "var_laplace": ("variance", 2.0),
    "skew": ("skewness", 1.0),
    "kurt": ("kurtosis", 1.0),
}


def fsp(config: Mapping[str, Any]) -> FSP:
    """Our module for official arguments."""
    known = {
        "levels", "dim", "act_name", "quantize_rate", "need_inv_act", "vector_norm", "projection_has_bias",
        *_LAYOUT,
    }  # fmt: skip
    a = arguments_of(config, known, "FSP")
    order = a.get("vector_norm", "var_tanh")
    if order not in _REGULARISERS:
        raise ValueError(f"vector_norm={order!r} has no counterpart here; known are {sorted(_REGULARISERS)}")
    regulariser, variance = _REGULARISERS[order]
    return FSP(
        tuple(a["levels"]),
        a.get("dim", 0),
        a.get("act_name", "tanh"),
        a.get("quantize_rate", 0.0),
        inverse=bool(a.get("need_inv_act")),
        regulariser=regulariser,
        target_variance=variance,
        projection_bias=a.get("projection_has_bias", True),
    )


def projection_entries(prefix: str = "", ours: str = "", bias: bool = True) -> list[Entry]:
    """`project_in` and `project_out` as our linear maps."""
    entries = []
    for theirs, name in (("project_in", "inward"), ("project_out", "outward")):
        entries.append(Entry(f"{prefix}{theirs}.weight", f"{ours}{name}/kernel", dense))
        if bias:
            entries.append(Entry(f"{prefix}{theirs}.bias", f"{ours}{name}/bias"))
    return entries
