"""The official layout of `VectorQuantize`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.systems.official import OfficialComponent
from jaxtok.weights import Entry, Table, dense, squeeze_leading

# Official argument -> our attribute.
_SAME = {
    "decay": "decay",
    "commitment_weight": "commitment",
    "orthogonal_reg_weight": "orthogonal_weight",
    "codebook_diversity_loss_weight": "diversity_weight",
    "codebook_diversity_temperature": "diversity_temperature",
    "directional_reparam_variance": "perturbation",
    "sync_update_v": "optimistic",
}
# Arguments that say how arrays are laid out, or how the state starts and is updated: nothing of the forward
# pass.
_ELSEWHERE = {
    "accept_image_fmap",
    "accept_3d_fmap",
    "channel_last",
    "kmeans_init",
    "kmeans_iters",
    "sync_kmeans",
    "eps",
    "return_zeros_for_masked_padding",
    "learnable_codebook",
    "ema_update",
    "affine_param",
}

_BATCH_MOMENTS = {"batch_mean": 0.0, "batch_variance": 1.0}


def arguments_of(config: Mapping[str, Any], known: set[str], what: str) -> dict[str, Any]:
    """Constructor arguments, checked against those that are understood.

    Raises:
      ValueError: there are others with a value.
    """
    arguments = {name: value for name, value in config.get("args", {}).items() if value is not None}
    unknown = sorted(name for name, value in arguments.items() if name not in known and value is not False)
    if unknown:
        raise ValueError(f"{what} with {unknown} has no counterpart here; known are {sorted(known)}")
    return arguments


def quantizer(config: Mapping[str, Any]) -> VectorQuantizer:
    """Our module for official constructor arguments.

    Raises:
      ValueError: arguments without counterpart.
    """
    known = {
        "dim", "codebook_size", "codebook_dim", "heads", "separate_codebook_per_head", "use_cosine_sim",
        "rotation_trick", "directional_reparam", "threshold_ema_dead_code", "stochastic_sample_codes",
        "sample_codebook_temp", "straight_through", "layernorm_after_project_in",
        "commitment_use_cross_entropy_loss", "freeze_codebook", *_SAME, *_ELSEWHERE,
    }  # fmt: skip
    a = arguments_of(config, known, "VectorQuantize")
    if a.get("straight_through") and a.get("learnable_codebook"):
        raise ValueError(
            "straight_through with a learnable codebook has no counterpart; use jaxtok.quantize.gumbel"
        )
    heads, width = a.get("heads", 1), a["dim"]
    inner = a.get("codebook_dim", width) * heads
    ours = {_SAME[name]: value for name, value in a.items() if name in _SAME}
    learnable = a.get("learnable_codebook", False) or bool(a.get("orthogonal_reg_weight"))
    directional = bool(a.get("directional_reparam"))
    moving = a.get("ema_update", not directional)
    turned = a.get("rotation_trick", width > 1 and not directional)
    settings = {
        "decay": 0.8,
        "commitment": 1.0,
        "codes": a["codebook_size"],
        "width": width,
        "code_width": inner if inner != width else 0,
        "learning": "gradient"
        if (learnable and not moving) or directional
        else "ema"
        if moving
        else "frozen",
        "codebook_weight": 0.0,
        "metric": "cosine" if a.get("use_cosine_sim") else "euclidean",
        "routing": "directional" if directional else "rotation" if turned else "straight_through",
        "slots": heads,
        "share_codebook": heads > 1 and not a.get("separate_codebook_per_head"),
        "normalise_projected": bool(a.get("layernorm_after_project_in")) and inner != width,
        "commitment_form": "cross_entropy" if a.get("commitment_use_cross_entropy_loss") else "mse",
        "sample_temperature": a.get("sample_codebook_temp", 1.0) if a.get("stochastic_sample_codes") else 0.0,
        "affine": bool(a.get("affine_param")),
        **ours,
    }
    # One official term trains features and codes: without detaching, it is the sum of both of ours.
    if settings["learning"] == "gradient" and not directional:
        settings["codebook_weight"] = settings["commitment"]
    return VectorQuantizer(**settings)


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `VectorQuantize(**config["args"])`."""
    module = quantizer(config)
    shapes = jax.eval_shape(
        lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 1, module.width)))
    )
    defaults = {}
    if module.affine:  # the official class has these only after its first step
        for name, value in _BATCH_MOMENTS.items():
            defaults[f"_codebook.{name}"] = np.full(
                (1, 1, module.code_width or module.width), value, np.float32
            )
    return OfficialComponent("quantizer", module, dict(shapes), table(module), "_codebook.embed", defaults)


def table(module: VectorQuantizer, prefix: str = "", ours: str = "") -> Table:
    """Names of one quantizer's tensors, behind a prefix on both sides."""
    book = squeeze_leading(1) if module.books == 1 else None

    def state(theirs: str, name: str, collection: str) -> Entry:
        path = f"{collection}{ours}{name}"
        entry = f"{prefix}_codebook.{theirs}"
        return Entry(entry, path, book) if book else Entry(entry, path)

    unused = [rf"{prefix}_codebook\.(initted|.*_needs_init)"]
    entries = []
    if module.affine:
        for theirs, name in (("codebook", "code"), ("batch", "batch")):
            for kind in ("mean", "variance"):
                path = f"quantizer:{ours}{name}_{kind}"
                entries.append(Entry(f"{prefix}_codebook.{theirs}_{kind}", path, squeeze_leading(2)))
    if module.learning == "gradient":
        entries.append(state("embed", "codebook", ""))
        unused.append(rf"{prefix}_codebook\.(cluster_size|embed_avg)")
    elif module.learning == "ema":
        names = {"embed": "codebook", "cluster_size": "counts", "embed_avg": "sums"}
        entries += [state(theirs, name, "quantizer:") for theirs, name in names.items()]
    else:
        entries.append(state("embed", "codebook", "quantizer:"))
        unused.append(rf"{prefix}_codebook\.(cluster_size|embed_avg)")
    if module.code_width:
        inward = "project_in.0" if module.normalise_projected else "project_in"
        for theirs, name in ((inward, "inward"), ("project_out", "outward")):
            entries.append(Entry(f"{prefix}{theirs}.weight", f"{ours}{name}/kernel", dense))
            entries.append(Entry(f"{prefix}{theirs}.bias", f"{ours}{name}/bias"))
        if module.normalise_projected:
            entries.append(Entry(f"{prefix}project_in.1.weight", f"{ours}inward_norm/scale"))
            entries.append(Entry(f"{prefix}project_in.1.bias", f"{ours}inward_norm/bias"))
    return Table(tuple(entries), tuple(unused))
