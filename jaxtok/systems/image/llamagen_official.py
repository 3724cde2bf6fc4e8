"""Official weights of LlamaGen: configurations, and where every tensor goes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxtok.systems.image.grid_table import GridNames, dense_entries, grid_entries
from jaxtok.systems.image.llamagen import LanguageModelShape, LlamaGen, feed_forward_width, halves
from jaxtok.systems.official import OfficialComponent
from jaxtok.weights import Entry, Table, dense

NAMES = {
    half: GridNames(
        block="conv_blocks.{l}.res.{j}",
        attention="conv_blocks.{l}.attn.{j}",
        middle_attention="mid.{m}",
        resample=f"conv_blocks.{{l}}.{resample}.conv",
        coarse_first=half == "decoder",
    )
    for half, resample in (("encoder", "downsample"), ("decoder", "upsample"))
}


def from_official(config: Mapping[str, Any]) -> LlamaGen:
    """Our configuration from official constructor arguments.

    Args:
      config: "model_args", the fields of the official `ModelArgs` of a tokenizer or, where it has
        "model_type", of a language model; for a tokenizer also "image_size", and "ch" and "num_res_blocks",
        which the official code fixes. What is left out is as in VQ-16 and in the official defaults.

    Raises:
      ValueError: sizes that contradict each other, see `GridShape` and `LlamaGen`; or of the language model a
        grid that is not square, a width that the heads do not divide, or grouped queries.
    """
    a = config.get("model_args", {})
    return _language_model(a) if "model_type" in a else _tokenizer(config, a)


def _tokenizer(config: Mapping[str, Any], a: Mapping[str, Any]) -> LlamaGen:
    published = LlamaGen.vq_16()
    shape = published.encoder
    return LlamaGen(
        image_size=config.get("image_size", published.image_size),
        codes=a.get("codebook_size", published.codes),
        code_width=a.get("codebook_embed_dim", published.code_width),
        unit_codes=a.get("codebook_l2_norm", published.unit_codes),
        commitment=a.get("commit_loss_beta", published.commitment),
        entropy_weight=a.get("entropy_loss_ratio", published.entropy_weight),
        **halves(
            config.get("ch", shape.channels),
            config.get("num_res_blocks", shape.blocks),
            a.get("z_channels", shape.features),
            tuple(a.get("encoder_ch_mult", shape.multipliers)),
            tuple(a.get("decoder_ch_mult", published.decoder.multipliers)),
        ),
    )


def _language_model(a: Mapping[str, Any]) -> LlamaGen:
    kind = a["model_type"]
    if kind not in ("c2i", "t2i"):
        raise ValueError(f"model_type={kind!r}; LlamaGen has 'c2i' and 't2i'")
    width, heads, block = a.get("dim", 4096), a.get("n_head", 32), a.get("block_size", 256)
    side = math.isqrt(block)
    if side * side != block:
        raise ValueError(f"block_size={block} must be the square of the rows of a grid")
    if width % heads:
        raise ValueError(f"dim={width} must divide by n_head={heads}")
    if a.get("n_kv_head") not in (None, heads):
        raise ValueError(
            f"n_kv_head={a['n_kv_head']} differs from n_head={heads}: the official code cannot sample such "
            "models, none was released, and none can be loaded"
        )
    published = LlamaGen.c2i("B") if kind == "c2i" else LlamaGen.t2i("B")
    dropout = a.get("class_dropout_prob", published.condition_dropout)
    return dataclasses.replace(
        published,
        image_size=side * published.encoder.factor,
        codes=a.get("vocab_size", published.codes),
        classes=a.get("num_classes", published.classes),
        null_class=dropout > 0,
        condition_dropout=dropout,
        text_length=a.get("cls_token_num", published.text_length if kind == "t2i" else 1),
        text_width=a.get("caption_dim", published.text_width),
        prior=LanguageModelShape(
            a.get("n_layer", 32),
            heads,
            width // heads,
            feed_forward_width(width, a.get("multiple_of", 256), a.get("ffn_dim_multiplier") or 1.0),
            a.get("rope_base", published.prior.rope_theta),
            a.get("norm_eps", published.prior.norm_epsilon),
        ),
    )


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the official component "model": a language model if the configuration has a
    "model_type", else a tokenizer.
    """
    model = LlamaGen.vq_16() if config is None else from_official(config)
    shapes = model.shapes()
    if config is not None and "model_type" in config.get("model_args", {}):
        network, table = model.autoregressive().network, _language_model_table(model)
        return {
            "model": OfficialComponent(
                "autoregressive", network, shapes["autoregressive"], table, "tok_embeddings.weight"
            )
        }
    return {
        "model": OfficialComponent(
            "tokenizer", model.tokenizer(), shapes["tokenizer"], _tokenizer_table(model), "quant_conv.weight"
        )
    }


def _tokenizer_table(model: LlamaGen) -> Table:
    return Table(
        (
            *grid_entries(model.encoder, "encoder", NAMES["encoder"]),
            *grid_entries(model.decoder, "decoder", NAMES["decoder"]),
            *dense_entries("quant_conv", "quantizer/inward", model.encoder.features),
            *dense_entries("post_quant_conv", "quantizer/outward", model.code_width),
            Entry("quantize.embedding.weight", "quantizer/codebook"),
        ),
        # The last 65536 codes of training, from which the official code reports usage.
        unused=(r"quantize\.codebook_used",),
    )


def _language_model_table(model: LlamaGen) -> Table:
    layers, theirs, ours = range(model.prior.layers), "layers.{i}", "stack/block"
    if model.told == "class":
        told = [Entry("cls_embedding.embedding_table.weight", "conditioner/embedding/embedding")]
    else:
        told = [
            Entry("cls_embedding.cap_proj.fc1.weight", "conditioner/linear_1/kernel", dense),
            Entry("cls_embedding.cap_proj.fc2.weight", "conditioner/linear_2/kernel", dense),
            Entry("cls_embedding.uncond_embedding", "conditioner/null"),
        ]
    packed = f"{theirs}.attention.wqkv.weight"
    attention = [
        Entry(packed, f"{ours}/attention/{name}/kernel", dense, layers, (i, 3))
        for i, name in enumerate(("query", "key", "value"))
    ]
    feed_forward = [
        Entry(f"{theirs}.feed_forward.{a}.weight", f"{ours}/feed_forward/{b}/kernel", dense, layers)
        for a, b in (("w1", "gate"), ("w3", "up"), ("w2", "down"))
    ]
    return Table(
        (
            *told,
            Entry("tok_embeddings.weight", "embedding/table"),
            *attention,
            Entry(f"{theirs}.attention.wo.weight", f"{ours}/attention/out/kernel", dense, layers),
            *feed_forward,
            Entry(f"{theirs}.attention_norm.weight", f"{ours}/attention_norm/scale", indices=layers),
            Entry(f"{theirs}.ffn_norm.weight", f"{ours}/feed_forward_norm/scale", indices=layers),
            Entry("norm.weight", "norm/scale"),
            Entry("output.weight", "out/kernel", dense),
        ),
        unused=(r"freqs_cis",),
    )
