"""Do images show their captions, by the opinion of a CLIP model whose weights lie in a local folder.

Two scalings are in use, and both are named: `clip_score_x100`, the mean of max(0, 100 cos) (torchmetrics and
Hugging Face), and `clip_score_x2.5`, the mean of 2.5 max(0, cos) (arXiv 2104.08718). Values of different CLIP
models cannot be compared, so the protocol has the name and a hash of the weights. Without weights, the exact
`jaxtok.evaluate.scenes` scores captions of coloured shapes.

    scorer = ClipScorer("checkpoints/clip-vit-base-patch32")
    scorer.results(captions, images, sampler="maskgit", steps=8)
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxtok.codes import Array
from jaxtok.evaluate.protocol import Result
from jaxtok.nn.clip import load_clip
from jaxtok.nn.subword_text import tokenize
from jaxtok.param_trees import flatten

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711])


def clip_pixels(images: UInt8[Array, "B H W C"], size: int = 224) -> Float[np.ndarray, "B S S 3"]:
    """What CLIP's image tower takes: the shorter side resized to `size` (bicubic, antialiased, rounded to
    bytes), the centre cut out, channels normalised; float32.

    Args:
      images: uint8, of one channel (repeated) or three.
      size: of the model.

    Raises:
      ValueError: another number of channels.
    """
    images = np.asarray(images)
    height, width, channels = images.shape[1:]
    if channels not in (1, 3):
        raise ValueError(f"images have {channels} channels; CLIP takes RGB or grey ones")
    shorter = min(height, width)
    new = size * height // shorter, size * width // shorter
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    out = np.empty((len(images), size, size, 3), np.float32)
    for row, image in enumerate(images):
        picture = Image.fromarray(np.repeat(image, 3 // channels, axis=-1))
        if new != (height, width):
            picture = picture.resize(new[::-1], Image.Resampling.BICUBIC)
        cut = np.asarray(picture)[top : top + size, left : left + size]
        out[row] = (cut / 255 - _MEAN) / _DEVIATION
    return out


def cosines(images: Float[Array, "B P"], texts: Float[Array, "B P"]) -> Float[np.ndarray, " B"]:
    """Cosine of each pair, float64."""
    return np.sum(_unit(images) * _unit(texts), axis=-1)


def clip_score(images: Float[Array, "B P"], texts: Float[Array, "B P"], scale: float = 100.0) -> float:
    """Mean over pairs of max(0, scale * cosine); 100 and 2.5 are in use.

    Raises:
      ValueError: no pairs.
    """
    found = cosines(images, texts)
    if not len(found):
        raise ValueError("a score of no images; give at least one pair")
    return float(np.mean(np.maximum(0.0, scale * found)))


def clip_r_precision(
    images: Float[Array, "B P"],
    texts: Float[Array, "B P"],
    captions: Sequence[str],
    *,
    distractors: int = 99,
    seed: int = 0,
) -> float:
    """How often an image is nearer to its own caption than to all of `distractors` other ones, which are
    drawn from those of the other images (without repetition, and never the same text). Chance is 1 /
    (distractors + 1); a tie counts as wrong.

    Args:
      images, texts: of pairs.
      captions: the texts themselves.
      distractors: how many.
      seed: of the draw.

    Raises:
      ValueError: fewer than `distractors` + 1 different captions.
    """
    different, first, which = np.unique(np.asarray(captions), return_index=True, return_inverse=True)
    if len(captions) != len(images) or len(different) <= distractors or distractors < 1:
        raise ValueError(
            f"{len(images)} images and {len(captions)} captions, {len(different)} of them different: give "
            f"one per image, and for {distractors} distractors at least {distractors + 1} different ones"
        )
    similar = _unit(images) @ _unit(np.asarray(texts)[first]).T
    rng, right = np.random.default_rng(seed), 0
    for row, own in enumerate(which):
        others = rng.permutation(len(different) - 1)[:distractors]
        others = others + (others >= own)
        right += bool(similar[row, own] > similar[row, others].max())
    return right / len(which)


def _unit(x: Array) -> np.ndarray:
    x = np.asarray(x).astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class ClipScorer:
    """A CLIP model in a local folder of Hugging Face format: `config.json`, `model.safetensors`,
    `tokenizer.json`.

    Attributes:
      protocol: model, hash of its weights, preprocessing.
    """

    def __init__(self, path: str | os.PathLike, batch_size: int = 64):
        self._path, self._batch_size = Path(path), batch_size
        self._module, variables, self._config = load_clip(self._path)
        digest = hashlib.sha256()
        for name, leaf in sorted(flatten(variables).items()):
            digest.update(name.encode() + np.ascontiguousarray(leaf).tobytes())
        self._variables = jax.tree.map(jax.numpy.asarray, variables)
        # One compiled call each: the last batch is filled up.
        self._images = jax.jit(lambda v, x: self._module.apply(v, x, method="image_features"))
        self._texts = jax.jit(lambda v, x, mask: self._module.apply(v, x, mask, method="text_features"))
        self.protocol: dict[str, Any] = {
            "clip": self._path.name,
            "weights_hash": digest.hexdigest()[:16],
            "resize": f"bicubic to {self._config.image_size}, centre cut",
            "text_length": self._config.text.length,
        }

    def embed_images(self, images: UInt8[Array, "B H W C"]) -> Float[np.ndarray, "B P"]:
        """Images in the common space, of any size in pixels."""
        images = np.asarray(images)
        parts = [
            (clip_pixels(images[i : i + self._batch_size], self._config.image_size),)
            for i in range(0, len(images), self._batch_size)
        ]
        return self._batched(self._images, parts)

    def embed_texts(self, captions: Sequence[str]) -> Float[np.ndarray, "B P"]:
        """Captions in the common space; longer ones are cut to the model's length, their end kept.

        Raises:
          FileNotFoundError: the folder has no `tokenizer.json`.
          ImportError: the extra `text` is not installed.
          ValueError: the tokenizer has ids that the model does not know.
        """
        ids, mask = tokenize(self._path, captions, self._config.text.length, left=False)
        if ids.max() >= self._config.text.vocab:
            raise ValueError(
                f"{self._path} yields token {ids.max()}, the model knows {self._config.text.vocab}; use its "
                "own tokenizer.json"
            )
        cuts = [slice(i, i + self._batch_size) for i in range(0, len(ids), self._batch_size)]
        parts = [(ids[cut], mask[cut]) for cut in cuts]
        return self._batched(self._texts, parts)

    def results(
        self,
        captions: Sequence[str],
        images: UInt8[Array, "B H W C"],
        *,
        distractors: int = 99,
        seed: int = 0,
        **protocol: Any,
    ) -> list[Result]:
        """`clip_score_x100`, `clip_score_x2.5`, and `clip_r_precision` where there are captions enough;
        higher is better.

        Args:
          captions: one per image.
          images: uint8.
          distractors, seed: see `clip_r_precision`.
          **protocol: what this cannot know: sampler, steps, guidance, weights, seed.

        Raises:
          ValueError: no images, or another number of captions.
        """
        if len(captions) != len(images) or not captions:
            raise ValueError(f"{len(captions)} captions for {len(images)} images: give one caption per image")
        image_features, text_features = self.embed_images(images), self.embed_texts(captions)
        shared = {**self.protocol, "images": len(images), "size": list(np.shape(images)[1:]), **protocol}
        found = [
            Result(
                f"clip_score_x{scale:g}",
                clip_score(image_features, text_features, scale),
                {**shared, "scaling": scaling},
            )
            for scale, scaling in ((100.0, "mean of max(0, 100 cos)"), (2.5, "mean of 2.5 max(0, cos)"))
        ]
        if len(set(captions)) > distractors:
            value = clip_r_precision(
                image_features, text_features, captions, distractors=distractors, seed=seed
            )
            extra = {"distractors": distractors, "distractor_seed": seed}
            found.append(Result("clip_r_precision", value, {**shared, **extra}))
        return found

    def _batched(self, call: Any, parts: list[tuple[np.ndarray, ...]]) -> np.ndarray:
        if not parts:
            return np.zeros((0, self._config.text.projection), np.float32)
        rows = []
        for part in parts:
            count = len(part[0])
            missing = self._batch_size - count if len(parts) > 1 else 0
            full = [np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for x in part]
            rows.append(np.asarray(call(self._variables, *full))[:count])
        return np.concatenate(rows)
