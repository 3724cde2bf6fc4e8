"""Decoders that go by another tokenizer's codes: predict them, and let its decoder draw (TiTok, arXiv
2406.07550).
"""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Float

from jaxtok.quantize.soft_assignment import soft_lookup
from jaxtok.tokenizers.latent_vit import Text


class ProxyDecoder(nn.Module):
    """Latents to distributions over proxy codes, and with `pixels` from their mean codes to an image.

        logits = predictor(latents),   image = pixels(softmax(logits) @ codebook)

    Codebook and pixel decoder start as those of the tokenizer whose codes they are, see `initialise_from`.

    Attributes:
      predictor: `(latents, size, train, text) -> (None, {"logits": [B, cells, K]})`.
      pixels: `(values [B, cells, D], size, train) -> (images, features)`, or None while only codes are
        predicted.
      codes: K.
      width: D, of a code.
    """

    predictor: Any
    pixels: Any = None
    codes: int = 1024
    width: int = 256

    @nn.compact
    def __call__(
        self,
        latents: Float[jax.Array, "B N E"],
        size: tuple[int, int],
        train: bool = False,
        text: Text = None,
    ) -> tuple[Float[jax.Array, "B H W C"] | None, dict[str, jax.Array]]:
        """Images, or None without a pixel decoder, and the feature "logits" float32 [B, cells, K].

        Raises:
          ValueError: what the two parts refuse.
        """
        features = self.predictor(latents, size, train, text)[1]
        if self.pixels is None:
            return None, features
        codebook = self.param("codebook", nn.initializers.normal(1.0), (self.codes, self.width))
        return self.pixels(soft_lookup(codebook, features["logits"]), size, train)[0], features


def initialise_from(params: dict[str, Any], first: dict[str, Any], teacher: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a tokenizer with pixels from those of its first stage and of the teacher.

    Args:
      params: of the whole tokenizer, for its structure.
      first: of the tokenizer that predicts codes: encoder, quantizer and predictor.
      teacher: of the tokenizer that has these codes: "quantizer" and "decoder".

    Raises:
      ValueError: structures or shapes that differ.
    """
    decoder = {
        "predictor": first["decoder"]["predictor"],
        "codebook": teacher["quantizer"]["codebook"],
        "pixels": teacher["decoder"],
    }
    initialised = {**first, "decoder": decoder}
    mine, theirs = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (dict(params), initialised))
    if mine != theirs:
        raise ValueError(
            "the first stage and the teacher do not fit this tokenizer; all three must come from one "
            "configuration"
        )
    return initialised
