"""Where every tensor of VAR's official weights goes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxtok.systems.image.grid_table import GridNames, conv_entries, dense_entries, grid_entries
from jaxtok.tokenizers.grid import GridShape
from jaxtok.weights import Entry, Table, Transform, dense, identity, reshape, squeeze_leading

# The names of the original VQGAN.
NAMES = {
    half: GridNames(
        block=f"{side}.{{l}}.block.{{j}}",
        attention=f"{side}.{{l}}.attn.{{j}}",
        resample=f"{side}.{{l}}.{side}sample.conv",
        middle="mid.block_{n}",
        middle_attention="mid.attn_1",
    )
    for half, side in (("encoder", "down"), ("decoder", "up"))
}
# Theirs: gate of both halves, scale of both, shift of both. Ours: shift, scale and gate of one, then of the
# other.
MODULATION = (4, 2, 0, 5, 3, 1)


def reorder(order: Sequence[int]) -> Transform:
    """Equal parts along the first axis in another order: part i of ours is part `order[i]` of theirs."""
    order = tuple(order)

    def take(places: Sequence[int], x: np.ndarray) -> np.ndarray:
        if x.shape[0] % len(order):
            raise ValueError(f"reorder wants a first axis that divides by {len(order)}, got shape {x.shape}")
        parts = np.split(x, len(order))
        return np.concatenate([parts[i] for i in places])

    back = np.argsort(order).tolist()
    return Transform(f"reorder {order}", lambda x: take(order, x), lambda x: take(back, x))


def tokenizer_table(encoder: GridShape, decoder: GridShape, quantizer: Table) -> Table:
    """A tokenizer, of whose quantizer `quantizer` has the names without prefix."""
    own = [
        dataclasses.replace(e, theirs=f"quantize.{e.theirs}", ours=f"quantizer/scales/{e.ours}")
        for e in quantizer.entries
    ]
    grids = grid_entries(encoder, "encoder", NAMES["encoder"])
    grids += grid_entries(decoder, "decoder", NAMES["decoder"])
    entries = [_packed(entry) for entry in grids]
    entries += conv_entries("quant_conv", "quantizer/inward")
    entries += conv_entries("post_quant_conv", "quantizer/outward")
    return Table((*entries, *own), tuple(rf"quantize\.{name}" for name in quantizer.unused))


def _packed(entry: Entry) -> Entry:
    """The maps of queries, keys and values of grids are one there."""
    head, _, last = entry.theirs.rpartition(".")
    parent, _, letter = head.rpartition(".")
    if letter not in ("q", "k", "v"):
        return entry
    return dataclasses.replace(entry, theirs=f"{parent}.qkv.{last}", part=("qkv".index(letter), 3))


def transformer_table(depth: int, cosine: bool, heads: int, shared: bool) -> Table:
    """A transformer of `depth` layers; `cosine` attention, and a `shared` modulation, have tensors more."""
    layers, theirs, ours = range(depth), "blocks.{i}", "stack/block"
    in_order = reorder(MODULATION)

    def linear(name: str, path: str, order: Transform = identity, indices: range | None = None):
        return [
            Entry(f"{name}.weight", f"{path}/kernel", order.then(dense), indices),
            Entry(f"{name}.bias", f"{path}/bias", order, indices),
        ]

    attention = f"{ours}/attention"
    entries = [
        Entry("class_emb.weight", "conditioner/embedding/embedding"),
        Entry("pos_start", "start", squeeze_leading(1)),
        Entry("pos_1LC", "positions", squeeze_leading(1)),
        Entry("lvl_embed.weight", "levels"),
        *linear("word_embed", "word"),
        *(
            Entry(f"{theirs}.attn.mat_qkv.weight", f"{attention}/{name}/kernel", dense, layers, (i, 3))
            for i, name in enumerate(("query", "key", "value"))
        ),
        Entry(f"{theirs}.attn.q_bias", f"{attention}/query/bias", indices=layers),
        Entry(f"{theirs}.attn.v_bias", f"{attention}/value/bias", indices=layers),
        *linear(f"{theirs}.attn.proj", f"{attention}/out", indices=layers),
        *linear(f"{theirs}.ffn.fc1", f"{ours}/feed_forward/up", indices=layers),
        *linear(f"{theirs}.ffn.fc2", f"{ours}/feed_forward/down", indices=layers),
        *dense_entries("head_nm.ada_lin.1", "norm/modulation/linear"),
        *linear("head", "out"),
    ]
    if cosine:
        scale = reshape((heads,), (1, heads, 1, 1))
        name = f"{attention}/query_norm/scale"
        entries.append(Entry(f"{theirs}.attn.scale_mul_1H11", name, scale, layers))
    if shared:
        entries += linear("shared_ada_lin.1", "modulation/linear", in_order)
        offset = squeeze_leading(2).then(in_order)
        entries.append(Entry(f"{theirs}.ada_gss", f"{ours}/modulation_offset", offset, layers))
    else:
        entries += linear(f"{theirs}.ada_lin.1", f"{ours}/modulation/linear", in_order, indices=layers)
    # The biases of keys are zeros that are not trained; the others follow from the scales.
    unused = (r"blocks\.\d+\.attn\.zero_k_bias", "attn_bias_for_masking", "lvl_1L")
    return Table(tuple(entries), unused)
