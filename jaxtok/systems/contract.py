"""What every system is: components, encoding, decoding, conditions; and what a request to one is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.data.dataset import Dataset
from jaxtok.modality.contract import Modality
from jaxtok.priors.contract import Codec, Prior
from jaxtok.weights import FrozenNetwork

Batch = Mapping[str, Any]
Variables = Any


@dataclasses.dataclass(frozen=True)
class Component:
    """A part of a system that has variables of its own.

    Attributes:
      shapes: its variables, as shapes: "params" and other collections.
      role: "tokenizer", "prior", or what else it is.
    """

    shapes: Any
    role: str


@dataclasses.dataclass(frozen=True)
class Request:
    """What to sample: one value per row of whatever the prior is conditioned on.

    Attributes:
      captions: texts.
      labels: numbers of classes.
      lengths: of each sample, in units of the data (frames, seconds, tokens).
      prefix: latents to continue or complete.
      items: histories of items.
      images: uint8 [B, H, W, C].
      count: rows, where nothing else says how many.
    """

    captions: Sequence[str] | None = None
    labels: Sequence[int] | None = None
    lengths: Sequence[int] | None = None
    prefix: Latents | None = None
    items: Sequence[Sequence[int]] | None = None
    images: np.ndarray | None = None
    count: int = 0

    def __post_init__(self) -> None:
        counts = {name: len(value) for name, value in self._given().items()}
        if self.count:
            counts["count"] = self.count
        if len(set(counts.values())) != 1:
            problem = f"has different numbers of rows: {counts}" if counts else "asks for nothing"
            raise ValueError(f"the request {problem}; give one value per sample, or count=")

    def _given(self) -> dict[str, Any]:
        names = ("captions", "labels", "lengths", "items", "images")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.prefix is not None:
            own = self.prefix.codes if self.prefix.codes is not None else self.prefix.values
            given["prefix"] = own
        return given

    @property
    def rows(self) -> int:
        """How many samples."""
        return self.count or len(next(iter(self._given().values())))


@runtime_checkable
class System(Protocol):
    """A model: tokenizer and priors, or one of them, or neither. A dataclass of sizes; pure functions."""

    @property
    def modality(self) -> Modality | None:
        """Kind of signal that it encodes and decodes; None where it has no tokenizer."""
        ...

    @property
    def has_tokenizer(self) -> bool:
        """Whether a component "tokenizer" is trained, which `encode` and `decode` need."""
        ...

    @property
    def space(self) -> CodeSpace | None:
        """Alphabet of a token; None for continuous latents, or none."""
        ...

    @property
    def tokens(self) -> int:
        """N, the most tokens of an example."""
        ...

    def components(self) -> Mapping[str, Component]:
        """Its parts by name, in the order in which they are trained; allocates nothing."""
        ...

    def encode(self, variables: Variables, batch: Batch) -> Latents:
        """Latents of a batch, for variables of the tokenizer.

        Raises:
          ValueError: the system has no tokenizer.
        """
        ...

    def decode(
        self,
        variables: Variables,
        latents: Latents,
        *,
        batch: Batch | None = None,
        frozen: Mapping[str, Variables] | None = None,
        key: Any = None,
    ) -> dict[str, Any]:
        """Arrays by the names of a batch, in the model's range.

        Args:
          variables: of the tokenizer.
          latents: of B examples.
          batch: what else the decoder reads: captions, the size that is wanted.
          frozen: variables of frozen networks.
          key: of a decoder that samples.

        Raises:
          ValueError: the system has no tokenizer, or its decoder lacks what it reads.
        """
        ...

    def condition(self, batch: Batch, frozen: Mapping[str, Variables]) -> Condition | None:
        """What the priors are conditioned on, of a batch or of `request_batch`."""
        ...

    def request_batch(self, request: Request) -> dict[str, np.ndarray]:
        """The arrays of a request, named as in a batch.

        Raises:
          ValueError: the request lacks what the priors are conditioned on, or has what they do not read.
        """
        ...

    @property
    def priors(self) -> tuple[str, ...]:
        """Names of the priors."""
        ...

    def prior_named(self, name: str, dtype: Any = ...) -> Prior:
        """A prior by its name.

        Raises:
          ValueError: there is none of that name.
        """
        ...

    def label_reading(self) -> tuple[int, bool]:
        """How many classes conditions read, 0 for no labels; and whether there is one for "no class"."""
        ...

    def prior_codec(self, variables: Variables) -> Codec | None:
        """What priors read of the tokenizer, for those that do; else None."""
        ...

    def networks(self) -> Mapping[str, FrozenNetwork]:
        """Frozen networks that conditions and decoders need."""
        ...

    def user_batch(self, values: Any, **options: Any) -> dict[str, np.ndarray]:
        """A batch of an array of a user, see `Modality.from_user`."""
        ...

    def wanted_batch(self, rows: int, *size: Any, **wanted: Any) -> dict[str, np.ndarray]:
        """What a decoder reads beside latents, named as in a batch, of what a user wants.

        Raises:
          ValueError: something that the decoder does not read.
        """
        ...

    def size_of(self, shape: Sequence[int]) -> Any:
        """The size that `wanted_batch` takes, of an array [B, ...] of a user."""
        ...

    def token_lengths(self, lengths: Sequence[int]) -> np.ndarray:
        """Tokens of examples of these lengths, in the units of the data, int32 [B].

        Raises:
          ValueError: a length is none that an example may have.
        """
        ...

    def output_lengths(self, latents: Latents) -> list[int] | None:
        """How long the decoded examples are, in the units of the data, of latents with a mask; None for whole
        ones.
        """
        ...

    def request_of(self, asked: Sequence[str | int] | int) -> Request:
        """The request that captions, numbers of classes, or a number of samples are to this system.

        Raises:
          ValueError: the priors read something else.
        """
        ...

    def check_data(self, data: Dataset) -> None:
        """Raises a `ValueError` where data of these shapes would be trained on otherwise than asked."""
        ...
