"""The PyTorch side of `step_time.py`, built for a jaxtok configuration and given jaxtok's parameters."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

from experiments.benchmarks.torch_instella import Decoder, Encoder, Rope, Tokenizer
from experiments.benchmarks.torch_priors import ByteEncoder, Prior
from jaxtok.nn.byte_text import BYTE_VOCAB, byte_ids
from jaxtok.nn.rope import rope_tables
from jaxtok.systems.image.instella_t2i import InstellaT2I
from jaxtok.tokenizers.query_vit import Coordinates, ViTShape
from jaxtok.weights import Entry, Table, dense, save_table


def torch_tokenizer(model: InstellaT2I) -> Tokenizer:
    """The tokenizer of a configuration, with fresh weights."""
    cells, finest = model.image_size // model.patch, Coordinates(model.scale, model.rope_layout)

    def half(shape: ViTShape, grids: list[tuple[int, Coordinates]]) -> dict[str, Any]:
        tables = [
            coordinates.tables(model.tokens, (side, side), shape.axes_dims) for side, coordinates in grids
        ]
        return {
            "layers": shape.layers,
            "heads": shape.heads,
            "head_dim": shape.head_dim,
            "after": shape.resample_after,
            "ropes": [_rope(table) for table in tables],
        }

    halvings, doublings = len(model.encoder.resample_after), len(model.decoder.resample_after)
    encoded = [(cells // 2**n, finest.halved(n)) for n in range(halvings + 1)]
    encoder = Encoder(model.tokens, model.patch, model.channels, **half(model.encoder, encoded))
    coarse, coarsest = cells // 2**doublings, finest.halved(doublings)
    decoded = [(coarse * 2**n, coarsest.doubled(n)) for n in range(doublings + 1)]
    decoder = Decoder(model.encoder.width, (coarse, coarse), **half(model.decoder, decoded))
    return Tokenizer(encoder, decoder, model.space.slots, model.patch, model.channels)


def torch_prior(model: InstellaT2I, timed: bool, dropout: float) -> Prior:
    """One of the priors of a configuration whose text is caption bytes, with fresh weights."""
    text, shape = model.text, model.prior
    positions = jnp.arange(text.length, dtype=jnp.float32)[:, None]
    encoder = ByteEncoder(
        BYTE_VOCAB, text.layers, text.heads, text.head_dim, _rope(rope_tables(positions, (text.head_dim,)))
    )
    null_ids, null_mask = byte_ids([""], text.length)
    null = (torch.from_numpy(null_ids), torch.from_numpy(null_mask))
    return Prior(
        model.space.slots,
        model.tokens,
        shape.layers,
        shape.heads,
        shape.head_dim,
        timed,
        encoder,
        null,
        dropout,
    )


def torch_names(model: InstellaT2I, part: str, tree: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters or gradients of a part ("tokenizer", "diffusion", "autoregressive") under the names of the
    PyTorch modules: the official ones, through jaxtok's own table, and those of the byte encoder.
    """
    official = {"tokenizer": "bae", "diffusion": "diff", "autoregressive": "ar"}[part]
    table = InstellaT2I.official_components(_official_config(model))[official].table
    own = {name: leaf for name, leaf in tree.items() if name != "conditioner"}
    arrays = save_table(table, own, {})
    if "conditioner" in tree:
        conditioner = {"conditioner": tree["conditioner"]}
        arrays |= save_table(_byte_encoder_table(model.text.layers), conditioner, {})
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _rope(tables: Any) -> Rope:
    return torch.from_numpy(np.array(tables.cos)), torch.from_numpy(np.array(tables.sin))


def _official_config(model: InstellaT2I) -> dict[str, Any]:
    """Only what decides the tables of names and layouts."""
    bae: dict[str, Any] = {
        "patch_size": model.patch,
        "in_channels": model.channels,
        "num_latent_tkns": model.tokens,
        "codebook_size": model.space.slots,
        "downsample_idx": model.encoder.resample_after,
        "upsample_idx": model.decoder.resample_after,
        "axes_dims_rope": model.encoder.axes_dims,
    }
    for side, shape in (("encoder", model.encoder), ("decoder", model.decoder)):
        bae |= {
            f"{side}_layers": shape.layers,
            f"{side}_num_heads": shape.heads,
            f"{side}_head_dim": shape.head_dim,
        }
    prior = {
        "num_layers": model.prior.layers,
        "heads": model.prior.heads,
        "head_dim": model.prior.head_dim,
        "text_dim": model.text.heads * model.text.head_dim,
    }
    return {"bae": bae, "prior": prior, "image_size": model.image_size, "scale": None}


def _byte_encoder_table(layers: int) -> Table:
    ours, theirs, every = "conditioner/encoder/stack/block", "text.blocks.{i}", range(layers)
    products = {
        "attn.q_proj": "attention/query",
        "attn.k_proj": "attention/key",
        "attn.v_proj": "attention/value",
        "attn.o_proj": "attention/out",
        "mlp.gate_proj": "feed_forward/gate",
        "mlp.up_proj": "feed_forward/up",
        "mlp.down_proj": "feed_forward/down",
    }
    scales = {
        "attn.norm_q": "attention/query_norm",
        "attn.norm_k": "attention/key_norm",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "feed_forward_norm",
    }
    return Table(
        (
            Entry("text.bytes.weight", "conditioner/encoder/bytes/embedding"),
            *(Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/kernel", dense, every) for a, b in products.items()),
            *(Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/scale", indices=every) for a, b in scales.items()),
        )
    )
