"""CLIP: images and texts in one space (arXiv 2103.00020), with weights from Hugging Face checkpoints.

module, variables, config = load_clip("checkpoints/clip-vit-base-patch32")
images = module.apply(variables, pixels, method="image_features")
texts = module.apply(variables, ids, method="text_features")
"""

import math
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok.nn.attention import AttentionFn, dot_product_attention
from jaxtok.nn.clip_config import ClipConfig, ClipTower
from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.patches import patchify
from jaxtok.nn.transformer import Block, Stack
from jaxtok.weights import Entry, Table, dense, load_table, patch_dense, read_tensors


def _stack(tower: ClipTower, attention_fn: AttentionFn, dtype: Any) -> Stack:
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
        attention_fn=attention_fn,
        dtype=dtype,
        parent=None,
    )
    return Stack(block, tower.layers, name="stack")


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
        x = _stack(tower, self.attention_fn, self.dtype)(x)[0]
        return LayerNorm(tower.norm_epsilon, dtype=self.dtype, name="norm")(x[:, 0]), x


class ClipText(nn.Module):
    """The tower of texts: causal, read at the token that ends the text.

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
        self, ids: Int[jax.Array, "B T"]
    ) -> tuple[Float[jax.Array, "B D"], Float[jax.Array, "B T D"]]:
        """Encodes token ids that are padded on the right; what comes after the end changes nothing.

        Returns:
          The output at the end of each text, and that of all tokens, both after the last norm.

        Raises:
          ValueError: more tokens than the model has positions.
        """
        config, tower = self.config, self.config.text
        length = ids.shape[1]
        if length > config.context:
            raise ValueError(f"texts of {length} tokens; this model has {config.context} positions: cut them")
        x = nn.Embed(config.vocab, tower.width, name="embedding")(ids).astype(self.dtype)
        positions = self.param(
            "positions", nn.initializers.normal(0.01), (config.context, tower.width), jnp.float32
        )
        x = x + positions[:length].astype(self.dtype)
        mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        x = _stack(tower, self.attention_fn, self.dtype)(x, shared={"mask": mask})[0]
        x = LayerNorm(tower.norm_epsilon, dtype=self.dtype, name="norm")(x)
        # Where its number is unknown, the end is the largest id, as in OpenAI's vocabulary.
        end = jnp.argmax(ids if config.end is None else ids == config.end, axis=1)
        return jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0], x


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
        self.text = ClipText(self.config, self.attention_fn, self.dtype)
        self.visual_projection = Dense(self.config.projection, use_bias=False, dtype=self.dtype)
        self.text_projection = Dense(self.config.projection, use_bias=False, dtype=self.dtype)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(1 / 0.07)), (), jnp.float32
        )

    def image_features(self, pixels: Float[jax.Array, "B H W 3"]) -> Float[jax.Array, "B P"]:
        """Images in the common space, of any length; see `ClipVision`."""
        return self.visual_projection(self.vision(pixels)[0])

    def text_features(self, ids: Int[jax.Array, "B T"]) -> Float[jax.Array, "B P"]:
        """Texts in the common space, of any length; see `ClipText`."""
        return self.text_projection(self.text(ids)[0])

    def __call__(
        self, pixels: Float[jax.Array, "B H W 3"], ids: Int[jax.Array, "T L"]
    ) -> Float[jax.Array, "B T"]:
        """Logits of images against texts: cosines times the learned scale."""
        images, texts = self.image_features(pixels), self.text_features(ids)
        images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
        return jnp.exp(self.logit_scale) * images @ texts.T


def clip_table(config: ClipConfig) -> Table:
    """How the state dict of Hugging Face's `CLIPModel` maps to the parameters of `Clip`."""
    patches = patch_dense(config.patch, 3)
    entries = [
        Entry("logit_scale", "logit_scale"),
        Entry("visual_projection.weight", "visual_projection/kernel", dense),
        Entry("text_projection.weight", "text_projection/kernel", dense),
        Entry("vision_model.embeddings.class_embedding", "vision/class_token"),
        Entry("vision_model.embeddings.patch_embedding.weight", "vision/patch/kernel", patches),
        Entry("vision_model.embeddings.position_embedding.weight", "vision/positions"),
        Entry("text_model.embeddings.token_embedding.weight", "text/embedding/embedding"),
        Entry("text_model.embeddings.position_embedding.weight", "text/positions"),
    ]
    norms = {
        "vision_model.pre_layrnorm": "vision/pre_norm",  # spelled so in all checkpoints
        "vision_model.post_layernorm": "vision/norm",
        "text_model.final_layer_norm": "text/norm",
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
    for name, tower in (("vision", config.vision), ("text", config.text)):
        layers, theirs, ours = (
            range(tower.layers),
            f"{name}_model.encoder.layers.{{i}}",
            f"{name}/stack/block",
        )
        for a, b in maps.items():
            entries += [
                Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/kernel", dense, layers),
                Entry(f"{theirs}.{a}.bias", f"{ours}/{b}/bias", indices=layers),
            ]
        for a, b in layer_norms.items():
            entries += [
                Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/scale", indices=layers),
                Entry(f"{theirs}.{a}.bias", f"{ours}/{b}/bias", indices=layers),
            ]
    # Older files keep 0, 1, 2, ...
    return Table(tuple(entries), unused=(r"(text|vision)_model\.embeddings\.position_ids",))


def clip_shapes(config: ClipConfig) -> dict[str, Any]:
    """Shapes of the variables, without any files."""
    pixels = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, config.context), jnp.int32)
    return jax.eval_shape(Clip(config).init, jax.random.key(0), pixels, ids)


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
