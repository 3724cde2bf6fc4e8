"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545): the classifier whose logits TiTok-style tokenizers compare
images by.

    block(x) = x + gamma * W2 gelu(W1 LayerNorm(depthwise7x7(x)))

Stochastic depth belongs to its training and is absent, because the network is only used frozen.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import LayerNorm
from jaxtok.weights import Entry, Table, conv, dense, reshape

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ConvNeXt(nn.Module):
    """ConvNeXt classifier; the defaults are ConvNeXt-S.

    Attributes:
        depths: blocks per stage.
        dims: channels per stage; the image is divided by 4, 8, 16 and 32.
        classes: width of the logits.
        dtype: computation dtype; parameters and normalisations are float32.
    """

    depths: tuple[int, ...] = (3, 3, 27, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[jax.Array, "B H W 3"]
    ) -> tuple[tuple[Float[jax.Array, "B _ _ _"], ...], Float[jax.Array, "B classes"]]:
        """Images in [-1, 1] -> (the map after every stage, the logits)."""
        stride = 4 * 2 ** (len(self.dims) - 1)
        if min(image.shape[1:3]) < stride:
            raise ValueError(f"ConvNeXt divides the image by {stride}, got {image.shape}; resize the images")
        x = (image.astype(jnp.float32) * 0.5 + 0.5 - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)
        maps = []
        for stage, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            if stage == 0:
                x = nn.Conv(dim, (4, 4), (4, 4), padding="VALID", dtype=self.dtype, name="stem")(x)
                x = LayerNorm(name="stem_norm")(x)
            else:
                x = LayerNorm(name=f"down{stage}_norm")(x)
                x = nn.Conv(dim, (2, 2), (2, 2), padding="VALID", dtype=self.dtype, name=f"down{stage}")(x)
            # Scanned, so that 27 blocks compile as fast as one.
            blocks = nn.scan(
                ConvNeXtBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=depth
            )
            x, _ = blocks(dtype=self.dtype, name=f"stage{stage}")(x.astype(self.dtype))
            maps.append(x)
        pooled = LayerNorm(name="head_norm")(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        return tuple(maps), Dense(self.classes, name="head")(pooled)


class ConvNeXtBlock(nn.Module):
    """One residual block, as a scan body.

    Attributes:
        dtype: computation dtype.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> tuple[Float[jax.Array, "B H W C"], None]:
        """[B, H, W, C] -> ([B, H, W, C], nothing to stack)."""
        dim = x.shape[-1]
        y = nn.Conv(dim, (7, 7), padding=3, feature_group_count=dim, dtype=self.dtype, name="depthwise")(x)
        y = LayerNorm(name="norm")(y)
        y = nn.gelu(Dense(4 * dim, dtype=self.dtype, name="expand")(y), approximate=False)
        y = Dense(dim, dtype=self.dtype, name="reduce")(y)
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (dim,))
        return x + gamma.astype(self.dtype) * y, None


def convnext_table(module: ConvNeXt, tensors: Mapping[str, Any]) -> Table:
    """The table for torchvision's or timm's state dict, told apart by the name of the stem."""
    return _timm_table(module) if "stem.0.weight" in tensors else _torchvision_table(module)


def _torchvision_table(module: ConvNeXt) -> Table:
    entries = [*_conv("features.0.0", "stem"), *_layer_norm("features.0.1", "stem_norm")]
    for stage, (depth, dim) in enumerate(zip(module.depths, module.dims, strict=True)):
        if stage > 0:
            entries += _layer_norm(f"features.{2 * stage}.0", f"down{stage}_norm")
            entries += _conv(f"features.{2 * stage}.1", f"down{stage}")
        theirs, ours, layers = f"features.{2 * stage + 1}.{{i}}", f"stage{stage}", range(depth)
        entries += _conv(f"{theirs}.block.0", f"{ours}/depthwise", layers)
        entries += _layer_norm(f"{theirs}.block.2", f"{ours}/norm", layers)
        entries += _dense(f"{theirs}.block.3", f"{ours}/expand", layers)
        entries += _dense(f"{theirs}.block.5", f"{ours}/reduce", layers)
        entries.append(Entry(f"{theirs}.layer_scale", f"{ours}/gamma", reshape((dim,), (dim, 1, 1)), layers))
    entries += [*_layer_norm("classifier.0", "head_norm"), *_dense("classifier.2", "head")]
    return Table(tuple(entries))


def _timm_table(module: ConvNeXt) -> Table:
    entries = [*_conv("stem.0", "stem"), *_layer_norm("stem.1", "stem_norm")]
    for stage, depth in enumerate(module.depths):
        if stage > 0:
            entries += _layer_norm(f"stages.{stage}.downsample.0", f"down{stage}_norm")
            entries += _conv(f"stages.{stage}.downsample.1", f"down{stage}")
        theirs, ours, layers = f"stages.{stage}.blocks.{{i}}", f"stage{stage}", range(depth)
        entries += _conv(f"{theirs}.conv_dw", f"{ours}/depthwise", layers)
        entries += _layer_norm(f"{theirs}.norm", f"{ours}/norm", layers)
        entries += _dense(f"{theirs}.mlp.fc1", f"{ours}/expand", layers)
        entries += _dense(f"{theirs}.mlp.fc2", f"{ours}/reduce", layers)
        entries.append(Entry(f"{theirs}.gamma", f"{ours}/gamma", indices=layers))
    entries += [*_layer_norm("head.norm", "head_norm"), *_dense("head.fc", "head")]
    return Table(tuple(entries))


def _conv(theirs: str, ours: str, layers: range | None = None) -> list[Entry]:
    kernel = Entry(f"{theirs}.weight", f"{ours}/kernel", conv, layers)
    return [kernel, Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers)]


def _dense(theirs: str, ours: str, layers: range | None = None) -> list[Entry]:
    kernel = Entry(f"{theirs}.weight", f"{ours}/kernel", dense, layers)
    return [kernel, Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers)]


def _layer_norm(theirs: str, ours: str, layers: range | None = None) -> list[Entry]:
    scale = Entry(f"{theirs}.weight", f"{ours}/scale", indices=layers)
    return [scale, Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers)]
