"""Convolutions over 1, 2 or 3 axes of a signal. The first axis, time, may be causal, and then come in chunks.

Lengths and padding are those of `SConv1d` and `SConvTranspose1d` of the official EnCodec (arXiv 2210.13438):

    y of a convolution has ceil(T / stride) frames,          p = (kernel - 1) dilation - (stride - 1)
      causal: p inputs before the first, otherwise p - p // 2 before and p // 2 behind
      and -T mod stride more behind, which complete the last frame
    y of a transposed one has T stride frames,               y[t stride + j] += x[t] W[j]
      causal: the last kernel - stride are cut off, otherwise as many are cut off at both ends, as above

The other axes are never causal. A kernel is [*kernel, channels / groups, features] in PyTorch's orientation,
so that its weights are a transposition away.

A carry is a dictionary of arrays that stands for all chunks before; `chunk` is pure.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok.nn.convolve import (
    Carry,
    Size,
    StreamLayer,
    bias,
    check_chunk,
    check_input,
    convolve,
    frame_mask,
    pad,
    per_axis,
    weight,
)


class Convolution(StreamLayer):
    """A convolution that keeps lengths but for its strides, see above.

    Attributes:
      features: channels that come out.
      kernel, strides, dilation: a number for all axes, or one per axis, time first.
      axes: of the signal: 1, 2 or 3.
      causal: whether no frame depends on later inputs, and `chunk` can be used. With "reflect" the first p
        frames do: that is how EnCodec starts.
      padding: what stands before and behind the signal: "zeros", the "edge" repeated, or the signal
        "reflect"ed (a signal of at most p inputs first gets zeros behind it, as in EnCodec).
      groups: of channels that do not see each other.
      use_bias: whether there is a bias.
      weight_norm: whether the kernel is `scale direction / |direction|` per output channel (arXiv
        1602.07868), in float32.
      dtype: computation dtype; parameters are float32.
    """

    features: int
    kernel: Size
    strides: Size = 1
    dilation: Size = 1
    axes: int = 1
    causal: bool = False
    padding: str = "zeros"
    groups: int = 1
    use_bias: bool = True
    weight_norm: bool = False
    dtype: Any = jnp.float32

    def __call__(self, x: Float[jax.Array, "B *signal C"]) -> Float[jax.Array, "B *frames E"]:
        """The whole signal.

        Raises:
          ValueError: another number of axes, a stride longer than the kernel reaches, channels that do not
            divide into the groups, or an unknown padding.
        """
        return self._convolve(x, self._paddings(x))

    def chunk(self, carry: Carry, x: Float[jax.Array, "B *signal C"]) -> tuple[Carry, jax.Array]:
        """The next carry, and the frames of the next inputs, T / stride of them.

        Args:
          carry: "context" [B, p, ..., C], the last inputs; "started" bool [B] where padding is not of zeros.
          x: some more inputs, a multiple of the stride; more than p with "reflect".

        Raises:
          ValueError: a convolution that is not causal, or a wrong number of inputs.
        """
        check_chunk(self, x.shape[1], per_axis(self.strides, self.axes)[0])
        context, total = carry["context"], self._totals()[0]
        x = x.astype(self.dtype)
        if self.padding != "zeros" and total:
            if self.padding == "reflect" and x.shape[1] <= total:
                raise ValueError(
                    f"a chunk of {x.shape[1]} inputs cannot be reflected {total} before its first; use "
                    "longer chunks, or padding='zeros' or 'edge'"
                )
            started = carry["started"].reshape(-1, *(1,) * (x.ndim - 1))
            context = jnp.where(started, context, pad(x, 1, (total, 0), self.padding)[:, :total])
        x, paddings = jnp.concatenate([context, x], axis=1), [(0, 0), *self._paddings(x)[1:]]
        new = {"context": x[:, x.shape[1] - total :]}
        if "started" in carry:
            new["started"] = jnp.ones_like(carry["started"])
        return new, self._convolve(x, paddings)

    @nn.nowrap
    def init_carry(self, batch: int, spatial: tuple[int, ...], channels: int) -> Carry:
        """See `StreamLayer.init_carry`."""
        carry = {"context": jnp.zeros((batch, self._totals()[0], *spatial, channels), self.dtype)}
        return carry if self.padding == "zeros" else {**carry, "started": jnp.zeros(batch, bool)}

    @nn.nowrap
    def output(self, spatial: tuple[int, ...], channels: int) -> tuple[tuple[int, ...], int]:
        """See `StreamLayer.output`."""
        strides = per_axis(self.strides, self.axes)[1:]
        return tuple(-(-length // stride) for length, stride in zip(spatial, strides)), self.features

    @nn.nowrap
    def output_mask(self, mask: Bool[jax.Array, "B T"]) -> Bool[jax.Array, "B N"]:
        """Frames with any real input among the `stride` that they stand for."""
        return frame_mask(mask, per_axis(self.strides, self.axes)[0])

    @nn.nowrap
    def _totals(self) -> list[int]:
        sizes = [per_axis(size, self.axes) for size in (self.kernel, self.dilation, self.strides)]
        totals = [(kernel - 1) * dilation - (stride - 1) for kernel, dilation, stride in zip(*sizes)]
        if min(totals) < 0:
            raise ValueError(
                f"strides={self.strides} leave inputs out between kernels={self.kernel} with "
                f"dilation={self.dilation}; use a kernel at least as long as the stride"
            )
        return totals

    @nn.nowrap
    def _paddings(self, x: jax.Array) -> list[tuple[int, int]]:
        paddings = []
        for axis, (total, stride) in enumerate(zip(self._totals(), per_axis(self.strides, self.axes))):
            behind = 0 if self.causal and not axis else total // 2
            paddings.append((total - behind, behind + -x.shape[axis + 1] % stride))
        return paddings

    @nn.compact
    def _convolve(self, x, paddings):
        check_input(self, x)
        if self.padding not in ("zeros", "edge", "reflect"):
            raise ValueError(f"padding={self.padding!r}; choose 'zeros', 'edge' or 'reflect'")
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ValueError(
                f"{x.shape[-1]} and {self.features} channels must both divide into groups={self.groups}"
            )
        shape = (*per_axis(self.kernel, self.axes), x.shape[-1] // self.groups, self.features)
        kernel = weight(self, shape, nn.initializers.lecun_normal())
        x = x.astype(self.dtype)
        if self.padding != "zeros":
            for axis, widths in enumerate(paddings):
                x = pad(x, axis + 1, widths, self.padding)
            paddings = [(0, 0)] * self.axes
        y = convolve(x, kernel, self.strides, paddings, self.dilation, groups=self.groups)
        return y + bias(self, self.features) if self.use_bias else y


class TransposedConvolution(StreamLayer):
    """A transposed convolution that makes `stride` frames of every input, see above.

    Attributes:
      features: channels that come out.
      kernel, strides: a number for all axes, or one per axis, time first; no kernel is shorter than its
        stride.
      axes, causal, use_bias, dtype: see `Convolution`.
      weight_norm: see `Convolution`, but per input channel, as PyTorch's `weight_norm` does here.
    """

    features: int
    kernel: Size
    strides: Size = 1
    axes: int = 1
    causal: bool = False
    use_bias: bool = True
    weight_norm: bool = False
    dtype: Any = jnp.float32

    def __call__(self, x: Float[jax.Array, "B *frames C"]) -> Float[jax.Array, "B *signal E"]:
        """All inputs.

        Raises:
          ValueError: another number of axes, or a kernel shorter than its stride.
        """
        y, shift = self._transpose(x, whole=True)
        return y + shift

    def chunk(self, carry: Carry, x: Float[jax.Array, "B *frames C"]) -> tuple[Carry, jax.Array]:
        """The next carry, and the frames that are complete with these inputs, T stride of them.

        Args:
          carry: "tail" [B, kernel - stride, ..., E], what earlier inputs add to the frames to come.
          x: some more inputs.

        Raises:
          ValueError: a transposed convolution that is not causal.
        """
        check_chunk(self, x.shape[1], 1)
        y, shift = self._transpose(x, whole=False)
        tail, made = carry["tail"], x.shape[1] * per_axis(self.strides, self.axes)[0]
        y = y.at[:, : tail.shape[1]].add(tail)
        return {"tail": y[:, made:]}, y[:, :made] + shift

    @nn.nowrap
    def init_carry(self, batch: int, spatial: tuple[int, ...], channels: int) -> Carry:
        """See `StreamLayer.init_carry`."""
        spatial, features = self.output(spatial, channels)
        return {"tail": jnp.zeros((batch, self._totals()[0], *spatial, features), self.dtype)}

    @nn.nowrap
    def output(self, spatial: tuple[int, ...], channels: int) -> tuple[tuple[int, ...], int]:
        """See `StreamLayer.output`."""
        strides = per_axis(self.strides, self.axes)[1:]
        return tuple(length * stride for length, stride in zip(spatial, strides)), self.features

    @nn.nowrap
    def output_mask(self, mask: Bool[jax.Array, "B T"]) -> Bool[jax.Array, "B N"]:
        """The frames of real inputs."""
        return jnp.repeat(mask, per_axis(self.strides, self.axes)[0], axis=1)

    @nn.nowrap
    def _totals(self) -> list[int]:
        kernels, strides = per_axis(self.kernel, self.axes), per_axis(self.strides, self.axes)
        if any(kernel < stride for kernel, stride in zip(kernels, strides)):
            raise ValueError(
                f"kernel={self.kernel} is shorter than strides={self.strides}: frames between would be empty"
            )
        return [kernel - stride for kernel, stride in zip(kernels, strides)]

    @nn.compact
    def _transpose(self, x, whole):
        check_input(self, x)
        kernels, strides = per_axis(self.kernel, self.axes), per_axis(self.strides, self.axes)
        paddings = []
        for axis, (total, kernel) in enumerate(zip(self._totals(), kernels)):
            behind = total if self.causal and not axis else total // 2
            cut = (0, 0) if not whole and not axis else (total - behind, behind)
            paddings.append((kernel - 1 - cut[0], kernel - 1 - cut[1]))
        # A frame is a sum of kernel / stride inputs, not of kernel.
        init = nn.initializers.variance_scaling(math.prod(strides), "fan_in", "truncated_normal")
        kernel = weight(self, (*kernels, x.shape[-1], self.features), init, channel=-2)
        kernel = jnp.flip(kernel, tuple(range(self.axes)))
        y = convolve(x.astype(self.dtype), kernel, 1, paddings, spread=strides)
        return y, bias(self, self.features) if self.use_bias else jnp.zeros((), self.dtype)
