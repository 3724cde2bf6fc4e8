"""What a feature network is to a metric: images to features, and everything that a number depends on."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from jaxtok.codes import Array
from jaxtok.evaluate.resizing import Method, resize_weights
from jaxtok.param_trees import flatten


class Features(NamedTuple):
    """What a network says of images, float32.

    Attributes:
      pooled: [B, D], for Frechet and kernel distances and for neighbours.
      spatial: [B, S], some channels with their places, for the spatial Frechet distance (sFID).
      logits: [B, C], for the class score.
    """

    pooled: Array
    spatial: Array
    logits: Array


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A frozen network with its preprocessing.

    Attributes:
      name: short; the metrics' names end in it.
      version: hash of the weights.
      side: images are resized to this many pixels a side.
      method: how they are resized.
      apply: `(variables, float32 images [B, side, side, C] in [0, 255]) -> Features`, pure.
      variables: of the network.
      titles: what metrics of this network are called, for those whose name does not end in the network's:
        "frechet", "spatial", "kernel", "score".
      batch: images that go through it at a time.
      domain: what the pictures that it was trained on show, where that is narrow: its numbers say little
        about others, and `caution` says so beside them.
      domain_size: [H, W, C] of those pictures.
    """

    name: str
    version: str
    side: int
    method: Method
    apply: Callable[[Any, jax.Array], Features]
    variables: Any = dataclasses.field(repr=False)
    titles: tuple[tuple[str, str], ...] = ()
    batch: int = 64
    domain: str = ""
    domain_size: tuple[int, ...] = ()

    @property
    def resize(self) -> str:
        """Method and size, for a protocol."""
        return f"{self.method} to {self.side}x{self.side}"

    @property
    def identity(self) -> str:
        """Name, version and resizing: what features of one kind have in common."""
        return f"{self.name} {self.version}, {self.resize}"

    @property
    def protocol(self) -> dict[str, Any]:
        """What a result says of the network."""
        return {"network": self.name, "network_version": self.version, "resize": self.resize}

    def caution(self, size: tuple[int, ...] | None) -> dict[str, str]:
        """A protocol entry for images [H, W, C] of another size than those that the network was made for."""
        if not self.domain or size is None or tuple(size) == self.domain_size:
            return {}
        return {
            "caution": f"the network was trained on {self.domain} alone and says little about other images"
        }

    def title(self, metric: str, prefix: str = "") -> str:
        """Name of a metric: "fid" with Inception, "fd_digits" with the embedded network.

        Args:
          metric: "frechet", "spatial", "kernel", "score", or another one, which is its own name.
          prefix: "r" of reconstructions, "g" of generated images, "p" of perturbed codes. The spatial
            distance of generated images goes without, as in the literature.
        """
        plain = {"frechet": "fd", "spatial": "sfd", "kernel": "kd", "score": "class_score"}
        name = dict(self.titles).get(metric, f"{plain.get(metric, metric)}_{self.name}")
        if metric not in ("frechet", "spatial", "kernel") or (metric, prefix) == ("spatial", "g"):
            return name
        return prefix + name

    def __call__(self, images: Shaped[Array, "B H W C"]) -> Features:
        """Features of images, NumPy.

        The last batch is filled up, so that one program serves all of them.

        Raises:
          ValueError: not uint8 [B, H, W, C] with 1 or 3 channels: features are of what a picture would hold.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"images are {images.dtype}{list(images.shape)}: a feature network takes uint8 [B, H, W, C] "
                "with 1 or 3 channels; round them as a saved picture would be"
            )
        parts = []
        for first in range(0, max(len(images), 1), self.batch):
            part = images[first : first + self.batch]
            filled = np.pad(part, [(0, self.batch - len(part))] + [(0, 0)] * 3)
            found = jax.device_get(self._program(self.variables, filled))
            parts.append([leaf[: len(part)] for leaf in found])
        return Features(*(np.concatenate(leaves) for leaves in zip(*parts)))

    @functools.cached_property
    def _program(self) -> Callable[[Any, Any], Features]:
        def run(variables, images):
            height, width = images.shape[1:3]
            rows, columns = (
                jnp.asarray(resize_weights(old, self.side, self.method), jnp.float32)
                for old in (height, width)
            )
            pixels = jnp.asarray(images, jnp.float32)
            resized = jnp.einsum("yh,bhwc,xw->byxc", rows, pixels, columns, precision="highest")
            return self.apply(variables, resized)

        return jax.jit(run)


def weights_version(variables: Any) -> str:
    """16 hex digits of the SHA-256 of all weights, by name."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(dict(variables)).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def planes(images: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B*C H W 1"]:
    """Every channel as an image of its own, those of one image side by side."""
    batch, height, width, channels = images.shape
    return jnp.moveaxis(images, -1, 1).reshape(batch * channels, height, width, 1)
