"""The official layouts of `HierarchicalVQ` and of VAR's `VectorQuantizer2`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.multi_scale import MultiScaleQuantizer, multi_scale_vq
from jaxtok.quantize.pyramid import Pyramid, phi_of_scale
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers import vector
from jaxtok.weights import Entry, Table, conv

_OWN = {
    "dim", "codebook_size", "scales", "shared_codebook", "channel_first", "accept_image_fmap",
    "accept_3d_fmap", "share_quant_resi", "quant_resi", "nested_dropout", "nested_dropout_min_levels",
}  # fmt: skip
# Passed on to its `VectorQuantize`, with its own defaults.
_INNER = {
    "decay": 0.99,
    "commitment_weight": 1.0,
    "rotation_trick": False,
    "threshold_ema_dead_code": 2,
    "stochastic_sample_codes": False,
    "sample_codebook_temp": 0.1,
    "orthogonal_reg_weight": 0.0,
    "orthogonal_reg_max_codes": 128,
    "orthogonal_reg_active_codes_only": False,
    "kmeans_init": True,
    "kmeans_iters": 10,
    "sync_codebook": None,
}


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `HierarchicalVQ(**config["args"])`.

    The official class moves a shared codebook, and replaces its dead codes, between the scales of one
    training pass; ours does so once per step, by `update`, which makes the steps of all scales one after the
    other. It starts k-means with the first pass, from the cells of the coarsest scale alone; ours by
    `initialise`, from those of all scales. It drops scales of the whole batch, and averages losses over those
    that are left; ours of some examples, whose loss at a dropped scale counts as 0.

    Raises:
      ValueError: arguments without counterpart.
    """
    a = vector.arguments_of(config, {*_OWN, *_INNER}, "HierarchicalVQ")
    sizes, scales = a["codebook_size"], tuple(a["scales"])
    sizes = {sizes} if isinstance(sizes, int) else set(sizes)
    if len(sizes) > 1:
        raise ValueError(
            f"codebook_size={a['codebook_size']}: one slot has one alphabet; give all scales the same size"
        )
    inner = {name: a.get(name, default) for name, default in _INNER.items()}
    arguments = {"dim": a["dim"], "codebook_size": sizes.pop(), **inner}
    book = vector.quantizer({"args": arguments})
    shared, share = a.get("shared_codebook", True), a.get("share_quant_resi", 1)
    phis = min(len(scales), share) if share > 0 else len(scales)
    # Rounded positions, where VAR takes the nearest of evenly spread ticks.
    places = [i / max(len(scales) - 1, 1) * (phis - 1) for i in range(len(scales))]
    pyramid = Pyramid(
        tuple(s if isinstance(s, int) else tuple(s) for s in scales),
        a["dim"],
        axes=2 if a.get("accept_image_fmap") else 3 if a.get("accept_3d_fmap") else 1,
        residual_ratio=abs(a.get("quant_resi", 0.5)),
        phis=phis,
        phi_by_scale=tuple(round(place) for place in places),
        interpolation="linear",
    )
    books = tuple(book.clone() for _ in range(1 if shared else len(scales)))
    at_least = a.get("nested_dropout_min_levels", 1)
    drops = a.get("nested_dropout", 0.0) if at_least < len(scales) else 0.0
    module = MultiScaleQuantizer(books, pyramid, "scales", dropout=drops, at_least=at_least)
    entries, unused = [], []
    for i, one in enumerate(books):
        table = vector.table(one, "vq." if shared else f"vqs.{i}.", f"quantizers_{i}/")
        entries += table.entries
        unused += table.unused
    names = ["phi_shared"] if share == 1 else [f"phi_levels.{i}" for i in range(phis)]
    entries += [entry for i, name in enumerate(names) for entry in _conv(f"{name}.conv", i)]
    signature = "vq._codebook.embed" if shared else "vqs.0._codebook.embed"
    table = Table(tuple(entries), tuple(unused))
    return OfficialComponent("quantizer", module, _shapes(module), table, signature)


def var_component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of the quantizer in VAR's `VQVAE(**config["args"])`, names without prefix."""
    a = config["args"]
    share, ratio = a.get("share_quant_resi", 4), abs(a.get("quant_resi", 0.5))
    module = multi_scale_vq(
        tuple(a["v_patch_nums"]),
        a["vocab_size"],
        a["z_channels"],
        metric="cosine" if a.get("using_znorm") else "euclidean",
        own_length=True,
        commitment=a.get("beta", 0.25),
        residual_ratio=ratio,
        phis=(share or a.get("default_qresi_counts") or len(a["v_patch_nums"])) if ratio > 1e-6 else 0,
    )
    entries = [Entry("embedding.weight", "quantizers_0/codebook")]
    stem = {0: "quant_resi.{}", 1: "quant_resi.qresi"}.get(share, "quant_resi.qresi_ls.{}")
    phis, unused = module.pyramid.phis, ["ema_vocab_hit_SV"]
    # With few scales some convolutions are no scale's nearest: the official class has them all the same.
    used = set(phi_of_scale(len(a["v_patch_nums"]), phis)) if phis else set()
    for i in range(phis):
        if i in used:
            entries += _conv(stem.format(i), i)
        else:
            unused.append(rf"{re.escape(stem.format(i))}\.(weight|bias)")
    return OfficialComponent(
        "quantizer", module, _shapes(module), Table(tuple(entries), tuple(unused)), "embedding.weight"
    )


def _conv(theirs: str, i: int) -> list[Entry]:
    ours = f"pyramid/phi_{i}"
    return [Entry(f"{theirs}.weight", f"{ours}/kernel", conv), Entry(f"{theirs}.bias", f"{ours}/bias")]


def _shapes(module: MultiScaleQuantizer) -> dict[str, Any]:
    grid = jnp.zeros((1, *module.pyramid.shape, module.pyramid.width))
    return vector.without_offsets(jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, grid)))
