"""What tokenizers have in common that own a quantizer, whatever their signals are."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxtok.codes import CodeSpace


class QuantizerTokenizer(nn.Module):
    """Base of tokenizers with the attribute `quantizer` and the method `features(x)`; one whose signals have
    lengths takes `features(x, mask)` and has `token_mask(x, mask)`.
    """

    @property
    def space(self) -> CodeSpace | None:
        """The alphabet of one token; None for continuous latents."""
        return self.quantizer.space  # pyright: ignore

    def embed(self, codes: jax.Array | np.ndarray) -> Float[jax.Array, "B N D"]:
        """Embeddings of codes int32 [B, N, Q] (or float bits, for interpolation)."""
        return self.quantizer.decode(jnp.asarray(codes))  # pyright: ignore

    @nn.nowrap
    def update_quantizer(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """The quantizer's state after one optimizer step, from summed statistics; {} stays {}."""
        quantizer: Any = self.quantizer  # pyright: ignore
        return {"quantizer": quantizer.update(state["quantizer"], statistics, key)} if state else state

    def initialise_quantizer(self, state: Any, x: Any, key: jax.Array, mask: Any = None) -> Any:
        """The state collection of the quantizer after k-means on the features of these signals.

        Args:
          state: the collection.
          x: signals, as `features` takes them.
          key: scalar key.
          mask: bool [B, T], which samples are real, for signals with lengths.

        Raises:
          ValueError: the quantizer has no state that data could initialise.
        """
        quantizer: Any = self.quantizer  # pyright: ignore
        if not state or not hasattr(quantizer, "initialise"):
            raise ValueError(
                f"{type(quantizer).__name__} has no codebook that k-means could initialise; use a vector "
                "quantizer with learning='ema', or leave initialisation from data off"
            )
        owner: Any = self
        if mask is None:
            return {"quantizer": quantizer.initialise(state["quantizer"], owner.features(x), key)}
        features, real = owner.features(x, mask), owner.token_mask(x, mask)
        return {"quantizer": quantizer.initialise(state["quantizer"], features, key, mask=real)}
