"""SimVQ: the codebook is a fixed random one seen through a learned map (arXiv 2411.02038).

    e = T(C),   C ~ N(0, 1 / width) frozen,   k(z) = argmin_k |z - e_k|^2,   q = e_k

With an ordinary codebook only the chosen codes move, and the others fall behind until nothing chooses them.
T is shared by all codes: a gradient at one of them moves them all, so none is left behind. T is a linear
map, or a small network. Losses are those of VQ; distances are float32 at full precision.

    >>> import jax
    >>> from jaxtok.quantize.simvq import SimVQ
    >>> quantizer = SimVQ(codes=512, width=16)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> out.codes.shape, sorted(out.losses)
    ((4, 8, 1), ['codebook', 'commitment'])
    >>> bool((quantizer.apply(variables, out.codes, method="decode") == out.values).all())
    True
    >>> sorted(variables["params"]), variables["quantizer"]["codebook"].shape
    (['map_0'], (512, 16))
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.kernels import lookup, nearest_code
from jaxtok.quantize.config import QuantizerConfig, fields_of
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import Routing, masked, masked_mean, route

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": nn.gelu,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "identity": lambda x: x,
}


class MappedCodebookQuantizer(FixedStateQuantizer):
    """Nearest vector of a codebook that a network makes out of another one: what SimVQ and FVQ share.

    Subclasses define `codebook`.

    Attributes:
      codes: K, codebook size.
      width: D of the features.
      commitment: weight of `mean |z - sg(q)|^2`, which moves the features.
      codebook_weight: of `mean |sg(z) - q|^2`, which moves the map.
      routing: "straight_through", or "rotation" (arXiv 2410.06424).
    """

    codes: int
    width: int
    commitment: float = 0.25
    codebook_weight: float = 1.0
    routing: Routing = "rotation"

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels."""
        return CodeSpace((self.codes,))

    def codebook(self) -> Float[jax.Array, "K D"]:
        """All codes as they are used, float32."""
        raise NotImplementedError

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Quantized:
        """Quantizes features.

        Args:
          z: features.
          train: not used: there is no noise.
          key: not used.
          temperature: not used.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with the weighted losses "commitment" and "codebook", and the statistics "counts" (see
          `jaxtok.quantize.counting`).
        """
        del train, key, temperature
        z, codebook = masked(z.astype(jnp.float32), mask), self.codebook()
        codes = _nearest(z, codebook)
        chosen = lookup(codebook, codes[..., 0])
        stop = jax.lax.stop_gradient
        losses = {
            "commitment": self.commitment * masked_mean(jnp.square(z - stop(chosen)), mask),
            "codebook": self.codebook_weight * masked_mean(jnp.square(stop(z) - chosen), mask),
        }
        values = masked(route(self.routing)(z, stop(chosen)), mask)
        return Quantized(values, masked(codes, mask), losses, joint_counts(codes, self.space.levels, mask))

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N 1"]:
        """Nearest codes, int32; 0 where the mask is False."""
        return masked(_nearest(z.astype(jnp.float32), self.codebook()), mask)

    def decode(self, codes: Int[jax.Array, "B N 1"]) -> Float[jax.Array, "B N D"]:
        """Code vectors, float32.

        Maps the whole codebook, so that values equal those of the forward pass bit for bit. To decode little
        by little, keep `codebook()` and look up in it.
        """
        return lookup(self.codebook(), codes[..., 0])


class SimVQ(MappedCodebookQuantizer):
    """A frozen random codebook behind a learned map.

    Attributes:
      code_width: width of the frozen codes; equal to `width` when 0.
      hidden: widths of hidden layers of the map; none for a linear map.
      activation: behind each hidden layer, one of `ACTIVATIONS`.
      use_bias: whether the layers have a bias; None for only where there are hidden layers.
      learn_codes: whether the codes behind the map are parameters too, instead of frozen.
    """

    code_width: int = 0
    hidden: tuple[int, ...] = ()
    activation: Literal[
        "relu", "silu", "gelu", "gelu_tanh", "tanh", "sigmoid", "leaky_relu", "elu", "identity"
    ] = "relu"
    use_bias: bool | None = None
    learn_codes: bool = False

    def setup(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}; choose one of {sorted(ACTIVATIONS)}")
        shape = self.codes, self.code_width or self.width
        # Codes of about unit length, whatever their width.
        init = nn.initializers.normal(shape[1] ** -0.5)
        if self.learn_codes:
            self.frozen = self.param("codebook", init, shape)
        else:
            make = lambda: init(self.make_rng("params"), shape, jnp.float32)
            self.frozen = self.variable("quantizer", "codebook", make).value
        bias = bool(self.hidden) if self.use_bias is None else self.use_bias
        self.map = [linear(n, use_bias=bias) for n in (*self.hidden, self.width)]

    def codebook(self) -> Float[jax.Array, "K D"]:
        """T of the frozen codes."""
        x = jnp.asarray(self.frozen)
        for i, layer in enumerate(self.map):
            x = layer(x if i == 0 else ACTIVATIONS[self.activation](x))
        return x


def _nearest(z, codebook):
    return nearest_code(z.reshape(-1, z.shape[-1]), codebook).reshape(*z.shape[:-1], 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimVQConfig(QuantizerConfig):
    """A frozen random codebook behind a learned map, see `SimVQ`.

    Attributes:
      codes: K, codebook size.
      code_width: width of the frozen codes; as wide as the features when 0.
      commitment: weight of `mean |z - sg(q)|^2`, which moves the features.
      codebook_weight: of `mean |sg(z) - q|^2`, which moves the map.
      routing: of the gradient: "straight_through" or "rotation".
      hidden: widths of hidden layers of the map; none for a linear map.
      activation: behind each hidden layer.
      use_bias: whether the layers have a bias; none for only where there are hidden layers.
      learn_codes: whether the codes behind the map are parameters too.
    """

    kind = "simvq"

    codes: int = 1024
    code_width: int = 0
    commitment: float = 0.25
    codebook_weight: float = 1.0
    routing: Literal["straight_through", "rotation"] = "rotation"
    hidden: tuple[int, ...] = ()
    activation: Literal[
        "relu", "silu", "gelu", "gelu_tanh", "tanh", "sigmoid", "leaky_relu", "elu", "identity"
    ] = "relu"
    use_bias: bool | None = None
    learn_codes: bool = False

    def build(self, width: int) -> SimVQ:
        """See `QuantizerConfig.build`."""
        return SimVQ(width=width, **fields_of(self))
