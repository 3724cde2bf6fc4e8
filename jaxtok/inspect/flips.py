"""What one code is for: change it, decode, and see which pixels move."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.inspect.decoding import Decode, decode_all
from jaxtok.inspect.style import heat
from jaxtok.inspect.tiles import ColourScale, tile_figure
from jaxtok.inspect.token_maps import plot_token_maps

_MOST_TOKENS, _MOST_SLOTS = 32, 24  # above, the maps of a token's slots are averaged


@dataclass(frozen=True)
class FlipInfluence:
    """Changes of a picture when single codes change.

    Attributes:
      image: float32 [H, W, C], grey levels 0 to 255 of the unchanged codes.
      change: float32 [N, Q, H, W], mean absolute change over channels in grey levels.
    """

    image: np.ndarray
    change: np.ndarray

    @property
    def strength(self) -> np.ndarray:
        """[N, Q] mean change over the picture: how much each slot matters."""
        return self.change.mean(axis=(2, 3))


def flip_influence(
    decode: Decode, codes: Int[Array, "N Q"], *, levels: Sequence[int] = (), batch_size: int = 64
) -> FlipInfluence:
    """Decodes one image's codes with every slot changed in turn, one at a time.

    Args:
      decode: codes int32[B, N, Q] -> images [B, H, W, C], floats in [-1, 1] or uint8.
      codes: one image's codes. N * Q + 1 images are decoded.
      levels: alphabet size per slot (`space.levels`); none means bits. A slot takes its next value, modulo
        its size: for a bit, the other one.
      batch_size: images per call of `decode`.

    Raises:
      ValueError: another number of levels than slots, or a code outside its alphabet.
    """
    codes = np.asarray(codes)
    tokens, slots = codes.shape
    sizes = np.asarray(levels or (2,) * slots)
    if len(sizes) != slots:
        raise ValueError(f"{len(sizes)} levels for {slots} slots: pass space.levels")
    if (codes < 0).any() or (codes >= sizes).any():
        raise ValueError(
            f"codes span [{codes.min()}, {codes.max()}], outside levels {sizes.tolist()}: pass space.levels"
        )
    flipped = np.repeat(codes[None], tokens * slots, axis=0)
    every, token, slot = np.arange(tokens * slots), *np.divmod(np.arange(tokens * slots), slots)
    flipped[every, token, slot] = (codes[token, slot] + 1) % sizes[slot]
    images = decode_all(decode, np.concatenate([codes[None], flipped]), batch_size)
    change = np.abs(images[1:] - images[:1]).mean(axis=-1)
    return FlipInfluence(images[0], change.reshape(tokens, slots, *change.shape[1:]))


def plot_flip_influence(influence: FlipInfluence, *, columns: int = 16, title: str = "") -> Figure:
    """One map per flipped slot: bright pixels change. All maps share one scale.

    Small latents get one row per token and one column per slot. Above 512 slots the maps of a token are
    averaged, and tokens run row by row, `columns` in each.
    """
    tokens, slots = influence.change.shape[:2]
    if tokens <= _MOST_TOKENS and slots <= _MOST_SLOTS:
        largest = float(np.quantile(influence.change, 0.999)) or 1.0
        return tile_figure(
            heat(influence.change, largest),
            row_labels=[f"token {token}" for token in range(tokens)],
            column_labels=[f"slot {slot}" for slot in range(slots)],
            title=title or "change when one slot is flipped",
            scale=ColourScale(largest, "grey levels"),
            smallest_tile=48,
        )
    return plot_token_maps(
        influence.change.mean(axis=1),
        columns=columns,
        unit="grey levels",
        title=title or "mean change when one slot of a token is flipped",
    )
