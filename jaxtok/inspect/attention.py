"""Where tokens look: attention weights of any model that is built from `jaxtok.nn.attention`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxtok.inspect.recording import record_calls
from jaxtok.nn.attention import Attention


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one layer.

    Attributes:
      name: path of the module, such as "encoder/stack_0/block/attention"; layers of one stack share it.
      weights: float32 [B, H, N, S]: share of the value of token s in what token n of head h receives.
    """

    name: str
    weights: np.ndarray


def attention_maps(call: Callable[[], Any]) -> list[AttentionMap]:
    """Runs a call and records the attention weights of all layers, in the order in which they run.

        maps = attention_maps(lambda: system.encode(images))

    The call runs as in `record_calls`, and each layer's weights are computed beside it: B * H * N * S floats
    per layer, so a few images are enough.

    Args:
      call: takes nothing; what it returns is ignored.

    Raises:
      ValueError: nothing in the call attends.
    """
    take = lambda module, args, kwargs, out: module.weights(*args, **kwargs)
    _, kept = record_calls(call, Attention, "__call__", take)
    maps = [AttentionMap(name, weights.astype(np.float32)) for name, weights in kept]
    if not maps:
        raise ValueError(
            "the call ran no attention layer of jaxtok.nn; pass for example lambda: system.encode(images)"
        )
    return maps


def query_attention(
    weights: Float[np.ndarray, "B H N S"], grid: tuple[int, int], *, queries: slice, cells: slice
) -> Float[np.ndarray, "B K R M"]:
    """How much of each image patch each query token takes, averaged over heads.

    Where they stand depends on the tokenizer: `query_vit` has K queries, then the patches; `registers` has
    the patches, then the registers; `latent_vit` a class token, the patches, then the latents.

    Args:
      weights: of one layer.
      grid: (rows, columns) of patches.
      queries: where the K query tokens stand in the sequence.
      cells: where the patches stand, row by row.

    Raises:
      ValueError: `cells` has not as many tokens as the grid.
    """
    looked = weights[:, :, queries, cells].mean(axis=1)
    if looked.shape[-1] != grid[0] * grid[1]:
        raise ValueError(
            f"cells={cells} are {looked.shape[-1]} of {weights.shape[-1]} tokens, the grid {grid} has "
            f"{grid[0] * grid[1]}"
        )
    return looked.reshape(*looked.shape[:-1], *grid)
