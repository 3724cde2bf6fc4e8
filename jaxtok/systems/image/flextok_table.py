"""Where every tensor of FlexTok's official weights goes.

The released configurations name the modules of a network; the names here are those of third-party copies of
them. A file with other names needs the argument "names" (see `from_official`).
"""

from collections.abc import Mapping

import numpy as np

from jaxtok.systems.image.grid_table import dense_entries
from jaxtok.systems.image.kl_vae import KLVAE, kl_vae_entries
from jaxtok.tokenizers.registers import RegisterShape
from jaxtok.weights import Entry, Table, Transform, dense

# Ours are (shift, scale, gate) of attention, then of the feed-forward half.
_BLOCK_ORDER = ("gate_1", "gate_2", "shift_1", "scale_1", "shift_2", "scale_2")
_BLOCK_OURS = ("shift_1", "scale_1", "gate_1", "shift_2", "scale_2", "gate_2")
_LAST_ORDER, _LAST_OURS = ("shift", "scale"), ("scale", "shift")

MODULES = (
    "enc_patch_emb",
    "enc_posemb_module",
    "enc_register_module",
    "enc_transformer",
    "enc_to_latents",
    "dec_from_latents",
    "dec_registers_posemb_module",
    "dec_nested_dropout",
    "dec_latent_dropout",
    "dec_noise_patch_emb",
    "dec_patches_posemb_module",
    "dec_time_embedder",
    "dec_transformer",
    "dec_to_patches",
)


def _reorder(theirs: tuple[str, ...], ours: tuple[str, ...], segments: int = 1) -> Transform:
    """Vectors of a modulation, which come one after the other along the first axis, for each segment anew."""
    order = [theirs.index(name) for name in ours]

    def move(x: np.ndarray, order: list[int]) -> np.ndarray:
        if x.shape[0] % (segments * len(order)):
            raise ValueError(f"{x.shape[0]} rows are not {segments} times {len(order)} vectors")
        return x.reshape(segments, len(order), -1, *x.shape[1:])[:, order].reshape(x.shape)

    back = [order.index(i) for i in range(len(order))]
    return Transform(f"reorder {order}", lambda x: move(x, order), lambda x: move(x, back))


# [1, D, rows, columns] <-> [rows, columns, D], and [axes, 1, D, cells] <-> [axes, cells, D].
_FIXED = Transform(
    "fixed positions", lambda x: np.moveaxis(x[0], 0, -1), lambda x: np.moveaxis(x, -1, 0)[None]
)
_LEARNED = Transform(
    "learned positions", lambda x: np.swapaxes(x[:, 0], 1, 2), lambda x: np.swapaxes(x, 1, 2)[:, None]
)


def tokenizer_table(
    encoder: RegisterShape,
    decoder: RegisterShape,
    segments: int,
    learned: tuple[bool, bool],
    vae: KLVAE | None,
    names: Mapping[str, str],
    width_mult: float = 1.0,
) -> Table:
    """Encoder, decoder and, if there is one, the autoencoder in front.

    Args:
      encoder, decoder: sizes of the transformers.
      segments: of the decoder's modulation.
      learned: whether the positions of patches are, in encoder and decoder.
      vae: the autoencoder in front.
      names: of modules that are called otherwise than in `MODULES`.
      width_mult: by how much a muP read-out (`mup.MuReadout`) divides what it reads; its weights, and not its
        biases, are divided here. 1 for a plain linear layer.
    """

    def module(name: str) -> str:
        half = "encoder" if name.startswith("enc_") else "decoder"
        return f"{half}.module_dict.{names.get(name, name)}"

    def place(name: str, ours: str, learned: bool) -> Entry:
        path = ours if learned else f"constants:{ours}"
        return Entry(f"{module(name)}.posembs", f"{path}/positions", _LEARNED if learned else _FIXED)

    last = f"{module('dec_to_patches')}.adaLN_modulation.1"
    reorder = _reorder(_LAST_ORDER, _LAST_OURS)
    entries = [
        *dense_entries(f"{module('enc_patch_emb')}.patch_proj", "encoder/patch"),
        place("enc_posemb_module", "encoder/place", learned[0]),
        Entry(f"{module('enc_register_module')}.registers", "encoder/registers"),
        *_blocks(module("enc_transformer"), "encoder/stack/block", encoder.layers),
        *dense_entries(f"{module('enc_to_latents')}.proj", "encoder/out"),
        *dense_entries(f"{module('dec_from_latents')}.proj", "decoder/inward"),
        place("dec_registers_posemb_module", "decoder/token_place", True),
        Entry(f"{module('dec_nested_dropout')}.dropout_mask_token", "decoder/dropped"),
        Entry(f"{module('dec_latent_dropout')}.nullcond", "decoder/null"),
        *dense_entries(f"{module('dec_noise_patch_emb')}.patch_proj", "decoder/patches"),
        place("dec_patches_posemb_module", "decoder/place", learned[1]),
        *dense_entries(f"{module('dec_time_embedder')}.mlp.0", "decoder/time/linear_1"),
        *dense_entries(f"{module('dec_time_embedder')}.mlp.2", "decoder/time/linear_2"),
        *_blocks(module("dec_transformer"), "decoder/stack/block", decoder.layers, segments),
        Entry(f"{last}.weight", "decoder/norm/modulation/linear/kernel", reorder.then(dense)),
        Entry(f"{last}.bias", "decoder/norm/modulation/linear/bias", reorder),
        Entry(f"{module('dec_to_patches')}.proj.weight", "decoder/out/kernel", _read_out(width_mult)),
        Entry(f"{module('dec_to_patches')}.proj.bias", "decoder/out/bias"),
    ]
    if vae is not None:
        entries += kl_vae_entries(vae, "vae.vae.", "vae:")
    # Without an autoencoder of ours theirs rides along, and so does the head of the alignment.
    return Table(tuple(entries), unused=(r"vae\..*", r"decoder\.module_dict\..*repa.*"))


def _read_out(width_mult: float) -> Transform:
    if width_mult == 1:
        return dense
    divide = Transform(f"divide by {width_mult:g}", lambda x: x / width_mult, lambda x: x * width_mult)
    return divide.then(dense)


def _blocks(theirs: str, ours: str, depth: int, segments: int = 0) -> list[Entry]:
    layers, theirs = range(depth), f"{theirs}.blocks.{{i}}"
    maps = {f"attn.w{a}": f"attention/{b}" for a, b in (("q", "query"), ("k", "key"), ("v", "value"))}
    maps |= {"attn.proj": "attention/out", "mlp.fc1": "feed_forward/gate", "mlp.fc3": "feed_forward/up"}
    maps |= {"mlp.fc2": "feed_forward/down"}
    entries = [Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/kernel", dense, layers) for a, b in maps.items()]
    if segments:
        reorder, name = _reorder(_BLOCK_ORDER, _BLOCK_OURS, segments), f"{theirs}.adaLN_modulation.1"
        linear = f"{ours}/modulation/linear"
        entries += [
            Entry(f"{name}.weight", f"{linear}/kernel", reorder.then(dense), layers),
            Entry(f"{name}.bias", f"{linear}/bias", reorder, layers),
        ]
    return entries
