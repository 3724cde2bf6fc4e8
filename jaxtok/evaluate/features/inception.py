"""InceptionV3 as the Frechet Inception distance uses it: the graph "inception-2015-12-05" with 1008 classes.

The network is that of arXiv 1512.00567; FID (arXiv 1706.08500) is defined by this one set of weights. In a
few places it is not the InceptionV3 of other libraries: batch normalisation adds 1e-3 to variances; average
pools do not count their padding; the last block takes the maximum in its pooling branch; there are 1008
classes.
The weights come from a local file in the layout of pytorch-fid (`pt_inception-2015-12-05-6726825d.pth`) and
torch-fidelity (`weights-inception-2015-12-05-6726825d.pth`), which hold the same tensors.

Its blocks are data, in `inception_blocks`, by the names of that file, so the converter's table follows.
"""

import functools
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.evaluate.features.inception_blocks import BLOCKS, STEM, Branch, Layer, Pool
from jaxtok.evaluate.features.network import FeatureNetwork, Features, weights_version
from jaxtok.weights import Entry, Table, conv, dense, load_table, read_tensors

SIDE = 299
CLASSES = 1008
SPATIAL_BLOCK, SPATIAL_CHANNELS = "Mixed_6d", 7  # "mixed_6/conv" of the graph is the first branch of it
_EPSILON = 1e-3

Preprocessing = Literal["tf1", "torch"]


class ConvNorm(nn.Module):
    """One `Layer`; its statistics are parameters like all others, because nothing is trained."""

    layer: Layer

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 D"]:
        """Convolves, normalises by the stored statistics, and cuts off what is negative."""
        layer = self.layer
        sides = [(size // 2, size // 2) if layer.padded else (0, 0) for size in layer.window]
        convolve = nn.Conv(
            layer.features,
            layer.window,
            layer.stride,
            sides,
            use_bias=False,
            precision="highest",
            name="conv",
        )
        vector = lambda name, init: self.param(name, init, (layer.features,))
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale, bias = vector("scale", ones), vector("bias", zeros)
        mean, variance = vector("mean", zeros), vector("variance", ones)
        return nn.relu((convolve(x) - mean) * (scale * jax.lax.rsqrt(variance + _EPSILON)) + bias)


class MixedBlock(nn.Module):
    """Branches on one input, joined along channels."""

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 D"]:
        """The joined outputs, in the order of the branches."""
        outputs = []
        for branch in self.branches:
            y = x if branch.pool is None else _pool(x, branch.pool)
            for layer in branch.layers:
                y = ConvNorm(layer, name=layer.name)(y)
            outputs += [ConvNorm(layer, name=layer.name)(y) for layer in branch.fork] or [y]
        return jnp.concatenate(outputs, axis=-1)


class InceptionTaps(NamedTuple):
    """What can be read off the network, by the names of torch-fidelity; vectors are means over the grid.

    Attributes:
      first: "64", [B, 64] after the first pool.
      second: "192", [B, 192] after the second.
      third: "768", [B, 768] after `Mixed_6e`.
      pooled: "2048", [B, 2048], the features of FID.
      logits_unbiased: [B, 1008], of the Inception score.
      logits: [B, 1008].
      spatial: [B, 17, 17, 7] of 299 x 299 images, of sFID (ADM).
    """

    first: jax.Array
    second: jax.Array
    third: jax.Array
    pooled: jax.Array
    logits_unbiased: jax.Array
    logits: jax.Array
    spatial: jax.Array


class InceptionV3(nn.Module):
    """The network, in float32."""

    @nn.compact
    def __call__(self, image: Float[jax.Array, "B H W C"]) -> InceptionTaps:
        """RGB in [-1, 1], 299 x 299 (at least 75 x 75) -> the taps.

        Raises:
          ValueError: other channels, or images that a halving would leave nothing of.
        """
        if image.shape[-1] != 3 or min(image.shape[1:3]) < 75:
            raise ValueError(f"images of shape {image.shape[1:]}; InceptionV3 takes RGB of at least 75 x 75")
        x, taps = image, []
        for layers in STEM:
            for layer in layers:
                x = ConvNorm(layer, name=layer.name)(x)
            x = _pool(x, "halve")
            taps.append(_mean(x))
        spatial = x
        for name, branches in BLOCKS.items():
            x = MixedBlock(branches, name=name)(x)
            spatial = x[..., :SPATIAL_CHANNELS] if name == SPATIAL_BLOCK else spatial
            if name == "Mixed_6e":
                taps.append(_mean(x))
        pooled = _mean(x)
        kernel = self.param("fc_kernel", nn.initializers.lecun_normal(), (pooled.shape[-1], CLASSES))
        bias = self.param("fc_bias", nn.initializers.zeros, (CLASSES,))
        unbiased = jnp.dot(pooled, kernel, precision="highest")
        first, second, third = taps
        return InceptionTaps(first, second, third, pooled, unbiased, unbiased + bias, spatial)


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=(1, 2))


def _pool(x: jax.Array, kind: Pool) -> jax.Array:
    if kind == "halve":
        return nn.max_pool(x, (3, 3), (2, 2))
    if kind == "max":
        return nn.max_pool(x, (3, 3), (1, 1), "SAME")
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def inception_table() -> Table:
    """The official state dict."""
    layers = [(layer.name, layer.name) for part in STEM for layer in part]
    for block, branches in BLOCKS.items():
        for branch in branches:
            own = [layer.name for layer in (*branch.layers, *branch.fork)]
            layers += [(f"{block}/{name}", f"{block}.{name}") for name in own]
    vectors = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    entries = [Entry("fc.weight", "fc_kernel", dense), Entry("fc.bias", "fc_bias")]
    for ours, theirs in layers:
        entries.append(Entry(f"{theirs}.conv.weight", f"{ours}/conv/kernel", conv))
        entries += [Entry(f"{theirs}.bn.{name}", f"{ours}/{mine}") for name, mine in vectors.items()]
    return Table(tuple(entries), unused=(r".*\.num_batches_tracked",))


@functools.cache
def inception_shapes() -> Any:
    """Shapes of the variables, from one trace that is kept."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), image)


def load_inception(source: Any) -> dict[str, Any]:
    """Variables of `InceptionV3` from a local file (or a mapping of arrays), strictly.

    Raises:
      ValueError: tensors are missing, unexpected or mis-shaped; all are listed.
    """
    tensors = read_tensors(source)[0]
    return {"params": load_table(inception_table(), tensors, inception_shapes()["params"])[0]}


def scaled(images: Float[jax.Array, "B H W C"], preprocessing: Preprocessing) -> jax.Array:
    """Pixels in [0, 255] as the network wants them, RGB; grey images get three equal channels."""
    images = jnp.broadcast_to(images, (*images.shape[:-1], 3))
    return (images - 128) / 128 if preprocessing == "tf1" else 2 * (images / 255) - 1


def inception_network(source: Any, preprocessing: Preprocessing = "tf1", batch: int = 32) -> FeatureNetwork:
    """The feature network of FID, sFID, KID and the Inception score.

    Args:
      source: local file with the official weights.
      preprocessing: "tf1" as in the graph itself (torch-fidelity, ADM): resized as TensorFlow 1 does, then
        `(x - 128) / 128`; "torch" as in pytorch-fid: resized as PyTorch does, then `2 x / 255 - 1`. Distances
        of one are not comparable with those of the other.
      batch: images that go through it at a time.

    Raises:
      ValueError: see `load_inception`.
    """

    def apply(variables: Any, images: jax.Array) -> Features:
        taps = cast(InceptionTaps, InceptionV3().apply(variables, scaled(images, preprocessing)))
        spatial = taps.spatial.reshape(taps.spatial.shape[0], -1)
        return Features(taps.pooled, spatial, taps.logits_unbiased)

    variables = load_inception(source)
    titles = {"frechet": "fid", "spatial": "sfid", "kernel": "kid", "score": "inception_score"}
    version = weights_version(variables)
    return FeatureNetwork(
        "inception", version, SIDE, preprocessing, apply, variables, tuple(titles.items()), batch
    )
