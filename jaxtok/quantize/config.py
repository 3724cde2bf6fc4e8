"""Which quantizer a model has: a dataclass in its configuration that makes the module.

A kind stands beside its module in this package (`kind = "fsq"`), or anywhere else and is named by its place,
"package.module:Class"; nothing has to be registered.

    >>> from jaxtok.kinds import kind_named
    >>> from jaxtok.quantize.config import QuantizerConfig
    >>> chosen = kind_named(QuantizerConfig, "fsq", "quantizer")(levels=(8, 5, 5, 5))
    >>> chosen.space(width=16).size, type(chosen.build(width=16)).__name__
    (1000, 'FSQ')
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

from jaxtok.codes import CodeSpace
from jaxtok.kinds import Kinds


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizerConfig(Kinds):
    """Base of these dataclasses. Every field of a kind has a default, so that a flag can choose the kind."""

    home: ClassVar[str] = "jaxtok.quantize"

    @abstractmethod
    def build(self, width: int) -> Any:
        """The module, whose values are float32 [B, N, width].

        It takes features [B, N, features(width)] and keeps the contract of `jaxtok/quantize/README.md`:
        `module(z, train=, key=, temperature=) -> Quantized`, `encode`, `decode`, `space`, `update`.
        """

    def carried(self) -> set[str]:
        """See `Kinds.carried`: how many codes there are. A weight of one loss is not one of another."""
        return {"codes", "bits"} & super().carried()

    def features(self, width: int) -> int:
        """Channels of the features that values of `width` channels are made of."""
        return width

    def space(self, width: int) -> CodeSpace | None:
        """Alphabet of a token, without allocating anything; None where latents are continuous."""
        return self.build(width).space

    def code_space(self, width: int) -> CodeSpace:
        """Alphabet of a token.

        Raises:
          ValueError: latents are continuous.
        """
        space = self.space(width)
        if space is None:
            raise ValueError(
                f"quantizer {self.kind_name()!r} makes no codes that a prior could model; choose a kind that "
                "does, such as 'vq'"
            )
        return space

    @property
    def codebook_from_data(self) -> bool:
        """Whether training starts with k-means on the features of its first batch."""
        return False

    @property
    def sampling_temperature(self) -> float | None:
        """Temperature of the codes that training draws, at which annealing ends; None if it draws none."""
        return None


def fields_of(config: QuantizerConfig, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a configuration by name, as arguments of its module."""
    names = (field.name for field in dataclasses.fields(config))
    return {name: getattr(config, name) for name in names if name not in without}
