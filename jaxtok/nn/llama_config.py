"""Sizes and options of decoder-only language models of the Llama and OLMo families. No JAX."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from jaxtok.json_files import read_object

Family = Literal["llama", "olmo", "olmo2"]

# What `transformers` assumes where config.json is silent. OLMo 1 cannot say: its norm has a fixed epsilon.
_EPSILON = {"llama": 1e-6, "olmo": 1e-5, "olmo2": 1e-5}
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretch of the rotary wavelengths for contexts longer than those first trained on.

    Facts from the published configurations (arXiv 2407.21783 describes the models).

    Attributes:
      factor: wavelengths of which at most `low_factor` periods fit into the original context grow by this.
      low_factor, high_factor: periods per context; from `high_factor` up nothing changes, between them the
        frequency is interpolated.
      context: tokens of the original context.
    """

    factor: float
    low_factor: float
    high_factor: float
    context: int

    def apply(self, frequencies: np.ndarray) -> np.ndarray:
        """Scaled frequencies, radians per token."""
        periods = self.context * frequencies / (2 * np.pi)
        keep = np.clip((periods - self.low_factor) / (self.high_factor - self.low_factor), 0, 1)
        return frequencies * (keep + (1 - keep) / self.factor)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A decoder-only language model.

    Attributes:
      vocab: number of token ids.
      width: D.
      layers: L.
      heads, key_heads, head_dim: query heads, key and value heads (a divisor of `heads`), channels per head
        (even).
      hidden: inner width of the SwiGLU half.
      family: "llama" (RMS norm before each half), "olmo" (layer norm without parameters before each half) or
        "olmo2" (RMS norm after each half, and over all heads' queries and keys together).
      norm_epsilon: of all norms.
      rope_theta: base of the rotary frequencies.
      rope_scaling: their scaling, None for none.
      attention_bias, feed_forward_bias: biases of the linear maps.
      clip: queries, keys and values are clipped to [-clip, clip]; None for not.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    hidden: int
    family: Family = "llama"
    norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Scaling | None = None
    attention_bias: bool = False
    feed_forward_bias: bool = False
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise ValueError(f"family={self.family!r}; choose one of {get_args(Family)}")
        if self.heads % self.key_heads:
            raise ValueError(f"key_heads={self.key_heads} does not divide heads={self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rotary positions turn pairs of channels")

    @classmethod
    def olmo_1b(cls) -> "LlamaConfig":
        """OLMo-1B (arXiv 2402.00838) and AMD-OLMo-1B, which has its sizes."""
        return cls(50_304, 2048, 16, 16, 16, 128, 8192, "olmo", norm_epsilon=1e-5)

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any] | str | os.PathLike) -> "LlamaConfig":
        """Reads a Hugging Face configuration, in the spelling of `transformers` 4 or 5.

        Args:
          config: the path of a `config.json`, or what it holds.

        Raises:
          ValueError: another architecture, a missing size, or an option that is not implemented (named).
          FileNotFoundError: there is no such file.
        """
        given: dict[str, Any]
        given = (
            dict(config)
            if isinstance(config, Mapping)
            else read_object(config, {}, "Copy the checkpoint's config.json again.")
        )
        family: Any = given.get("model_type")
        if family not in get_args(Family):
            raise ValueError(
                f"model_type={family!r} is not implemented; choose a checkpoint in Hugging Face format of "
                "one of "
                f"{get_args(Family)}"
            )
        missing = [name for name in _REQUIRED if given.get(name) is None]
        if missing:
            raise ValueError(
                f"the configuration lacks {missing}; pass the complete config.json of the checkpoint"
            )
        _refuse_what_is_not_implemented(given)
        heads, width = given["num_attention_heads"], given["hidden_size"]
        theta, scaling = _rope(given)
        return cls(
            vocab=given["vocab_size"],
            width=width,
            layers=given["num_hidden_layers"],
            heads=heads,
            key_heads=given.get("num_key_value_heads") or heads,
            head_dim=given.get("head_dim") or width // heads,
            hidden=given["intermediate_size"],
            family=family,
            norm_epsilon=_EPSILON[family]
            if family == "olmo"
            else given.get("rms_norm_eps", _EPSILON[family]),
            rope_theta=theta,
            rope_scaling=scaling,
            attention_bias=bool(given.get("attention_bias")),
            feed_forward_bias=family == "llama" and bool(given.get("mlp_bias")),
            clip=given.get("clip_qkv") if family == "olmo" else None,
        )


def _refuse_what_is_not_implemented(config: Mapping[str, Any]) -> None:
    layer_types = set(config.get("layer_types") or ())
    refused = {
        "hidden_act": config.get("hidden_act", "silu") not in ("silu", "swish"),
        "sliding_window": config.get("sliding_window") is not None and config.get("use_sliding_window", True),
        "layer_types": bool(layer_types - {"full_attention"}),
        "quantization_config": config.get("quantization_config") is not None,
    }
    named = {name: config[name] for name, yes in refused.items() if yes}
    if named:
        raise ValueError(
            f"not implemented: {named}; choose a checkpoint with silu, full attention and plain weights"
        )


def _rope(config: Mapping[str, Any]) -> tuple[float, Llama3Scaling | None]:
    """Base and scaling: `rope_theta` and `rope_scaling` in `transformers` 4, `rope_parameters` in 5."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    partial = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    if partial != 1:
        raise ValueError(
            f"partial_rotary_factor={partial} is not implemented; positions turn all channels of a head"
        )
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(
            f"rope type {kind!r} is not implemented; choose a checkpoint with 'default' or 'llama3'"
        )
    needed = {"original_max_position_embeddings": config.get("max_position_embeddings"), **rope}
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    absent = [name for name in names if needed.get(name) is None]
    if absent:
        raise ValueError(
            f"rope type 'llama3' lacks {absent}; pass the complete config.json of the checkpoint"
        )
    factor, low, high, context = (needed[name] for name in names)
    return theta, Llama3Scaling(float(factor), float(low), float(high), int(context))
