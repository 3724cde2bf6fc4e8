"""Random-projection quantization: codes as targets of self-supervised learning (BEST-RQ, arXiv 2202.01855).

    k_q(z) = argmax_k cos(P_q norm(z), e_qk),   P_q Xavier-normal, e_qk random unit vectors, all of them
    frozen

Nothing is learned, so nothing can collapse: a network predicts the codes of masked stretches of its own
input, with one softmax per codebook. Normalised features (layer norm without parameters) matter: without
them one large channel decides. `cross_entropy` scores codes that were predicted from elsewhere.

    >>> import jax
    >>> from jaxtok.quantize.random_projection import RandomProjectionQuantizer
    >>> quantizer = RandomProjectionQuantizer(codes=8192, width=80, code_width=16, slots=4)
    >>> z = jax.random.normal(jax.random.key(0), (2, 8, 80))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> sorted(variables)
    ['quantizer']
    >>> quantizer.apply(variables, z, method="encode").shape
    (2, 8, 4)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.routing import masked, masked_mean
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.quantize.vq_losses import cross_entropy


def layer_norm(z: Float[jax.Array, "*batch D"], epsilon: float = 1e-5) -> Float[jax.Array, "*batch D"]:
    """`(z - mean) / sqrt(variance + epsilon)` over the channels."""
    z = z - jnp.mean(z, axis=-1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.mean(jnp.square(z), axis=-1, keepdims=True) + epsilon)


class RandomProjectionQuantizer(FixedStateQuantizer):
    """Frozen projections in front of frozen codebooks.

    Attributes:
      codes: K, size of each codebook.
      width: D of the features.
      code_width: width of each projection.
      slots: Q, number of projections and codebooks.
      normalise: whether features are layer-normalised first.
      mixed_width: width of each codebook behind a linear map of all projections, which is a parameter; 0 for
        none. `vector-quantize-pytorch` has such a map when there are several codebooks, the paper has none.
    """

    codes: int
    width: int
    code_width: int
    slots: int = 1
    normalise: bool = True
    mixed_width: int = 0

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels per codebook."""
        return CodeSpace((self.codes,) * self.slots)

    def setup(self):
        # One matrix per codebook; cosines do not see its scale.
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "normal", in_axis=1, out_axis=2, batch_axis=0)
        shape = self.slots, self.width, self.code_width
        make = lambda: init(self.make_rng("params"), shape, jnp.float32)
        self.projections = self.variable("quantizer", "projections", make).value
        self.codebooks = VectorQuantizer(
            codes=self.codes,
            width=self.slots * self.code_width,
            code_width=self.slots * self.mixed_width,
            learning="frozen",
            commitment=0.0,
            metric="cosine",
            slots=self.slots,
        )

    def project(self, z: Float[jax.Array, "B N D"]) -> Float[jax.Array, "B N P"]:
        """Projections of the features for all codebooks, side by side: P = slots * code_width."""
        z = z.astype(jnp.float32)
        z = layer_norm(z) if self.normalise else z
        out = jnp.einsum("bnd,qde->bnqe", z, self.projections, precision="highest")
        return out.reshape(*z.shape[:2], -1)

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Quantized:
        """Codes of features, and their vectors in the space of the projections.

        Args:
          z: features.
          train: not used: there is no noise.
          key: not used.
          temperature: not used.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with values [B, N, slots * code_width], no losses, and the statistics "counts" [K] or
          [Q, K].
        """
        del train, key, temperature
        return self.codebooks(self.project(masked(z, mask)), mask=mask)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N Q"]:
        """Codes, int32; 0 where the mask is False."""
        return self.codebooks.encode(self.project(masked(z, mask)), mask)

    def decode(self, codes: Int[jax.Array, "B N Q"]) -> Float[jax.Array, "B N P"]:
        """Code vectors in the space of the projections, float32."""
        return self.codebooks.decode(codes)

    def cross_entropy(
        self, z: Float[jax.Array, "B N D"], codes: Int[jax.Array, "B N Q"], mask: jax.Array | None = None
    ) -> Float[jax.Array, ""]:
        """Mean of `-log softmax(cosines)` at given codes, over real tokens and slots, in nats."""
        inner = self.codebooks.inner(self.project(z))
        return masked_mean(cross_entropy(self.codebooks.similarities(inner), codes), mask)
