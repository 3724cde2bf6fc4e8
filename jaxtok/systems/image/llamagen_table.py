"""Where every tensor of LlamaGen's official weights goes."""

from jaxtok.systems.image.grid_table import GridNames, dense_entries, grid_entries
from jaxtok.tokenizers.grid import GridShape
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


def tokenizer_table(encoder: GridShape, decoder: GridShape, code_width: int) -> Table:
    """A tokenizer."""
    return Table(
        (
            *grid_entries(encoder, "encoder", NAMES["encoder"]),
            *grid_entries(decoder, "decoder", NAMES["decoder"]),
            *dense_entries("quant_conv", "quantizer/inward", encoder.features),
            *dense_entries("post_quant_conv", "quantizer/outward", code_width),
            Entry("quantize.embedding.weight", "quantizer/codebook"),
        ),
        # The last 65536 codes of training, from which the official code reports usage.
        unused=(r"quantize\.codebook_used",),
    )


def language_model_table(depth: int, classes: bool) -> Table:
    """A language model of `depth` layers conditioned on a class or, otherwise, on a text."""
    layers, theirs, ours = range(depth), "layers.{i}", "stack/block"
    if classes:
        condition = [Entry("cls_embedding.embedding_table.weight", "conditioner/embedding/embedding")]
    else:
        condition = [
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
            *condition,
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
