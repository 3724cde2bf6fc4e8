"""VAR's official constructor arguments and components."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtok.nn.scale_transformer import ScaleTransformer
from jaxtok.systems.image.llamagen import halves
from jaxtok.systems.image.var import VAR, ScalePriorShape
from jaxtok.systems.image.var_table import tokenizer_table, transformer_table
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.quantizers.multi_scale import var_component


def from_official(config: Mapping[str, Any]) -> VAR:
    """Our configuration from official constructor arguments.

    Args:
      config: "args" (or "vae", beside a transformer), those of the official `VQVAE`; "var", those of the
        official `VAR`, where there is one; and "ch_mult" and "num_res_blocks", which the official code fixes.
        What is left out is as in the published models.

    Raises:
      ValueError: scales of the transformer that the tokenizer does not have, a width that the heads do not
        divide, or sizes that contradict each other, see `GridShape` and `VAR`.
    """
    a = config.get("vae", config.get("args", {}))
    published = VAR()
    shape = published.encoder
    scales = tuple(a.get("v_patch_nums", published.scales))
    multipliers = tuple(config.get("ch_mult", shape.multipliers))
    both = halves(
        a.get("ch", shape.channels),
        config.get("num_res_blocks", shape.blocks),
        a.get("z_channels", shape.features),
        multipliers,
        multipliers,
    )
    ratio, share = abs(a.get("quant_resi", published.residual_ratio)), a.get("share_quant_resi", 4)
    if tuple(config.get("patch_nums", scales)) != scales:
        raise ValueError(
            f"patch_nums={config['patch_nums']} of the transformer differ from v_patch_nums={scales} of the "
            "tokenizer"
        )
    return dataclasses.replace(
        published,
        image_size=scales[-1] * both["encoder"].factor,
        scales=scales,
        codes=a.get("vocab_size", published.codes),
        unit_codes=a.get("using_znorm", published.unit_codes),
        commitment=a.get("beta", published.commitment),
        residual_ratio=ratio,
        phis=(share or len(scales)) if ratio > 1e-6 else 0,
        window=a.get("quant_conv_ks", published.window),
        **both,
        **_transformer(config["var"]) if "var" in config else {},
    )


def _transformer(a: Mapping[str, Any]) -> dict[str, Any]:
    depth = a.get("depth", 16)
    width, heads = a.get("embed_dim", 64 * depth), a.get("num_heads", depth)
    if width % heads:
        raise ValueError(f"embed_dim={width} must divide by num_heads={heads}")
    prior = ScalePriorShape(
        depth,
        heads,
        width // heads,
        round(width * a.get("mlp_ratio", 4.0)),
        a.get("attn_l2_norm", True),
        a.get("shared_aln", False),
        a.get("norm_eps", 1e-6),
        a.get("drop_path_rate", 0.0),
    )
    return {
        "prior": prior,
        "classes": a.get("num_classes", 1000),
        "condition_dropout": a.get("cond_drop_rate", 0.1),
    }


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """The components "vae" and "model", a tokenizer and a transformer; of a configuration of a tokenizer
    alone "model". Without a configuration VAR-d16 and its tokenizer.
    """
    config = {"var": {}} if config is None else config
    model = from_official(config)
    shapes, arguments = model.shapes(), dict(config.get("vae", config.get("args", {})))
    arguments = {"v_patch_nums": model.scales, "vocab_size": model.codes} | arguments
    arguments = {"z_channels": model.encoder.features} | arguments
    quantizer = var_component({"args": arguments}).table
    tokenizer = OfficialComponent(
        "tokenizer",
        model.tokenizer(),
        shapes["tokenizer"],
        tokenizer_table(model.encoder, model.decoder, quantizer),
        "quantize.embedding.weight",
    )
    if "var" not in config:
        return {"model": tokenizer}
    network: ScaleTransformer = model.next_scale().network
    shape = model.prior
    table = transformer_table(shape.layers, shape.cosine, shape.heads, shape.shared_modulation)
    transformer = OfficialComponent(
        "next_scale", network, shapes["next_scale"], table, "blocks.0.attn.mat_qkv.weight"
    )
    return {"model": transformer, "vae": tokenizer}
