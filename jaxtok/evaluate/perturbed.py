"""What a decoder makes of codes with errors in them: pFID(alpha, delta) of RobusTok (arXiv 2503.08354).

Each token of held-out images is replaced with probability alpha by one of the delta codes nearest to its own
(itself among them); the images that the decoder makes of that are compared with the originals. It shows how a
tokenizer bears the errors of a generator, which rFID does not.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace
from jaxtok.kernels.nearest_code.api import Metric
from jaxtok.quantize.perturbation import Perturbation
from jaxtok.quantize.vq import VectorQuantizer

_LARGEST_SPACE = 2**16  # codes whose vectors are listed


def parse_perturbation(text: str) -> tuple[float, int]:
    """(alpha, delta) from "alpha:delta", such as "0.5:16".

    Raises:
      ValueError: another form, an alpha outside [0, 1] or a delta under 1.
    """
    try:
        alpha, delta = text.split(":")
        found = float(alpha), int(delta)
    except ValueError as error:
        raise ValueError(f"perturbation {text!r}; write alpha:delta, such as 0.5:16") from error
    if not 0 <= found[0] <= 1 or found[1] < 1:
        raise ValueError(f"perturbation {text!r}; alpha is in [0, 1] and delta at least 1")
    return found


def has_neighbours(tokenizer: Any) -> bool:
    """Whether the codes of a tokenizer have vectors that can be listed: one value per token, of at most 2^16
    codes.
    """
    space: CodeSpace | None = tokenizer.space
    scales = getattr(getattr(tokenizer, "layout", None), "scales", ())
    return space is not None and space.size <= _LARGEST_SPACE and not scales


def code_vectors(tokenizer: Any, variables: Any) -> tuple[Float[jax.Array, "K D"], Metric]:
    """The vector of every code, by joint index, and how they are compared.

    A vector quantizer of one slot has its codebook, compared as the quantizer compares; of others it is what
    the decoder is given of a code, compared by Euclidean distance.
    """
    quantizer, space = tokenizer.quantizer, tokenizer.space
    if isinstance(quantizer, VectorQuantizer) and quantizer.slots == 1:
        book = tokenizer.apply(variables, method=lambda module: module.quantizer.codebook)
        return book.reshape(space.size, -1), quantizer.metric
    codes = space.split(jnp.arange(space.size, dtype=jnp.int32))
    return cast(jax.Array, tokenizer.apply(variables, codes[None], method="embed"))[0], "euclidean"


def perturbed(
    codes: Int[jax.Array | np.ndarray, "B N Q"],
    space: CodeSpace,
    vectors: Float[jax.Array, "K D"],
    key: jax.Array,
    *,
    alpha: float,
    delta: int,
    metric: Metric = "euclidean",
) -> Int[jax.Array, "B N Q"]:
    """Codes of which some are replaced by a neighbour of theirs, int32.

    Args:
      codes: the right ones.
      space: their alphabet.
      vectors: of all codes, by joint index.
      key: scalar key or one key per example.
      alpha: probability that a token is replaced.
      delta: number of nearest codes that the replacement is drawn from; 1 changes nothing.
      metric: by which codes are near.

    Raises:
      ValueError: delta is more than there are codes.
    """
    index = cast(jax.Array, space.join(jnp.asarray(codes)))
    wrong = Perturbation(alpha=alpha, beta=1.0, delta=delta)
    other = wrong(vectors[index], index, vectors, key, metric=metric)
    return cast(jax.Array, space.split(other)).astype(jnp.int32)
