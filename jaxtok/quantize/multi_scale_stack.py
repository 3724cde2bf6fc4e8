"""A pyramid whose scales are quantized one after the other; `jaxtok.quantize.multi_scale` builds the usual
ones.

>>> import jax
>>> from jaxtok.quantize.lfq import LFQ
>>> from jaxtok.quantize.multi_scale_stack import MultiScaleQuantizer
>>> from jaxtok.quantize.pyramid import Pyramid
>>> quantizer = MultiScaleQuantizer((LFQ(bits=8, scale=0.5),), Pyramid(scales=(1, 2, 4), width=8))
>>> z = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
>>> variables = quantizer.init(jax.random.key(1), z)
>>> quantizer.apply(variables, z).codes.shape, quantizer.space.levels
((2, 21, 1), (256,))
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Layout, Quantized
from jaxtok.kernels import lookup
from jaxtok.quantize import depth_dropout
from jaxtok.quantize.pyramid import Pyramid
from jaxtok.quantize.routing import masked, masked_mean, propagate_nonfinite, straight_through
from jaxtok.quantize.stack import QuantizerStack, initialise_next, inner_width


class MultiScaleQuantizer(QuantizerStack):
    """Multi-scale residual quantizer of grids; `multi_scale_vq` builds the usual ones.

    Attributes:
      quantizers: one for all scales, or one per scale with one code space; of the pyramid's width.
      pyramid: the scales and the maps between them.
      objective: what is trained. "sums" (VAR): features and codes are pulled together in the sum of each
        prefix of scales, and the gradient passes straight through the whole quantizer. "scales"
        (`HierarchicalVQ` of `vector-quantize-pytorch`): each scale has the losses of its quantizer on what it
        is to code, and the gradient passes through every scale as its quantizer routes it.
      commitment: with "sums", the weight of the distance from the features to the (fixed) sum of each prefix
        of scales; the opposite distance, which moves codes and phi, has weight 1.
      own_length: codes are passed on as they are learned even where the quantizer's metric, the cosine,
        compares and decodes their directions only (as in VAR).
      dropout: in training, the share of examples that keep only their first scales, `at_least` or more, but
        not all.
      at_least: smallest number of scales that dropout keeps.
    """

    pyramid: Pyramid
    objective: Literal["sums", "scales"] = "sums"
    commitment: float = 0.25
    own_length: bool = False
    dropout: float = 0.0
    at_least: int = 1

    @property
    def space(self) -> CodeSpace:
        """The alphabet of the quantizers, the same at all scales."""
        return self._at(0).space

    @property
    def layout(self) -> Layout:
        """The scales along the token axis."""
        return self.pyramid.layout

    @property
    def depths(self) -> int:
        """Number of scales."""
        return len(self.pyramid.scales)

    def setup(self):
        self.pyramid.check()
        self._check_number("scales")
        kinds = {(inner_width(q), q.space) for q in self.quantizers}  # pyright: ignore
        if kinds != {(self.pyramid.width, self.space)}:
            raise ValueError(
                f"quantizers of (width, space) {sorted(kinds, key=str)}; all must have the pyramid's width="
                f"{self.pyramid.width} and one code space"
            )
        if self.objective not in ("sums", "scales"):
            raise ValueError(f"objective={self.objective!r}; choose 'sums' or 'scales'")
        if self.own_length and any(getattr(q, "code_width", 1) for q in self.quantizers):
            raise ValueError("own_length=True needs vector quantizers without projections; leave it False")
        if self.dropout and not (0 < self.dropout <= 1 <= self.at_least < self.depths):
            raise ValueError(
                f"dropout={self.dropout} must be in [0, 1], and at_least={self.at_least} in 1 .. "
                f"{self.depths - 1} of {self.depths} scales"
            )

    def __call__(
        self,
        z: Float[jax.Array, "B *grid D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
        kept: jax.Array | int | None = None,
    ) -> Quantized:
        """Quantizes a grid.

        Args:
          z: features.
          train: drop scales and let the quantizers draw what they draw, as the attributes say.
          key: scalar key or one key per example; default the "quantizer" stream of `rngs`.
          temperature: of the quantizers' sampling.
          mask: bool [B, *grid], True where a feature is real. Others count nowhere: a cell of a scale is the
            mean over its real features; where it has none its code is 0 and adds nothing. Values are 0 where
            features are not real.
          kept: number of scales to keep, int32 [] or [B]; default all, or drawn in training with `dropout`.
            Dropped scales have code 0 (see `cell_mask`), no value, no loss and no statistics.

        Returns:
          `Quantized` with values [B, *grid, D]; codes [B, M, slots] of all scales; losses averaged over
          scales (with 0 where one was dropped); statistics of the quantizers summed over scales, and
          "scales", a tuple of those of each.

        Raises:
          ValueError: a grid or a mask of another size.
        """
        keys, batch = self._keys(key, train, z.shape[0]), z.shape[0]
        if kept is None and train and self.dropout:
            if keys is None:
                raise ValueError("dropout of scales in training needs a key, or a 'quantizer' stream in rngs")
            kept = self.draw_kept(keys, batch)
        x, sg = self.pyramid.features(z, mask), jax.lax.stop_gradient
        real = None if mask is None else mask.reshape(batch, -1)
        whole = self.objective == "sums"
        residual, total = sg(x) if whole else x, jnp.zeros_like(x)
        codes, losses, statistics = [], {}, []
        for i in range(self.depths):
            pooled, cells = self.pyramid.down(residual, i, mask)
            here = depth_dropout.tokens_at(i, kept, cells, pooled.shape[:2])
            child_key = None if keys is None else random.fold(keys, i)
            out = self._at(i)(pooled, train=train, key=child_key, temperature=temperature, mask=here)
            value = masked(self._value(i, out.codes), cells) if whole else out.values
            part = self._spread(i, value, kept)
            total, residual = total + part, residual - (sg(part) if whole else part)
            share = 1.0 if kept is None else depth_dropout.share(here, cells)
            terms = {name: share * loss for name, loss in out.losses.items()}
            if whole:
                there = depth_dropout.tokens_at(i, kept, real, (batch, math.prod(self.pyramid.shape)))
                share = 1.0 if kept is None else depth_dropout.share(there, real)
                error = lambda a, b: jnp.square(a - b).reshape(batch, -1, a.shape[-1])
                terms["commitment"] = self.commitment * share * masked_mean(error(x, sg(total)), there)
                terms["codebook"] = share * masked_mean(error(sg(x), total), there)
            for name, loss in terms.items():
                losses[name] = losses.get(name, 0.0) + loss / self.depths
            codes.append(out.codes)
            statistics.append(out.statistics)
        summed = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *statistics)
        return Quantized(
            masked(straight_through(x, total) if whole else propagate_nonfinite(total, x), mask),
            jnp.concatenate(codes, axis=1),
            losses,
            {**summed, "scales": tuple(statistics)},
        )

    def encode(
        self, z: Float[jax.Array, "B *grid D"], mask: Bool[jax.Array, "B *grid"] | None = None
    ) -> Int[jax.Array, "B M Q"]:
        """Codes of all scales, int32; 0 where a cell has no real feature (see `cell_mask`)."""
        residual, codes = self.pyramid.features(z, mask), []
        for i in range(self.depths):
            pooled, cells = self.pyramid.down(residual, i, mask)
            codes.append(self._at(i).encode(pooled, cells))
            residual = residual - self._spread(i, masked(self._value(i, codes[-1]), cells))
        return jnp.concatenate(codes, axis=1)

    def decode(
        self,
        codes: Int[jax.Array, "B m Q"],
        mask: Bool[jax.Array, "B *grid"] | None = None,
        kept: jax.Array | int | None = None,
        present: Bool[jax.Array, "B m"] | None = None,
    ) -> Float[jax.Array, "B *grid D"]:
        """Sum of the scales that `codes` holds, all of them or the first ones; float32.

        Args:
          codes: see `encode`.
          mask: that they were made with.
          kept: number of scales to use, int or int32 [B]; default all that there are.
          present: which of the codes to use; default all. A scale without any adds nothing, not even the
            bias of its convolution.

        Raises:
          ValueError: a number of codes that is not a number of whole scales.
        """
        return masked(self._running(codes, mask, kept, present)[-1], mask)

    def cell_values(self, codes: Int[jax.Array, "B m Q"], scale: int) -> Float[jax.Array, "B m D"]:
        """What the codes of one scale stand for in its own grid, before `spread`."""
        return self._value(scale, codes)

    def spread(self, cells: Float[jax.Array, "B m D"], scale: int) -> Float[jax.Array, "B *grid D"]:
        """What the values of one scale's cells add to the grid."""
        return self._spread(scale, cells)

    def pooled(self, total: Float[jax.Array, "B *grid D"], scale: int) -> Float[jax.Array, "B m D"]:
        """A running sum as a next-scale prior reads it before `scale`: at that scale's size."""
        return self.pyramid.down(total, scale)[0]

    def partial_sums(
        self, codes: Int[jax.Array, "B m Q"], mask: Bool[jax.Array, "B *grid"] | None = None
    ) -> Float[jax.Array, "scales B *grid D"]:
        """The running sum after each scale that `codes` holds, float32; see `decode`."""
        return jnp.stack([masked(total, mask) for total in self._running(codes, mask)])

    def next_inputs(
        self, codes: Int[jax.Array, "B m Q"], mask: Bool[jax.Array, "B *grid"] | None = None
    ) -> Float[jax.Array, "B n D"]:
        """What a next-scale prior reads: for each scale but the first, the sum of the scales before it,
        pooled to its grid; of codes of the first j scales, the inputs of scales 2 .. j + 1 (as far as there
        are).
        """
        sums = self._running(codes, mask)[: self.depths - 1]
        pooled = [self.pyramid.down(total, i + 1, mask)[0] for i, total in enumerate(sums)]
        return jnp.concatenate(pooled, axis=1)

    @nn.nowrap
    def draw_kept(self, key: jax.Array, batch: int) -> Int[jax.Array, " B"]:
        """Numbers of scales that dropout keeps, int32, as a training pass with this key draws them.

        Args:
          key: scalar key, or one per example.
          batch: B.
        """
        uniforms = random.uniform(random.fold(random.example_keys(key, batch), self.depths), (2,))
        kept = depth_dropout.kept_depths(uniforms[:, 1], self.depths - 1, self.at_least)
        return jnp.where(uniforms[:, 0] < self.dropout, kept, self.depths)

    @nn.nowrap
    def cell_mask(
        self, mask: Bool[jax.Array, "B *grid"], kept: jax.Array | int | None = None
    ) -> Bool[jax.Array, "B M"]:
        """Which codes stand for anything, for `Latents.mask`: those of scales that were kept, in cells with a
        real feature.
        """
        real = [self.pyramid.real_cells(mask, i) for i in range(self.depths)]
        there = [depth_dropout.tokens_at(i, kept, cells, cells.shape) for i, cells in enumerate(real)]
        return jnp.concatenate(there, axis=1)  # pyright: ignore

    def initialise(
        self,
        state: Any,
        z: Float[jax.Array, "B *grid D"],
        key: jax.Array,
        mask: Bool[jax.Array, "B *grid"] | None = None,
    ) -> Any:
        """State after the data-dependent initialisation (k-means) of the quantizers that have one.

        Quantizers of their own start one after the other, on what the scales before leave. A shared one
        starts on the cells of all scales, as they would be if no scale lost anything but resolution.

        Args:
          state: the collection "quantizer".
          z: features of the whole batch.
          key: scalar key.
          mask: True where a feature is real.
        """
        residual, state = self.pyramid.features(z, mask), dict(state)
        if self.shared:
            own = state.get("quantizers_0")
            if own is not None and hasattr(self._at(0), "initialise"):
                cells, real = self.pyramid.decompose(residual, mask)
                state["quantizers_0"] = self._at(0).initialise(own, cells, key, real)
            return state
        for i in range(self.depths):
            name, key_i = f"quantizers_{i}", jax.random.fold_in(key, i)
            pooled, cells = self.pyramid.down(residual, i, mask)
            own, value = initialise_next(self._at(i), state.get(name), pooled, key_i, cells, self._value_of)
            state |= {name: own} if name in state else {}
            residual = residual - self._spread(i, masked(value, cells))
        return state

    def _by_depth(self, statistics):
        return list(statistics["scales"])

    def _value(self, i, codes):
        return self._value_of(self._at(i), codes)

    def _value_of(self, child, codes):
        return lookup(child.codebook, codes[..., 0]) if self.own_length else child.decode(codes)

    def _spread(self, i, cells, kept=None):
        """What the values of a scale's cells add to the grid: nothing where the scale was dropped."""
        part = self.pyramid.up(cells, i)
        return part if kept is None else masked(part, i < jnp.broadcast_to(kept, part.shape[:1]))

    def _running(self, codes, mask, kept=None, present=None):
        ends = np.cumsum([math.prod(shape) for shape in self.layout.scales])
        if codes.shape[1] not in ends:
            raise ValueError(
                f"{codes.shape[1]} codes are no number of whole scales; those end at {ends.tolist()}"
            )
        sums, total, start = [], 0.0, 0
        for i in range(int(np.searchsorted(ends, codes.shape[1])) + 1):
            cells = None if mask is None else self.pyramid.real_cells(mask, i)
            value = masked(self._value(i, codes[:, start : ends[i]]), cells)
            here = None if present is None else present[:, start : ends[i]]
            part = self._spread(i, masked(value, here), kept)
            total = total + masked(part, None if here is None else jnp.any(here, axis=1))
            sums.append(total)
            start = ends[i]
        return sums
