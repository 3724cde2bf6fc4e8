"""CLIP: images and texts in one space (arXiv 2103.00020), with weights from Hugging Face checkpoints.

The half that reads texts is `jaxtok.nn.clip_text`.

module, variables, config = load_clip("checkpoints/clip-vit-base-patch32")
images = module.apply(variables, pixels, method="image_features")
texts = module.apply(variables, ids, mask, method="text_features")
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.nn.attention import AttentionFn, dot_product_attention
from jaxtok.nn.clip_config import ClipConfig
from jaxtok.nn.clip_text import ClipText, clip_text_table
from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.patches import patchify
from jaxtok.nn.transformer import Block, Stack
from jaxtok.weights import Entry, Table, dense, load_table, patch_dense, read_tensors


class ClipVision(nn.Module):
    """The tower of images: patches and a class token.

    Attributes:
      config: of the whole model.
      attention_fn: implementation of attention.
      dtype: computation dtype.
    """

    config: ClipConfig
    attention_fn: AttentionFn = dot_product_attention
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pixels: Float[jax.Array, "B H W 3"]
    ) -> tuple[Float[jax.Array, "B D"], Float[jax.Array, "B N D"]]:
        """Encodes normalised pixels (`jaxtok.evaluate.clip_score.clip_pixels`).

        Returns:
          The class token after the last norm, and what all tokens (the class token first) have before it.

        Raises:
          ValueError: images of another size than the model's.
        """
        config, tower = self.config, self.config.vision
        if pixels.shape[1:3] != (config.image_size, config.image_size):
            raise ValueError(
                f"images of {pixels.shape[1]}x{pixels.shape[2]}; this model takes {config.image_size}x"
                f"{config.image_size}, see clip_pixels"
            )
        normal = nn.initializers.normal(tower.width**-0.5)
        patches = Dense(tower.width, use_bias=False, dtype=self.dtype, name="patch")(
            patchify(pixels, config.patch)
        )
        first = self.param("class_token", normal, (tower.width,), jnp.float32).astype(self.dtype)
        first = jnp.broadcast_to(first, (len(pixels), 1, tower.width))
        x = jnp.concatenate([first, patches], axis=1)
        x = x + self.param("positions", normal, x.shape[1:], jnp.float32).astype(self.dtype)
        x = LayerNorm(tower.norm_epsilon, dtype=self.dtype, name="pre_norm")(x)
        block = Block(
            tower.heads,
            tower.width // tower.heads,
            tower.hidden,
            norm="layer",
            norm_epsilon=tower.norm_epsilon,
            feed_forward=tower.activation,
            qk_norm=False,
            attention_bias=True,
            feed_forward_bias=True,
            attention_fn=self.attention_fn,
            dtype=self.dtype,
            parent=None,
        )
        x = Stack(block, tower.layers, name="stack")(x)[0]
        return LayerNorm(tower.norm_epsilon, dtype=self.dtype, name="norm")(x[:, 0]), x


class Clip(nn.Module):
    """Both towers and their projections to the common space.

    Attributes:
      config: sizes.
      attention_fn: implementation of attention.
      dtype: computation dtype.
    """

    config: ClipConfig
    attention_fn: AttentionFn = dot_product_attention
    dtype: Any = jnp.float32

    def setup(self):
        self.vision = ClipVision(self.config, self.attention_fn, self.dtype)
        self.text = ClipText(self.config.text, self.dtype)
        self.projection = Dense(self.config.text.projection, use_bias=False, dtype=self.dtype)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(1 / 0.07)), (), jnp.float32
        )

    def image_features(self, pixels: Float[jax.Array, "B H W 3"]) -> Float[jax.Array, "B P"]:
        """Images in the common space, of any length; see `ClipVision`."""
        return self.projection(self.vision(pixels)[0])

    def text_features(
        self, ids: Int[jax.Array, "B T"], mask: Bool[jax.Array, "B T"]
    ) -> Float[jax.Array, "B P"]:
        """Texts in the common space, of any length; see `ClipText`."""
        return self.text(ids, mask).pooled

    def __call__(
        self, pixels: Float[jax.Array, "B H W 3"], ids: Int[jax.Array, "T L"], mask: Bool[jax.Array, "T L"]
    ) -> Float[jax.Array, "B T"]:
        """Logits of images against texts: cosines times the learned scale."""
        images, texts = self.image_features(pixels), self.text_features(ids, mask)
        images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
        return jnp.exp(self.logit_scale) * images @ texts.T


def clip_table(config: ClipConfig) -> Table:
    """How the state dict of Hugging Face's `CLIPModel` maps to the parameters of `Clip`."""
    patches = patch_dense(config.patch, 3)
    entries = [
        Entry("logit_scale", "logit_scale"),
        Entry("visual_projection.weight", "projection/kernel", dense),
        Entry("vision_model.embeddings.class_embedding", "vision/class_token"),
        Entry("vision_model.embeddings.patch_embedding.weight", "vision/patch/kernel", patches),
        Entry("vision_model.embeddings.position_embedding.weight", "vision/positions"),
    ]
    norms = {
        "vision_model.pre_layrnorm": "vision/pre_norm",  # spelled so in all checkpoints
        "vision_model.post_layernorm": "vision/norm",
    }
    for theirs, ours in norms.items():
        entries += [Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")]
    maps = {f"self_attn.{a}_proj": f"attention/{b}" for a, b in zip("qkv", ("query", "key", "value"))}
    maps |= {
        "self_attn.out_proj": "attention/out",
        "mlp.fc1": "feed_forward/up",
        "mlp.fc2": "feed_forward/down",
    }
    layer_norms = {"layer_norm1": "attention_norm", "layer_norm2": "feed_forward_norm"}
    layers, theirs, ours = (
        range(config.vision.layers),
        "vision_model.encoder.layers.{i}",
        "vision/stack/block",
    )
    for a, b in maps.items():
        entries.append(Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/kernel", dense, layers))
    for a, b in layer_norms.items():
        entries.append(Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/scale", indices=layers))
    for a, b in (maps | layer_norms).items():
        entries.append(Entry(f"{theirs}.{a}.bias", f"{ours}/{b}/bias", indices=layers))
    text = clip_text_table(config.text).entries
    entries += [dataclasses.replace(entry, ours=f"text/{entry.ours}") for entry in text]
    # Older files keep 0, 1, 2, ...
    return Table(tuple(entries), unused=(r"(text|vision)_model\.embeddings\.position_ids",))


def clip_shapes(config: ClipConfig) -> dict[str, Any]:
    """Shapes of the variables, without any files."""
    pixels = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    ids, mask = (jax.ShapeDtypeStruct((1, 1), kind) for kind in (jnp.int32, jnp.bool_))
    return jax.eval_shape(Clip(config).init, jax.random.key(0), pixels, ids, mask)


def load_clip(path: str | os.PathLike, dtype: Any = jnp.float32) -> tuple[Clip, dict[str, Any], ClipConfig]:
    """Loads a CLIP model from a local folder in Hugging Face format, strictly.

    Args:
      path: folder with `config.json` and `model.safetensors` (or shards and their index).
      dtype: in which weights are kept (as NumPy arrays) and computed with.

    Returns:
      `(module, variables, config)`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: another architecture or an option that is not implemented, or tensors that do not fit (all
        are listed).
    """
    folder = Path(path)
    config = ClipConfig.from_hugging_face(folder / "config.json")
    tensors, _ = read_tensors(folder)
    params, _ = load_table(clip_table(config), tensors, clip_shapes(config)["params"], np.dtype(dtype))
    return Clip(config, dtype=dtype), {"params": params}, config
