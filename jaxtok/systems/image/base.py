"""What all systems of images share: batches and requests in terms of images, labels and captions."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxtok.codes import Latents
from jaxtok.data.dataset import Dataset
from jaxtok.modality.contract import Modality
from jaxtok.modality.image import IMAGE
from jaxtok.nn.caption_ids import caption_ids
from jaxtok.systems.base import SystemBase
from jaxtok.systems.contract import Batch, Request, Variables


class ImageSystem(SystemBase):
    """Base of image systems. A subclass has `encode_images(variables, images)` and `decode_images(variables,
    latents, size, text=...)`.
    """

    @property
    def modality(self) -> Modality | None:
        """See `System.modality`."""
        return IMAGE

    @property
    def has_tokenizer(self) -> bool:
        """See `System.has_tokenizer`."""
        return True

    # What a subclass says of itself.

    @property
    def conditioned_on(self) -> Literal["labels", "captions", "nothing"]:
        """What the priors read."""
        return "labels"

    @property
    def caption_reading(self) -> tuple[int, str]:
        """Tokens of a caption that are read, 0 for none, and the folder of the language model that makes
        them, empty for bytes.
        """
        return 0, ""

    @property
    def decoder_reads_captions(self) -> bool:
        """Whether the decoder reads captions too."""
        return False

    def encode_images(self, variables: Variables, images: Any) -> Latents:
        """Latents of uint8 or float [-1, 1] images [B, H, W, C]; pure."""
        raise ValueError(f"{type(self).__name__} has no tokenizer of images")

    def decode_images(
        self, variables: Variables, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images around [-1, 1] of latents or codes at `size` (height, width) pixels; pure."""
        raise ValueError(f"{type(self).__name__} has no tokenizer of images")

    def decoder_condition(self, batch: Batch, frozen: Mapping[str, Variables]) -> Any:
        """What the decoder reads of the captions of a batch; None if it reads none."""
        del batch, frozen
        return None

    # The contract, in these terms.

    def encode(self, variables: Variables, batch: Batch) -> Latents:
        """See `System.encode`."""
        return self.encode_images(variables, batch["image"])

    def decode(
        self,
        variables: Variables,
        latents: Latents | jax.Array,
        *,
        batch: Batch | None = None,
        frozen: Mapping[str, Variables] | None = None,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """See `System.decode`: images of the size of those in `batch`, or of the model's own."""
        del key
        return {"image": self.decode_images(variables, latents, *self._reading(batch, frozen))}

    def _reading(self, batch: Batch | None, frozen: Mapping[str, Variables] | None) -> Sequence[Any]:
        """Size, and, for a decoder that reads some, text."""
        batch = batch or {}
        size = (batch["image"].shape[1], batch["image"].shape[2]) if "image" in batch else None
        text = self.decoder_condition(batch, frozen or {}) if "text" in batch else None
        return (size,) if text is None else (size, text)

    def user_batch(self, values: Any, **options: Any) -> dict[str, np.ndarray]:
        """See `System.user_batch`; `value_range` says what black and white are in floats."""
        return {"image": IMAGE.from_user(values, channels=self.colours, **options)}

    def wanted_batch(
        self,
        rows: int,
        size: tuple[int, int] | None = None,
        *,
        captions: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """See `System.wanted_batch`: images of `size` (height, width) pixels, for captions."""
        found: dict[str, np.ndarray] = {}
        if size is not None:
            found["image"] = np.zeros((rows, *size, self.colours), np.uint8)
        if captions is not None:
            if not self.decoder_reads_captions:
                raise ValueError("this decoder reads no captions; leave them out")
            length, model = self.caption_reading
            found["text"], found["text_mask"] = caption_ids([str(c) for c in captions], length, model)
        return found

    def size_of(self, shape: Sequence[int]) -> tuple[int, int]:
        """See `System.size_of`: height and width."""
        return shape[1], shape[2]

    def request_of(self, asked: Sequence[str | int] | int) -> Request:
        """See `System.request_of`: captions, or labels as numbers or their texts."""
        if isinstance(asked, int) or self.conditioned_on == "nothing":
            return super().request_of(asked)
        if self.conditioned_on == "labels":
            return Request(labels=self._numbers(asked))
        return Request(captions=[str(caption) for caption in asked])

    def request_batch(self, request: Request) -> dict[str, np.ndarray]:
        """See `System.request_batch`: "label", or "text" and "text_mask", which a decoder may read too."""
        length, model = self.caption_reading
        found: dict[str, np.ndarray] = {}
        if request.captions is not None and length:
            found["text"], found["text_mask"] = caption_ids(list(request.captions), length, model)
        if self.conditioned_on == "labels":
            found["label"] = self._labels(request)
        elif self.conditioned_on == "captions" and request.captions is None:
            raise ValueError("this model samples images for captions; give captions")
        return found

    def _labels(self, request: Request) -> np.ndarray:
        classes = getattr(self, "classes", 0)
        given = request.labels if request.labels is not None else request.captions
        if given is None:
            raise ValueError(f"this model samples classes; give labels from 0 to {classes - 1}")
        return np.array(self._numbers(given), np.int32)

    def _numbers(self, given: Sequence[str | int]) -> list[int]:
        """Numbers of classes, also as texts."""
        classes = getattr(self, "classes", 0)
        known = {str(label) for label in range(classes)}
        if unknown := [label for label in given if str(label) not in known]:
            raise ValueError(
                f"this model samples classes, and {unknown[:5]} are none; give numbers from 0 to "
                f"{classes - 1}"
            )
        return [int(label) for label in given]

    def label_reading(self) -> tuple[int, bool]:
        """See `System.label_reading`."""
        if self.conditioned_on != "labels":
            return 0, True
        labels = {"label": jax.ShapeDtypeStruct((1,), np.int32)}
        condition = jax.eval_shape(lambda batch: self.condition(batch, {}), labels)
        classes = getattr(self, "classes", 0)
        return (0, False) if condition is None else (classes, condition.null is not None)

    def check_data(self, data: Dataset) -> None:
        """See `System.check_data`. Images of other channels would be broadcast in losses; of other sizes it
        would be trained, and evaluated and sampled at its own; texts of other lengths are read otherwise
        than sampled.

        Raises:
          ValueError: channels, size or text length are none of the data's.
        """
        shapes = [fields["image"].shape for fields in data.shapes() if "image" in fields]
        channels, side = self.colours, self.side
        if shapes and shapes[0][-1] != channels:
            raise ValueError(
                f"data.channels is {shapes[0][-1]}, but model.channels is {channels}. Set both to 1 for grey "
                "or 3 for colour."
            )
        if shapes and side and all(shape[0] != side for shape in shapes):
            raise ValueError(
                f"data.image_sizes is {tuple(shape[0] for shape in shapes)}, without the {side} pixels of "
                "the model. Set both alike."
            )
        length, text = self.caption_reading[0], data.fields().get("text")
        if length and text is not None and text.shape[0] != length:
            raise ValueError(
                f"data.text_length is {text.shape[0]}, but the model reads texts of {length} tokens. Set "
                "both alike."
            )

    @property
    def colours(self) -> int:
        """Channels of the images."""
        return getattr(self, "channels", 3)

    @property
    def side(self) -> int:
        """Side of the images in pixels that it writes unless asked otherwise."""
        return getattr(self, "image_size", 0)
