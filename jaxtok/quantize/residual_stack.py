"""A stack of quantizers on residuals; `jaxtok.quantize.residual` builds the usual ones.

r_0 = x,   q_i = Q_i(r_i),   r_{i+1} = r_i - sg(q_i),   out = sum_i q_i

>>> import jax
>>> from jaxtok.quantize.lfq import LFQ
>>> from jaxtok.quantize.residual_stack import ResidualQuantizer
>>> from jaxtok.quantize.vq import VectorQuantizer
>>> quantizer = ResidualQuantizer((VectorQuantizer(codes=32, width=4), LFQ(bits=4, scale=0.5)))
>>> z = jax.random.normal(jax.random.key(0), (2, 8, 4))
>>> variables = quantizer.init(jax.random.key(1), z)
>>> quantizer.apply(variables, z).codes.shape, quantizer.space.levels
((2, 8, 2), (32, 16))
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize import depth_dropout
from jaxtok.quantize.beam import stack_codes
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import directional, masked
from jaxtok.quantize.stack import QuantizerStack, initialise_next, inner_width

Scales = tuple[tuple[float, ...], ...]


class ResidualQuantizer(QuantizerStack):
    """A stack of quantizers on residuals.

    Attributes:
      quantizers: one per depth, all of the same width; one alone is used at every depth (a shared codebook).
      depth: number of depths; 0 for as many as there are quantizers.
      width: D of the features; 0 for the quantizers' own, otherwise linear maps lead in and out.
      dropout: in training, keep only the first depths, a random number of them.
      at_least: smallest number of depths that dropout keeps.
      multiple_of: dropout keeps a multiple of this many.
      dropout_per: one number per "example", or one for the whole "batch" (as in the reference; with
        micro-batches one for each of them, unless the caller gives `kept`).
      gradient_fraction: how much of the gradient through an earlier depth's code reaches it from later
        depths.
      routing: "each" depth routes its own gradient; "directional" perturbs the sum instead (DiVeQ), with
        codebooks learned by gradient.
      perturbation: variance of that noise.
      scales: per depth and channel, residuals are divided by it before and codes multiplied by it after; ()
        for 1.
      beam: paths that a search over the depths keeps; 1 for the greedy choice. Needs Euclidean vector
        quantizers, and K scores for a block of tokens.
      beam_weights: of the depths' squared errors in the score of a path; () for 1.
      pre_clamp: if not empty, x becomes c tanh(x / c) with these c per channel (or one for all) first.
    """

    depth: int = 0
    width: int = 0
    dropout: bool = False
    at_least: int = 1
    multiple_of: int = 1
    dropout_per: Literal["example", "batch"] = "example"
    gradient_fraction: float = 0.0
    routing: Literal["each", "directional"] = "each"
    perturbation: float = 5e-3
    scales: Scales = ()
    pre_clamp: tuple[float, ...] = ()
    beam: int = 1
    beam_weights: tuple[float, ...] = ()

    @property
    def depths(self) -> int:
        """Number of depths."""
        return self.depth or len(self.quantizers)

    @property
    def space(self) -> CodeSpace:
        """The slots of all depths, coarsest first."""
        return CodeSpace(tuple(n for i in range(self.depths) for n in self._at(i).space.levels))

    @property
    def slots_per_depth(self) -> int:
        """Slots of one depth."""
        return self._at(0).space.slots

    def setup(self):
        self._check_number("depth")
        if not 1 <= self.at_least <= self.depths:
            raise ValueError(f"at_least={self.at_least} depths of {self.depths} cannot be kept")
        sampled = [q for q in self.quantizers if getattr(q, "revives", False) and q.revival == "sample"]
        if self.beam > 1 and sampled:
            raise ValueError("revival by samples does not go with a beam; use revival='split'")
        if self.beam_weights and len(self.beam_weights) != self.depths:
            raise ValueError(f"beam_weights={self.beam_weights} must be one number per depth ({self.depths})")
        inner = inner_width(self._at(0))
        self.projected = bool(self.width) and self.width != inner
        if self.projected:
            self.inward, self.outward = linear(inner), linear(self.width)

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
        kept: jax.Array | int | None = None,
    ) -> Quantized:
        """Quantizes features.

        Args:
          z: features.
          train: drop depths and draw noise where the attributes say so.
          key: scalar key or one key per example; default the "quantizer" stream of `rngs`.
          temperature: of the depths' sampling.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.
          kept: number of depths to keep, int32 [] or [B]; default all, or drawn in training with `dropout`.
            Dropped depths have code 0 (see `levels_mask`), no value, no loss and no statistics.

        Returns:
          `Quantized` with the losses of the depths added up (means over all real tokens), and their
          statistics by name ("quantizers_0", ...).
        """
        keys = self._keys(key, train, z.shape[0])
        if kept is None and train and self.dropout:
            if keys is None:
                raise ValueError("dropout of depths in training needs a key, or a 'quantizer' stream in rngs")
            kept = self.draw_kept(keys, z.shape[0])
        x = self._inner(masked(z, mask))
        residual, total, codes, losses, statistics = x, jnp.zeros_like(x), [], {}, {}
        # In training greedy depths choose for themselves: they may sample.
        found = self._search(x) if self.beam > 1 or not train else None
        for i in range(self.depths):
            here = depth_dropout.tokens_at(i, kept, mask, z.shape[:2])
            scale = self._scale(i)
            child_key = None if keys is None else random.fold(keys, i)
            if found is None:
                out = self._at(i)(
                    residual / scale, train=train, key=child_key, temperature=temperature, mask=here
                )
            else:
                out = self._at(i).quantize(self._at(i).inner(residual), found[..., i : i + 1], mask=here)
            if self.routing == "directional" and train:
                q = masked(self._at(i).decode(out.codes), here) * scale
            else:
                q = out.values * scale
            constant = jax.lax.stop_gradient(q)
            # Exactly q in the forward pass, so that later depths see what `encode` shows them.
            fraction = self.gradient_fraction * (q - constant) if self.gradient_fraction else 0.0
            residual = residual - (constant + fraction)
            total = total + q
            codes.append(out.codes)
            # A depth's loss is 0 where it was dropped, so that micro-batches and mixed depths average alike.
            share = 1.0 if kept is None else depth_dropout.share(here, mask)
            for name, value in out.losses.items():
                losses[name] = losses.get(name, 0.0) + share * value
            statistics[f"quantizers_{i}"] = out.statistics
        if self.routing == "directional" and train:
            if keys is None:
                raise ValueError(
                    "directional routing in training needs a key, or a 'quantizer' stream in rngs"
                )
            total = directional(
                x, total, random.normal(random.fold(keys, self.depths), x.shape[1:]), self.perturbation
            )
        return Quantized(
            masked(self._outer(total), mask), jnp.concatenate(codes, axis=-1), losses, statistics
        )

    def encode(
        self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None, depths: int | None = None
    ) -> Int[jax.Array, "B N Q"]:
        """Codes, int32, of the first `depths` depths (default all)."""
        residual, codes = self._inner(masked(z, mask)), []
        found = self._search(residual)
        if found is not None:
            return masked(found[..., :depths], mask)
        for i in range(self.depths if depths is None else depths):
            codes.append(self._at(i).encode(residual / self._scale(i), mask))
            residual = residual - self._value(i, codes[-1])
        return jnp.concatenate(codes, axis=-1)

    def decode(
        self, codes: Int[jax.Array, "B N Q"], kept: jax.Array | int | None = None
    ) -> Float[jax.Array, "B N D"]:
        """Values of codes, float32.

        Args:
          codes: of all depths, or of the first ones.
          kept: number of depths to use, int or int32 [B]; default all that there are.
        """
        parts = self._parts(codes, kept)
        return self._outer(sum(parts[1:], parts[0]))

    def depth_values(
        self, codes: Int[jax.Array, "B N Q"], kept: jax.Array | int | None = None
    ) -> Float[jax.Array, "depths B N d"]:
        """What each depth adds, before the outward projection; a running sum refines the value.

        Args:
          codes: of all depths, or of the first ones.
          kept: see `decode`; other depths add 0.
        """
        return jnp.stack(self._parts(codes, kept))

    @nn.nowrap
    def draw_kept(self, key: jax.Array, batch: int) -> Int[jax.Array, " B"]:
        """Numbers of depths that dropout keeps, int32, as a training pass with this key draws them.

        Args:
          key: scalar key, or one per example.
          batch: B.
        """
        keys = random.fold(random.example_keys(key, batch), self.depths + 1)
        kept = depth_dropout.kept_depths(
            random.uniform(keys, ()), self.depths, self.at_least, self.multiple_of
        )
        return jnp.broadcast_to(kept[0], kept.shape) if self.dropout_per == "batch" else kept

    @nn.nowrap
    def levels_mask(self, kept: jax.Array, tokens: int, mask: jax.Array | None = None) -> jax.Array:
        """bool [B, N, Q] for `Latents.mask`: which slots remain when `kept` [B] depths are kept.

        Args:
          kept: int32 [B], see `draw_kept`.
          tokens: N.
          mask: bool [B, N] of real tokens.
        """
        return depth_dropout.levels_mask(kept, tokens, self.depths, self.slots_per_depth, mask)

    def initialise(
        self, state: Any, z: Float[jax.Array, "B N D"], key: jax.Array, mask: jax.Array | None = None
    ) -> Any:
        """State after the data-dependent initialisation of every depth, on the residuals that the depths
        before it leave once they are initialised.

        Depths without an `initialise` of their own pass through. Vector quantizers with a shared codebook are
        initialised on the features alone.
        """
        residual, state = self._inner(masked(z, mask)), dict(state)
        for i in range(1 if self.shared else self.depths):
            name, scale = f"quantizers_{i}", self._scale(i)
            own, value = initialise_next(
                self._at(i), state.get(name), residual / scale, jax.random.fold_in(key, i), mask
            )
            state |= {name: own} if name in state else {}
            residual = residual - value * scale
        return state

    def _search(self, x):
        """Codes of all depths at once, where that can be; None to go depth by depth."""
        plain = () if self.scales else tuple(self._at(i) for i in range(self.depths))
        return stack_codes(plain, x, self.beam, self.beam_weights)

    def _scale(self, i):
        return np.asarray(self.scales[i], np.float32) if self.scales else 1.0

    def _value(self, i, codes):
        return self._at(i).decode(codes) * self._scale(i)

    def _parts(self, codes, kept):
        width = self.slots_per_depth
        parts = []
        for i in range(codes.shape[-1] // width):
            value = self._value(i, codes[..., i * width : (i + 1) * width])
            parts.append(masked(value, depth_dropout.tokens_at(i, kept, None, codes.shape[:2])))
        return parts

    def _inner(self, z):
        x = z.astype(jnp.float32)
        x = self.inward(x) if self.projected else x
        if self.pre_clamp:
            limit = np.asarray(self.pre_clamp, np.float32)
            x = jnp.tanh(x / limit) * limit
        return x

    def _outer(self, values):
        return self.outward(values) if self.projected else values
