"""The official layouts of `HierarchicalVQ` and of VAR's `VectorQuantizer2`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.multi_scale import MultiScaleQuantizer
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers import vector
from jaxtok.weights import Entry, Table, conv


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `HierarchicalVQ(**config["args"])`.

    The official class moves its codebook between the scales of one training pass; ours does so once per step,
    by `update`. Evaluation is the same.

    Raises:
      ValueError: arguments without counterpart.
    """
    known = {
        "dim", "codebook_size", "scales", "kmeans_init", "kmeans_iters", "accept_image_fmap",
        "share_quant_resi",
        "quant_resi", "decay", "threshold_ema_dead_code", "rotation_trick", "use_cosine_sim",
    }  # fmt: skip
    a = vector.arguments_of(config, known, "HierarchicalVQ")
    scales, shared = tuple(a["scales"]), a.get("share_quant_resi", 1)
    phis = min(len(scales), shared) if shared > 0 else len(scales)
    # Rounded positions, where VAR takes the nearest of evenly spread ticks.
    places = [i / max(len(scales) - 1, 1) * (phis - 1) for i in range(len(scales))]
    module = MultiScaleQuantizer(
        a["codebook_size"],
        a["dim"],
        scales,
        learning="ema",
        metric="cosine" if a.get("use_cosine_sim") else "euclidean",
        residual_ratio=a.get("quant_resi", 0.5),
        phis=phis,
        phi_by_scale=tuple(round(place) for place in places),
        interpolation="bilinear",
        decay=a.get("decay", 0.99),
    )
    names = ["phi_shared"] if shared == 1 else [f"phi_levels.{i}" for i in range(phis)]
    entries = [
        Entry(f"vq._codebook.{theirs}", f"quantizer:book/{ours}", vector.squeeze_leading(1))
        for theirs, ours in (("embed", "codebook"), ("cluster_size", "counts"), ("embed_avg", "sums"))
    ]
    entries += [entry for i, name in enumerate(names) for entry in _conv(f"{name}.conv", f"phi_{i}")]
    table = Table(tuple(entries), (r"vq\._codebook\.initted",))
    return OfficialComponent("quantizer", module, _shapes(module), table, "vq._codebook.embed")


def var_component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of the quantizer in VAR's `VQVAE(**config["args"])`, names without prefix."""
    a = config["args"]
    module = MultiScaleQuantizer(
        a["vocab_size"],
        a["z_channels"],
        tuple(a["v_patch_nums"]),
        metric="cosine" if a.get("using_znorm") else "euclidean",
        commitment=a.get("beta", 0.25),
        residual_ratio=a.get("quant_resi", 0.5),
        phis=a.get("share_quant_resi", 4) or len(a["v_patch_nums"]),
    )
    entries = [Entry("embedding.weight", "book/codebook")]
    stem = {0: "quant_resi.{}", 1: "quant_resi.qresi"}.get(
        a.get("share_quant_resi", 4), "quant_resi.qresi_ls.{}"
    )
    for i in range(module.phis):
        entries += _conv(stem.format(i), f"phi_{i}")
    return OfficialComponent(
        "quantizer", module, _shapes(module), Table(tuple(entries), ("ema_vocab_hit_SV",)), "embedding.weight"
    )


def _conv(theirs: str, ours: str) -> list[Entry]:
    return [Entry(f"{theirs}.weight", f"{ours}/kernel", conv), Entry(f"{theirs}.bias", f"{ours}/bias")]


def _shapes(module: MultiScaleQuantizer) -> dict[str, Any]:
    grid = jnp.zeros((1, *module.layout.scales[-1], module.width))
    return dict(jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, grid)))
