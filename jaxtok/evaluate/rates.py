"""Rates: what latents cost in bits, by their alphabet alone or by a prior that codes them.

Bits per token, image or pixel compare tokenizers of any kind; cross-entropies per slot or per token do not.
"""

import math
from collections.abc import Sequence
from typing import Any

from jaxtok.codes import CodeSpace
from jaxtok.evaluate.protocol import Result


def bits_per_token(space: CodeSpace) -> float:
    """Nominal rate of one token: log2 of the size of the space."""
    return space.bits


def bits_per_image(space: CodeSpace, tokens: int) -> float:
    """Nominal rate: tokens * log2(size of the space)."""
    return tokens * space.bits


def bits_per_pixel(space: CodeSpace, tokens: int, height: int, width: int) -> float:
    """Nominal rate per pixel: `bits_per_image / (height * width)`."""
    return bits_per_image(space, tokens) / (height * width)


def nominal_rates(space: CodeSpace, tokens: int, height: int, width: int, **protocol: Any) -> list[Result]:
    """`nominal_bits_per_token` and `nominal_bits_per_pixel`: what codes cost without any model of them.

    Args:
      space: alphabet of a token.
      tokens: per image.
      height, width: of the image, in pixels.
      **protocol: what else should agree before values are compared.
    """
    shared = {"tokens": tokens, "slots": space.slots, "size": [height, width], **protocol}
    return [
        Result("nominal_bits_per_token", bits_per_token(space), shared),
        Result("nominal_bits_per_pixel", bits_per_pixel(space, tokens, height, width), shared),
    ]


def entropy_coded_rates(
    nats_per_slot: float,
    space: CodeSpace,
    tokens: int,
    height: int,
    width: int,
    *,
    bound: str = "nll",
    **protocol: Any,
) -> list[Result]:
    """The rate of an entropy coder that uses a prior: mean cross-entropy in place of log2 of the alphabet.

    Args:
      nats_per_slot: mean over tokens and slots of held-out codes, in nats.
      space: of the slots that the prior predicts (after `regroup`, if there was one).
      tokens: per image.
      height, width: of the image, in pixels.
      bound: what the cross-entropy is: "nll" (a coder can reach it), or the name of an upper bound.
      **protocol: what this cannot know: prior, data set, split, count, weights.

    Returns:
      `entropy_coded_bits_per_token`, `..._per_image`, `..._per_pixel`, lower is better, and
      `entropy_coded_share`, of the nominal rate (1 is no saving).

    Raises:
      ValueError: a negative cross-entropy, or no pixels or tokens.
    """
    if not nats_per_slot >= 0 or min(tokens, height, width) < 1:
        raise ValueError(
            f"nats_per_slot={nats_per_slot}, tokens={tokens}, size {height}x{width}: a rate needs a "
            "cross-entropy >= 0 (of codes, not a density of values) and at least one token and pixel"
        )
    per_token = nats_per_slot * space.slots / math.log(2)
    values = {
        "bits_per_token": per_token,
        "bits_per_image": per_token * tokens,
        "bits_per_pixel": per_token * tokens / (height * width),
        "share": per_token / space.bits,
    }
    shared = {
        "rate": bound,
        "tokens": tokens,
        "slots": space.slots,
        "nominal_bits_per_token": space.bits,
        "size": [height, width],
        **protocol,
    }
    return [Result(f"entropy_coded_{name}", value, shared) for name, value in values.items()]


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Likelihood of a whole example in bits per dimension (pixels times channels), from nats."""
    return nats / (dimensions * math.log(2))


def kilobits_per_second(space: CodeSpace, tokens_per_second: float) -> float:
    """Nominal rate of a codec of sound or video."""
    return tokens_per_second * space.bits / 1000


def bits_per_byte(nats: float, texts: Sequence[str]) -> float:
    """Likelihood of texts in bits per UTF-8 byte, from the sum of their negative log-likelihoods in nats. The
    only unit in which language models with different tokenizers can be compared.

    Raises:
      ValueError: no bytes.
    """
    size = sum(len(text.encode("utf-8")) for text in texts)
    if not size:
        raise ValueError(f"{len(texts)} texts without a byte have no rate; give the texts that were scored")
    return nats / (size * math.log(2))
