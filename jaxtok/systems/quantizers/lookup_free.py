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

# Layout, precision, and a random fraction of tokens for the entropies, which is there to save memory: here
# they are cheap, and all tokens count.
_ELSEWHERE = {
    "keep_num_codebooks_dim",
    "channel_first",
    "force_quantization_f32",
    "frac_per_sample_entropy",
}


def quantizer(config: Mapping[str, Any]) -> LFQ:
    """Our module for official arguments.

    The official code number has its first bit as the most significant one, ours as the least.

    Raises:
      ValueError: arguments without counterpart.
    """
    known = {
        "dim", "codebook_size", "num_codebooks", "entropy_loss_weight", "commitment_loss_weight",
        "diversity_gamma", "codebook_scale", "spherical", "soft_clamp_input_value", "cosine_sim_project_in",
        "cosine_sim_project_in_scale", "orthogonal_rotation", "experimental_softplus_entropy_loss",
        "entropy_loss_offset", "has_projections", "projection_has_bias", *_ELSEWHERE,
    }  # fmt: skip
    a = arguments_of(config, known, "LFQ")
    groups = a.get("num_codebooks", 1)
    bits = bits_of(a["codebook_size"]) if "codebook_size" in a else a["dim"]
    width = a.get("dim", bits * groups)
    if a.get("has_projections") is False and width != bits * groups:
        raise ValueError(f"dim={width} needs projections to {groups} codes of {bits} bits")
    softplus = a.get("experimental_softplus_entropy_loss")
    return LFQ(
        bits,
        groups,
        width,
        scale=a.get("codebook_scale", 1.0),
        spherical=bool(a.get("spherical")),
        commitment=a.get("commitment_loss_weight", 0.0),
        entropy_weight=a.get("entropy_loss_weight", 0.1),
        diversity=a.get("diversity_gamma", 1.0),
        inverse_temperature=config.get("forward", {}).get("inv_temperature", 100.0),
        floored_samples=True,
        softplus_offset=a.get("entropy_loss_offset", 5.0) if softplus else None,
        soft_clamp=a.get("soft_clamp_input_value", 0.0),
        project="always" if a.get("has_projections") else "auto",
        projection="cosine" if a.get("cosine_sim_project_in") else "linear",
        projection_scale=a.get("cosine_sim_project_in_scale", 0.0),
        projection_bias=a.get("projection_has_bias", True),
        rotated=bool(a.get("orthogonal_rotation")),
    )


def bits_of(codes: int) -> int:
    """log2 of a number of codes.

    Raises:
      ValueError: it is no power of two.
    """
    if codes < 2 or codes & (codes - 1):
        raise ValueError(
            f"codebook_size={codes} is not a power of two, and a look-up free code has 2^bits values"
        )
    return codes.bit_length() - 1


def voken(config: Mapping[str, Any], pooled: bool = False) -> LFQ:
    """The module of SEED-Voken's (Open-MAGVIT2) and WeTok's `LFQ` and `GFQ`, which have no parameters.

    Their bits are little-endian as ours are. 1e-5 is added in the logarithm of the batch's entropy, and does
    not matter in that of a token. Their trainers weight the entropy term with 0.1 and the mean square with
    0.25, which is done here.

    Args:
      config: "dim" or "embed_dim" (all channels), "codebook_size" or "n_embed" (of one group), and as far as
        they differ from 1 "num_codebooks", "sample_minimization_weight", "batch_maximization_weight".
      pooled: one average over all groups, as WeTok's.

    Raises:
      ValueError: sizes that do not agree.
    """
    groups = config.get("num_codebooks", 1)
    bits = bits_of(config.get("codebook_size") or config["n_embed"])
    width = config.get("dim") or config.get("embed_dim") or bits * groups
    if width != bits * groups:
        raise ValueError(f"dim={width} is not {groups} groups of {bits} bits")
    sample = config.get("sample_minimization_weight", 1.0)
    if not sample:
        raise ValueError(
            "sample_minimization_weight=0 has no counterpart: the entropy term is a multiple of it"
        )
    return LFQ(
        bits,
        groups,
        commitment=0.25,
        entropy_weight=0.1 * sample,
        diversity=config.get("batch_maximization_weight", 1.0) / sample,
        inverse_temperature=100.0,
        batch_entropy="pooled" if pooled else "exact",
        log_floor="add",
    )


def component(config: Mapping[str, Any]) -> OfficialComponent:
    """`OfficialComponent` of `LFQ(**config["args"])`."""
    module = quantizer(config)
    entries = []
    if module.project == "always" or module.width != module.bits * module.groups:
        entries = projection_entries(bias=module.projection_bias)
        if module.projection == "cosine":  # stored as it is used, and without bias
            entries = [e for e in entries if not e.theirs.startswith("project_in.")]
            entries.append(Entry("project_in.weight", "inward/kernel"))
    if module.rotated:
        entries.append(Entry("orthogonal_rot", "quantizer:rotation"))
    shapes = jax.eval_shape(
        lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 2, module.width)))
    )
    return OfficialComponent("quantizer", module, dict(shapes), Table(tuple(entries), ("mask",)), "mask")
