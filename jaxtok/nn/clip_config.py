"""Sizes and options of CLIP models (arXiv 2103.00020)."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from jaxtok.json_files import read_object
from jaxtok.nn.clip_text import ClipTextConfig

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


@dataclasses.dataclass(frozen=True)
class ClipTower:
    """The transformer of images.

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
      vision, text: the towers; the text's has the width of the common space.
      image_size, patch: side of the square image and of a patch, which divides it.
    """

    vision: ClipTower
    text: ClipTextConfig
    image_size: int = 224
    patch: int = 32

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide image_size={self.image_size}")

    @classmethod
    def vit_b32(cls) -> "ClipConfig":
        """ViT-B/32."""
        return cls(
            ClipTower(768, 12, 12, 3072), ClipTextConfig(heads=8, width=512, hidden=2048, projection=512)
        )

    @classmethod
    def vit_b16(cls) -> "ClipConfig":
        """ViT-B/16."""
        return dataclasses.replace(cls.vit_b32(), patch=16)

    @classmethod
    def vit_l14(cls, image_size: int = 224) -> "ClipConfig":
        """ViT-L/14, or with `image_size=336` ViT-L/14@336px."""
        return cls(ClipTower(1024, 24, 16, 4096), ClipTextConfig(), image_size, patch=14)

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
        given = (
            dict(config)
            if isinstance(config, Mapping)
            else read_object(config, {}, "Copy the checkpoint's config.json again.")
        )
        if given.get("model_type") != "clip":
            raise ValueError(
                f"model_type={given.get('model_type')!r} is not CLIP; choose a checkpoint of CLIPModel in "
                "Hugging Face format, with both towers"
            )
        # Older files say what differs from the defaults once more, in `text_config_dict` and its twin.
        text: dict[str, Any] = _BOTH | _TEXT | (given.get("text_config") or {})
        vision: dict[str, Any] = _BOTH | _VISION | (given.get("vision_config") or {})
        if vision["num_channels"] != 3:
            raise ValueError(f"num_channels={vision['num_channels']} is not implemented; images are RGB")
        known: str = str(vision["hidden_act"])
        if known not in _ACTIVATIONS:
            raise ValueError(f"hidden_act={known!r} of a CLIP; choose one of {sorted(_ACTIVATIONS)}")
        tower = ClipTower(
            width=vision["hidden_size"],
            layers=vision["num_hidden_layers"],
            heads=vision["num_attention_heads"],
            hidden=vision["intermediate_size"],
            activation=_ACTIVATIONS[known],
            norm_epsilon=vision["layer_norm_eps"],
        )
        shared = {"text_config": text, "projection_dim": given.get("projection_dim") or 512}
        return cls(
            tower, ClipTextConfig.from_hugging_face(shared), vision["image_size"], patch=vision["patch_size"]
        )
