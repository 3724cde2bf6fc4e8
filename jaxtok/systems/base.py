"""What a system is unless it says otherwise: no tokenizer, no priors, no condition."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtok.codes import Condition, Latents
from jaxtok.data.dataset import Dataset
from jaxtok.modality.contract import Modality
from jaxtok.priors.contract import Codec, Prior
from jaxtok.systems.contract import Batch, Component, Request, Variables
from jaxtok.weights import FrozenNetwork


class SystemBase:
    """Base of the dataclasses that are systems; see `jaxtok.systems.contract.System`.

    Attributes:
      priors: names of the priors.
      tokens, space: N and the alphabet of a token; none without a tokenizer or a prior.
    """

    priors: Any = ()
    tokens: Any = 0
    space: Any = None

    @property
    def has_tokenizer(self) -> bool:
        """See `System.has_tokenizer`."""
        return False

    @property
    def modality(self) -> Modality | None:
        """See `System.modality`: none."""
        return None

    def shapes(self) -> Mapping[str, Any]:
        """Variables of every component as shapes, in the order in which they are trained."""
        raise NotImplementedError(f"{type(self).__name__} does not say the shapes of its components")

    def components(self) -> Mapping[str, Component]:
        """See `System.components`."""
        role = lambda name: "prior" if name in self.priors else name
        return {name: Component(shapes, role(name)) for name, shapes in self.shapes().items()}

    def encode(self, variables: Variables, batch: Batch) -> Latents:
        """See `System.encode`."""
        raise ValueError(f"{type(self).__name__} has no tokenizer, so nothing is encoded")

    def decode(
        self,
        variables: Variables,
        latents: Latents,
        *,
        batch: Batch | None = None,
        frozen: Mapping[str, Variables] | None = None,
        key: Any = None,
    ) -> dict[str, Any]:
        """See `System.decode`."""
        raise ValueError(f"{type(self).__name__} has no tokenizer, so nothing is decoded")

    def condition(self, batch: Batch, frozen: Mapping[str, Variables]) -> Condition | None:
        """See `System.condition`: nothing."""
        del batch, frozen
        return None

    def request_batch(self, request: Request) -> dict[str, np.ndarray]:
        """See `System.request_batch`: how many is all that can be asked for."""
        asked = sorted(name for name in ("captions", "labels", "items", "images") if getattr(request, name))
        if asked:
            raise ValueError(
                f"{type(self).__name__} samples without a condition; leave out {', '.join(asked)}"
            )
        return {}

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """See `System.prior_named`."""
        del dtype
        raise ValueError(f"prior {name!r}; {type(self).__name__} has {', '.join(self.priors) or 'none'}")

    def label_reading(self) -> tuple[int, bool]:
        """See `System.label_reading`: no labels."""
        return 0, True

    def prior_codec(self, variables: Variables) -> Codec | None:
        """See `System.prior_codec`: none."""
        del variables
        return None

    def networks(self) -> Mapping[str, FrozenNetwork]:
        """See `System.networks`: none."""
        return {}

    def user_batch(self, values: Any, **options: Any) -> dict[str, np.ndarray]:
        """See `System.user_batch`."""
        if self.modality is None:
            raise ValueError(f"{type(self).__name__} has no tokenizer, so nothing is encoded")
        return {self.modality.key: self.modality.from_user(values, **options)}

    def wanted_batch(self, rows: int, *size: Any, **wanted: Any) -> dict[str, np.ndarray]:
        """See `System.wanted_batch`: nothing."""
        del rows
        asked = [*(["a size"] if any(given is not None for given in size) else ()), *wanted]
        if asked:
            raise ValueError(f"the decoder of {type(self).__name__} does not read {', '.join(asked)}")
        return {}

    def size_of(self, shape: Sequence[int]) -> Any:
        """See `System.size_of`: decoders write one size."""
        del shape

    def token_lengths(self, lengths: Sequence[int]) -> np.ndarray:
        """See `System.token_lengths`: tokens of `samples_per_token` samples, the last one begun."""
        most = self.tokens * self.samples_per_token
        if wrong := [length for length in lengths if not 1 <= length <= most]:
            raise ValueError(f"lengths {wrong[:5]} are none of {type(self).__name__}; give 1 to {most}")
        return np.array([-(-length // self.samples_per_token) for length in lengths], np.int32)

    def output_lengths(self, latents: Latents) -> list[int] | None:
        """See `System.output_lengths`: a token of a mask stands for `samples_per_token` of the signal."""
        if latents.mask is None:
            return None
        tokens = np.asarray(latents.mask).all(axis=-1).sum(axis=1)
        return [int(count) * self.samples_per_token for count in tokens]

    @property
    def samples_per_token(self) -> int:
        """Samples along time that a token stands for, where examples have lengths."""
        return 1

    def request_of(self, asked: Sequence[str | int] | int) -> Request:
        """See `System.request_of`: a number of samples."""
        if not isinstance(asked, int):
            raise ValueError(f"{type(self).__name__} samples without a condition; say how many, such as 8")
        return Request(count=asked)

    def check_data(self, data: Dataset) -> None:
        """See `System.check_data`: everything that can be traced is taken."""
        del data
