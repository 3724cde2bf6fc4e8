"""The official layout of `VectorQuantize`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantize import affine
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.systems.official import OfficialComponent
from jaxtok.weights import Entry, Table, dense, reshape, squeeze_leading

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
# Arguments that say how arrays are laid out or summed over processes, or when state starts and moves: nothing
# of the forward pass. Our state starts with `initialise` and moves with `update`, on statistics of the whole
# batch; a codebook that is a parameter moves with the caller's optimizer.
_ELSEWHERE = {
    "accept_image_fmap",
    "accept_3d_fmap",
    "channel_last",
    "kmeans_init",
    "kmeans_iters",
    "sync_kmeans",
    "sync_codebook",
    "sync_affine_param",
    "manual_ema_update",
    "in_place_codebook_optimizer",
    "manual_in_place_optimizer_update",
    "eps",  # the official class never reads it
}
_OWN = {
    "dim", "codebook_size", "codebook_dim", "heads", "separate_codebook_per_head", "use_cosine_sim",
    "rotation_trick", "directional_reparam", "threshold_ema_dead_code", "stochastic_sample_codes",
    "sample_codebook_temp", "straight_through", "layernorm_after_project_in", "freeze_codebook",
    "commitment_use_cross_entropy_loss", "learnable_codebook", "ema_update", "affine_param",
    "affine_param_batch_decay", "affine_param_codebook_decay", "route_gradients_to_input",
    "orthogonal_reg_active_codes_only", "orthogonal_reg_max_codes", "return_zeros_for_masked_padding",
}  # fmt: skip

_BATCH_MOMENTS = {"batch_mean": 0.0, "batch_variance": 1.0}


def arguments_of(config: Mapping[str, Any], known: set[str], what: str) -> dict[str, Any]:
    """Constructor arguments, checked against those that are understood.

    Raises:
      ValueError: there are others with a value.
    """
    arguments = {name: value for name, value in config.get("args", {}).items() if value is not None}
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise ValueError(f"{what} with {unknown} has no counterpart here; known are {sorted(known)}")
    return arguments


def quantizer(config: Mapping[str, Any]) -> VectorQuantizer:
    """Our module for official constructor arguments.

    Raises:
      ValueError: arguments without counterpart, or that contradict each other.
    """
    a = arguments_of(config, {*_OWN, *_SAME, *_ELSEWHERE}, "VectorQuantize")
    directional = bool(a.get("directional_reparam"))
    turned = a.get("rotation_trick", a["dim"] > 1 and not directional)
    _refuse_contradictions(a, turned)
    heads, width, threshold = a.get("heads", 1), a["dim"], a.get("threshold_ema_dead_code", 0)
    inner = a.get("codebook_dim", width) * heads
    learning = _learning(a)
    commitment = float(a.get("commitment_weight", 1.0))
    settings: dict[str, Any] = {
        "decay": 0.8,
        "commitment": 1.0,
        # One official term trains features and codes: without detaching, it is the sum of both of ours.
        "codebook_weight": commitment if a.get("learnable_codebook") and not directional else 0.0,
        "codes": a["codebook_size"],
        "width": width,
        "code_width": inner if inner != width else 0,
        "learning": learning,
        "metric": "cosine" if a.get("use_cosine_sim") else "euclidean",
        "routing": "directional" if directional else "rotation" if turned else "straight_through",
        "slots": heads,
        "share_codebook": heads > 1 and not a.get("separate_codebook_per_head"),
        "normalise_projected": bool(a.get("layernorm_after_project_in")) and inner != width,
        "commitment_form": "cross_entropy" if a.get("commitment_use_cross_entropy_loss") else "mse",
        "sample_temperature": a.get("sample_codebook_temp", 1.0) if a.get("stochastic_sample_codes") else 0.0,
        "affine": bool(a.get("affine_param")),
        "affine_decays": (
            a.get("affine_param_codebook_decay", affine.DECAYS[0]),
            a.get("affine_param_batch_decay", affine.DECAYS[1]),
        ),
        "orthogonal_active": bool(a.get("orthogonal_reg_active_codes_only")),
        "orthogonal_codes": a.get("orthogonal_reg_max_codes", 0),
        "revive_below": float(threshold) if learning != "frozen" else 0.0,
        "revive_unit": "tokens",
        "revival": "sample",
    }
    same: dict[str, Any] = {_SAME[name]: float(a[name]) for name in _SAME if name in a}
    return VectorQuantizer(**(settings | same))


def _learning(a: Mapping[str, Any]) -> str:
    directional = bool(a.get("directional_reparam"))
    if a.get("freeze_codebook"):
        return "frozen"
    if a.get("learnable_codebook", directional) or a.get("orthogonal_reg_weight"):
        return "gradient"
    return "ema" if a.get("ema_update", not directional) else "frozen"


def _refuse_contradictions(a: Mapping[str, Any], turned: bool) -> None:
    directional = bool(a.get("directional_reparam"))
    if not a.get("return_zeros_for_masked_padding", True):
        raise ValueError(
            "return_zeros_for_masked_padding=False hands padding on as it came; here masked tokens are zeros"
        )
    if not a.get("route_gradients_to_input", True):
        raise ValueError(
            "route_gradients_to_input=False leaves the features without the gradient of what is decoded from "
            "them; leave it True, or stop the gradient before the quantizer"
        )
    if bool(a.get("straight_through")) + turned + directional > 1:
        raise ValueError("choose one of straight_through, rotation_trick and directional_reparam")
    by_gradient = a.get("learnable_codebook", directional) or a.get("orthogonal_reg_weight")
    if by_gradient and not a.get("freeze_codebook") and a.get("ema_update", not directional):
        raise ValueError(
            "a codebook moved by gradient (learnable_codebook, directional_reparam, orthogonal_reg_weight) "
            "cannot follow moving averages too, which overwrite it; pass ema_update=False"
        )
    if by_gradient and a.get("straight_through"):
        raise ValueError(
            "straight_through with a learnable codebook has no counterpart; see jaxtok.quantize.gumbel"
        )


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `VectorQuantize(**config["args"])`."""
    module = quantizer(config)
    shapes = without_offsets(
        jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 1, module.width))))
    )
    defaults = {}
    if module.affine:  # the official class has these only after its first step
        shape = (module.books, 1, (module.code_width or module.width) // module.slots)
        for name, value in _BATCH_MOMENTS.items():
            defaults[f"_codebook.{name}"] = np.full(shape, value, np.float32)
    return OfficialComponent("quantizer", module, shapes, table(module), "_codebook.embed", defaults)


def without_offsets(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables without what our state adds to codebooks that are parameters; official layouts know none."""
    return {
        name: without_offsets(value) if isinstance(value, Mapping) else value
        for name, value in variables.items()
        if name != "offset"
    }


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
        width = (module.code_width or module.width) // module.slots
        moments = reshape((module.books, width), (module.books, 1, width))
        moments = squeeze_leading(2) if module.books == 1 else moments
        for theirs, name in (("codebook", "code"), ("batch", "batch")):
            for kind in ("mean", "variance"):
                path = f"quantizer:{ours}{name}_{kind}"
                entries.append(Entry(f"{prefix}_codebook.{theirs}_{kind}", path, moments))
    if module.learning == "gradient":
        entries.append(state("embed", "codebook", ""))
        if module.revive_below:
            entries.append(state("cluster_size", "counts", "quantizer:"))
        unused.append(rf"{prefix}_codebook\.(embed_avg|cluster_size)")
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
