"""Sizes and options of CLIP models (arXiv 2103.00020). No JAX."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ACTIVATIONS = {
    "quick_gelu": "gelu_quick",
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
}
# What `transformers` assumes where config.json is silent.
_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
_BOTH = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
# Early checkpoints name this as the end of a text, and then mean the largest id.
_LEGACY_END = 2


@dataclasses.dataclass(frozen=True)
class ClipTower:
    """One of the two transformers.

    Attributes:
      width: D.
      layers, heads: their numbers; heads divide the width.
      hidden: inner width of the feed-forward half.
      activation: see `jaxtok.nn.feedforward.FeedForward`.
      norm_epsilon: of all norms.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    activation: str = "gelu_quick"
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} do not divide width={self.width}")


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """A CLIP model.

    Attributes:
      vision, text: the towers.
      image_size, patch: side of the square image and of a patch, which divides it.
      projection: width of the common space.
      vocab, context: token ids and positions of the text.
      end: id of the token whose output stands for the text (its first occurrence); None for the largest id.
    """

    vision: ClipTower
    text: ClipTower
    image_size: int = 224
    patch: int = 32
    projection: int = 512
    vocab: int = 49408
    context: int = 77
    end: int | None = 49407

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}")

    @classmethod
    def vit_b32(cls) -> "ClipConfig":
        """ViT-B/32."""
        return cls(ClipTower(768, 12, 12, 3072), ClipTower(512, 12, 8, 2048))

    @classmethod
    def vit_b16(cls) -> "ClipConfig":
        """ViT-B/16."""
        return dataclasses.replace(cls.vit_b32(), patch=16)

    @classmethod
    def vit_l14(cls, image_size: int = 224) -> "ClipConfig":
        """ViT-L/14, or with `image_size=336` ViT-L/14@336px."""
        towers = ClipTower(1024, 24, 16, 4096), ClipTower(768, 12, 12, 3072)
        return cls(*towers, image_size=image_size, patch=14, projection=768)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any] | str | os.PathLike) -> "ClipConfig":
        """Reads a Hugging Face configuration of `CLIPModel`.

        Args:
          config: the path of a `config.json`, or what it holds.

        Raises:
          ValueError: another architecture, or an option that is not implemented (named).
          FileNotFoundError: there is no such file.
        """
        given: dict[str, Any]
        given = dict(config) if isinstance(config, Mapping) else json.loads(Path(config).read_text())
        if given.get("model_type") != "clip":
            raise ValueError(
                f"model_type={given.get('model_type')!r} is not CLIP; choose a checkpoint of CLIPModel in "
                "Hugging Face format, with both towers"
            )
        # Older files say what differs from the defaults once more, in `text_config_dict` and its twin.
        text = _BOTH | _TEXT | (given.get("text_config") or {})
        vision = _BOTH | _VISION | (given.get("vision_config") or {})
        if vision["num_channels"] != 3:
            raise ValueError(f"num_channels={vision['num_channels']} is not implemented; images are RGB")
        return cls(
            _tower(vision),
            _tower(text),
            image_size=vision["image_size"],
            patch=vision["patch_size"],
            projection=given.get("projection_dim") or 512,
            vocab=text["vocab_size"],
            context=text["max_position_embeddings"],
            end=None if text["eos_token_id"] == _LEGACY_END else text["eos_token_id"],
        )


def _tower(given: Mapping[str, Any]) -> ClipTower:
    if given["hidden_act"] not in _ACTIVATIONS:
        raise ValueError(
            f"hidden_act={given['hidden_act']!r} is not implemented; choose one of {sorted(_ACTIVATIONS)}"
        )
    return ClipTower(
        width=given["hidden_size"],
        layers=given["num_hidden_layers"],
        heads=given["num_attention_heads"],
        hidden=given["intermediate_size"],
        activation=_ACTIVATIONS[given["hidden_act"]],
        norm_epsilon=given["layer_norm_eps"],
    )
