"""Transformer blocks, scanned over layers and rematerialised by policy.

One block serves tokenizers (rotary positions, no conditioning) and priors (learned positions per layer, text
as extra keys, modulation by time; norms before each half or, as in BERT, after it). A stack keeps its
parameters with a leading layer axis, so it compiles once however deep it is.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn.attention import Attention, AttentionFn, QKNorm, dot_product_attention
from jaxtok.nn.constrain import constrain
from jaxtok.nn.feedforward import FeedForward
from jaxtok.nn.linear import Dense, Initializer
from jaxtok.nn.modulation import Modulation, spread
from jaxtok.nn.normalization import make_norm

Collect = Literal["nothing", "hidden", "keys_values", "context"]
Remat = Literal["none", "full", "dots"]

_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
    """`x += gate * Attn(norm(x)); x += gate * FeedForward(norm(x))`, or with the norms behind the sums.

    Attributes:
      heads, head_dim: attention heads and channels per head.
      hidden: inner width of the feed-forward half.
      norm: "rms", "layer" or "plain", see `make_norm`.
      norm_epsilon: epsilon of all norms.
      feed_forward: "swiglu", "gelu", "gelu_exact" or "gelu_quick", see `FeedForward`.
      qk_norm: norm of each head's queries and keys, see `Attention`.
      attention_bias, feed_forward_bias: biases.
      modulated: shift, scale and gate both halves by vectors made from a conditioning vector (AdaLN); `norm`
        is then a layer norm without its own scale and bias.
      modulation_affine: whether that layer norm keeps them (RAR, arXiv 2411.00776).
      positions: length of a learned position table, added after the first norm; 0 for none.
      norm_after: `x = norm(x + Attn(x)); x = norm(x + FeedForward(x))` (post-norm, arXiv 1810.04805); without
        modulation and position table.
      out_bias: whether attention's output projection has a bias; None for what `attention_bias` says.
      key_bias: the same for its keys.
      attention_scale: factor of the scores, see `Attention`.
      shared_modulation: `shared["modulation"]` has the six vectors of all layers, [B, 6, D] (shift, scale and
        gate of attention, then of the feed-forward half), to which each layer adds learned ones of its own.
      kernel_init, out_init, modulation_init: of the maps, of the two that lead back to the sum, and of the
        modulation (with `shared_modulation`, of a layer's own vectors [6, D]).
      attention_fn: implementation of attention.
      dtype: computation dtype.
      segments: how many parts of the sequence are modulated by vectors of their own.
    """

    heads: int
    head_dim: int
    hidden: int
    norm: str = "rms"
    norm_epsilon: float = 1e-6
    feed_forward: str = "swiglu"
    qk_norm: QKNorm = True
    attention_bias: bool = False
    feed_forward_bias: bool = False
    modulated: bool = False
    positions: int = 0
    attention_fn: AttentionFn = dot_product_attention
    dtype: Any = jnp.float32
    norm_after: bool = False
    out_bias: bool | None = None
    modulation_affine: bool = False
    key_bias: bool | None = None
    attention_scale: float | None = None
    shared_modulation: bool = False
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer = nn.initializers.xavier_uniform()
    modulation_init: Initializer = nn.initializers.xavier_uniform()
    segments: int = 1

    def setup(self):
        if self.norm_after and (self.modulated or self.positions):
            raise ValueError(
                f"norm_after=True with modulated={self.modulated} and positions={self.positions}; a block "
                "whose norms come last has neither"
            )
        self.attention = Attention(
            self.heads,
            self.head_dim,
            self.qk_norm,
            self.attention_bias,
            self.attention_fn,
            self.dtype,
            out_bias=self.out_bias,
            key_bias=self.key_bias,
            scale=self.attention_scale,
            kernel_init=self.kernel_init,
            out_init=self.out_init,
            norm_epsilon=self.norm_epsilon,
        )
        self.context = Dense(self.heads * self.head_dim, dtype=self.dtype)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        layer: dict[str, Any],
        shared: dict[str, Any],
        collect: Collect = "nothing",
    ):
        """Runs the block.

        Args:
          x: [B, N, D].
          layer: inputs of this layer: "context" [B, T, E], text features that become extra keys and values
            through a linear map of their own; "prefix", ready-made keys and values ([B, H, P, head_dim], the
            same); "branches" [2, B], factors of what attention and feed-forward half add (stochastic depth).
          shared: inputs that all layers share: "rope" (`Rope`), "mask" bool [#B, #H, N, P + T + N],
            "modulation" [B, E] or [B, N, E] (or see `shared_modulation`), "segments" (tokens of each
            modulated part, where there are several), "position_ids" int32 [B, N] into the learned table
            (0..N-1 if absent).
          collect: what to return beside x.

        Returns:
          x [B, N, D], and the hidden state after this block, its keys and values, those of the context, or
          None.
        """
        prefix = self._prefix(layer)
        if collect == "context":
            return x, prefix
        width = x.shape[-1]

        def norm(name):
            kind = "layer" if self.modulated else self.norm
            affine = not self.modulated or self.modulation_affine
            return make_norm(kind, affine=affine, epsilon=self.norm_epsilon, dtype=self.dtype, name=name)

        shift1 = shift2 = 0.0
        scale1 = scale2 = gate1 = gate2 = 1.0
        if self.modulated:
            vectors = self._modulation(shared["modulation"], width)
            shift1, scale1, gate1, shift2, scale2, gate2 = (
                spread(vector, shared.get("segments")) for vector in vectors
            )
            scale1, scale2 = 1 + scale1, 1 + scale2

        feed_forward = FeedForward(
            self.hidden,
            self.feed_forward,
            self.feed_forward_bias,
            self.dtype,
            self.kernel_init,
            self.out_init,
            name="feed_forward",
        )
        if "branches" in layer:
            gate1, gate2 = (
                gate * part[:, None, None] for gate, part in zip((gate1, gate2), layer["branches"])
            )
        attend = functools.partial(
            self.attention, prefix=prefix, rope=shared.get("rope"), mask=shared.get("mask")
        )
        if self.norm_after:
            attended, own = attend(x)
            x = norm("attention_norm")(x + attended)
            x = norm("feed_forward_norm")(x + feed_forward(x))
        else:
            h = norm("attention_norm")(x) * scale1 + shift1
            if self.positions:
                table = self.param(
                    "positions", nn.initializers.zeros, (self.positions, width), jnp.float32
                ).astype(self.dtype)
                ids = shared.get("position_ids")
                h = h + (table[: x.shape[1]] if ids is None else table[ids])
            attended, own = attend(h)
            x = x + gate1 * attended
            h = norm("feed_forward_norm")(x) * scale2 + shift2
            x = x + gate2 * feed_forward(h)
        x = constrain(x, ("data", "fsdp"), None, None)
        return x, {"nothing": None, "hidden": x, "keys_values": own}[collect]

    def _modulation(self, vectors, width):
        if not self.shared_modulation:
            own = Modulation(6, width, self.dtype, self.modulation_init, self.segments, name="modulation")
            return own(vectors)
        offset = self.param("modulation_offset", self.modulation_init, (6, width), jnp.float32)
        return jnp.split(vectors + offset.astype(self.dtype), 6, axis=1)

    def _prefix(self, layer):
        if "prefix" in layer:
            return layer["prefix"]
        # The official priors share the key and value maps between text and image tokens.
        if "context" not in layer:
            return None
        keys, values = self.attention.keys_values(self.context(layer["context"]))
        return jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)


class Stack(nn.Module):
    """`layers` blocks in a row, scanned: parameters have a leading layer axis, compile time does not grow
    with depth.

    Attributes:
      block: the block that is repeated (each layer has its own parameters): `Block`, or a module that is
        called like it.
      layers: how often.
      remat: what the backward pass recomputes: "none", "full" (keep only each layer's input) or "dots" (keep
        matrix products).
      unroll: layers per iteration of the scan; more compile slower and, on CPU, can run faster.
    """

    block: nn.Module
    layers: int
    remat: Remat = "none"
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        per_layer: dict[str, Any] | None = None,
        shared: dict[str, Any] | None = None,
        collect: Collect = "nothing",
    ):
        """Runs the stack.

        Args:
          x: [B, N, D].
          per_layer: inputs with a leading axis of length `layers`, see `Block`.
          shared: inputs that all layers share, see `Block`.
          collect: "hidden" also returns every layer's output [L, B, N, D], "keys_values" every layer's keys
            and values of x ([L, B, N, H, head_dim] each), "context" only those of the context (x passes
            through), "nothing" None.

        Returns:
          x [B, N, D] and what was collected.

        Raises:
          ValueError: per-layer inputs for another number of layers, or an unknown remat policy.
        """
        per_layer, shared = per_layer or {}, shared or {}
        for leaf in jax.tree.leaves(per_layer):
            if leaf.shape[0] != self.layers:
                raise ValueError(
                    f"a per-layer input has {leaf.shape[0]} layers (shape {leaf.shape}), the stack "
                    f"{self.layers}"
                )

        def body(block, x, layer):
            return block(x, layer, shared, collect)

        if self.remat != "none":
            if self.remat not in _POLICIES:
                raise ValueError(f"remat={self.remat!r}; choose 'none', {', '.join(map(repr, _POLICIES))}")
            # Inside a scan XLA cannot merge the recomputation with the forward pass, so the barrier is not
            # needed.
            body = nn.remat(body, policy=_POLICIES[self.remat], prevent_cse=False)
        # An unrolled stack has many collectives that are ready at once. XLA's fake CPU devices deadlock on
        # them when they have fewer threads, and on real devices a loop costs nothing.
        mesh = jax.sharding.get_abstract_mesh()
        scan = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=self.unroll if mesh.empty or mesh.size == 1 else 1,
        )
        return scan(self.block, constrain(x, ("data", "fsdp"), None, None), per_layer)
