"""The quantizer of a grid tokenizer whose codes are scales (VAR, arXiv 2404.02905), and what a prior over
those scales needs of it.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxtok.codes import CodeSpace, Layout, Quantized
from jaxtok.nn.convolution import convolution
from jaxtok.quantize.multi_scale_stack import MultiScaleQuantizer


class ScaleGridQuantizer(nn.Module):
    """A multi-scale quantizer between two convolutions, whose features are the cells of a grid row by row.

    There are more codes than cells: those of all scales, one behind the other. All of it is float32, for the
    sum of the scales has to be.

    Attributes:
      scales: the quantizer, of a grid of two axes.
      window: of both convolutions, odd.
    """

    scales: MultiScaleQuantizer
    window: int = 3

    @property
    def space(self) -> CodeSpace:
        """The alphabet of one token, the same at all scales."""
        return self.scales.space

    @property
    def layout(self) -> Layout:
        """The scales along the token axis."""
        return self.scales.layout

    def setup(self):
        if self.window % 2 == 0:
            raise ValueError(f"window={self.window} of the convolutions must be odd, so that grids keep size")
        width = self.scales.pyramid.width
        self.inward, self.outward = convolution(width, self.window), convolution(width, self.window)

    def __call__(
        self,
        z: Float[jax.Array, "B C D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
    ) -> Quantized:
        """Values of the cells [B, C, D], codes of the scales [B, N, 1]; see `MultiScaleQuantizer`.

        Raises:
          ValueError: another number of cells than the last scale has.
        """
        out = self.scales(self._inner(z), train=train, key=key, temperature=temperature)
        return dataclasses.replace(out, values=self.finish(out.values))

    def encode(self, z: Float[jax.Array, "B C D"]) -> Int[jax.Array, "B N Q"]:
        """Codes of all scales, int32."""
        return self.scales.encode(self._inner(z))

    def decode(
        self, codes: Int[jax.Array, "B n Q"], present: Bool[jax.Array, "B n"] | None = None
    ) -> Float[jax.Array, "B C D"]:
        """Values of the cells, of the codes of all scales or of the first ones.

        Args:
          codes: see `encode`.
          present: which of the codes to use; default all.

        Raises:
          ValueError: a number of codes that is not a number of whole scales.
        """
        return self.finish(self.scales.decode(codes, present=present))

    def finish(self, total: Float[jax.Array, "B h w D"]) -> Float[jax.Array, "B C D"]:
        """Values of the cells of a sum of scales, as the decoder reads them."""
        out = self.outward(total)
        return out.reshape(out.shape[0], -1, out.shape[-1])

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """See `MultiScaleQuantizer.update`."""
        return {**state, "scales": self.scales.update(state["scales"], statistics, key)}

    def initialise(self, state: Any, z: Float[jax.Array, "B C D"], key: jax.Array) -> Any:
        """See `MultiScaleQuantizer.initialise`."""
        return {**state, "scales": self.scales.initialise(state["scales"], self._inner(z), key)}

    def _inner(self, z):
        shape = self.scales.pyramid.shape
        if z.shape[1] != shape[0] * shape[1]:
            raise ValueError(
                f"{z.shape[1]} cells, but the last of the scales {self.layout.scales} has "
                f"{shape[0] * shape[1]}; use images of the size that the scales are for"
            )
        return self.inward(z.astype(jnp.float32).reshape(z.shape[0], *shape, -1))


@dataclasses.dataclass(frozen=True)
class ScaleCodec:
    """The functions of a frozen tokenizer that a prior over its scales reads and writes with; a `Codec`.

    Attributes:
      quantizer: of the tokenizer.
      variables: of the quantizer.
    """

    quantizer: ScaleGridQuantizer
    variables: Any

    @property
    def layout(self) -> Layout:
        """The scales along the token axis."""
        return self.quantizer.layout

    def embed(self, codes: Int[jax.Array, "B n Q"]) -> Float[jax.Array, "B C D"]:
        """Values of the cells, as the decoder reads them, of the codes of all scales or of the first ones."""
        return self._apply(self.quantizer, self.variables, codes, "decode")

    def next_inputs(self, codes: Int[jax.Array, "B n Q"]) -> Float[jax.Array, "B m D"]:
        """What a prior reads for every scale but the first, see `MultiScaleQuantizer.next_inputs`."""
        return self._scales("next_inputs", codes)

    def start(self, batch: int) -> Float[jax.Array, "B h w D"]:
        """The sum of no scale."""
        pyramid = self.quantizer.scales.pyramid
        return jnp.zeros((batch, *pyramid.shape, pyramid.width), jnp.float32)

    def cell_values(self, codes: Int[jax.Array, "B m Q"], scale: int) -> Float[jax.Array, "B m D"]:
        """What the codes of one scale stand for."""
        return self._scales("cell_values", codes, scale)

    def codebook(self, scale: int) -> Float[jax.Array, "K D"]:
        """What every code of one scale stands for.

        Raises:
          ValueError: codes of several slots.
        """
        if self.quantizer.space.slots != 1:
            raise ValueError(f"codes of {self.quantizer.space.slots} slots have no table; use one slot")
        return self.cell_values(jnp.arange(self.quantizer.space.size)[None, :, None], scale)[0]

    def add(
        self, total: Float[jax.Array, "B h w D"], cells: Float[jax.Array, "B m D"], scale: int
    ) -> Float[jax.Array, "B h w D"]:
        """The sum with one more scale."""
        return total + self._scales("spread", cells, scale)

    def inputs(self, total: Float[jax.Array, "B h w D"], scale: int) -> Float[jax.Array, "B m D"]:
        """What a prior reads for `scale`, of the sum of the scales before it."""
        return self._scales("pooled", total, scale)

    def finish(self, total: Float[jax.Array, "B h w D"]) -> Float[jax.Array, "B C D"]:
        """Values of the cells of a sum, as the decoder reads them."""
        return self._apply(self.quantizer, self.variables, total, "finish")

    def _scales(self, method, *args) -> Any:
        variables = {name: part["scales"] for name, part in self.variables.items() if "scales" in part}
        return self._apply(self.quantizer.scales, variables, *args, method)

    def _apply(self, module, variables, *args) -> Any:
        *args, method = args
        return jax.lax.stop_gradient(module.apply(variables, *args, method=method))
