"""The official layout of `LFQ`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.quantize.lfq import LFQ
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers.scalar import projection_entries
from jaxtok.systems.quantizers.vector import arguments_of
from jaxtok.weights import Entry, Table


def quantizer(config: Mapping[str, Any]) -> LFQ:
    """Our module for official arguments.

    The official code number has its first bit as the most significant one, ours as the least.

    Raises:
      ValueError: arguments without counterpart.
    """
    known = {
        "dim", "codebook_size", "num_codebooks", "entropy_loss_weight", "commitment_loss_weight", "diversity_gamma",
        "codebook_scale", "spherical", "soft_clamp_input_value", "cosine_sim_project_in", "orthogonal_rotation",
        "cosine_sim_project_in_scale", "experimental_softplus_entropy_loss", "entropy_loss_offset",
        "keep_num_codebooks_dim", "channel_first", "force_quantization_f32",
    }  # fmt: skip
    a = arguments_of(config, known, "LFQ")
    groups = a.get("num_codebooks", 1)
    bits = (a["codebook_size"] - 1).bit_length() if "codebook_size" in a else a["dim"]
    if "codebook_size" in a and 2**bits != a["codebook_size"]:
        raise ValueError(f"codebook_size={a['codebook_size']} is not a power of two")
    width = a.get("dim", bits * groups)
    return LFQ(
        bits,
        groups,
        width,
        scale=a.get("codebook_scale", 1.0),
        spherical=bool(a.get("spherical")),
        commitment=a.get("commitment_loss_weight", 0.0),
        entropy_weight=a.get("entropy_loss_weight", 0.1),
        diversity=a.get("diversity_gamma", 1.0),
        softplus_offset=a.get("entropy_loss_offset", 5.0)
        if a.get("experimental_softplus_entropy_loss")
        else None,
        soft_clamp=a.get("soft_clamp_input_value", 0.0),
        project="cosine" if a.get("cosine_sim_project_in") else "linear",
        rotated=bool(a.get("orthogonal_rotation")),
        inverse_temperature=config.get("forward", {}).get("inv_temperature", 100.0),
    )


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `LFQ(**config["args"])`."""
    module = quantizer(config)
    entries = []
    if module.width != module.bits * module.groups:
        entries = projection_entries()
        if module.project == "cosine":  # stored as it is used, and without bias
            entries = [Entry("project_in.weight", "inward/kernel"), *entries[2:]]
    if module.rotated:
        entries.append(Entry("orthogonal_rot", "quantizer:rotation"))
    shapes = jax.eval_shape(
        lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 2, module.width)))
    )
    return OfficialComponent("quantizer", module, dict(shapes), Table(tuple(entries), ("mask",)), "mask")
