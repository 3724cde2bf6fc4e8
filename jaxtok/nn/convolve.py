"""What convolutions over 1, 2 or 3 axes with channels last are made of: product, padding, kernels, chunks."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

Size = int | tuple[int, ...]
Padding = Literal["zeros", "edge", "reflect"]
Carry = dict[str, Any]  # arrays that stand for all chunks before
_FLOOR = 1e-24  # of a squared norm


class StreamLayer(nn.Module):
    """A layer that reads a signal in chunks; as it is here, for layers that keep nothing of earlier ones."""

    def chunk(self, carry: Carry, x: Float[jax.Array, "B *frame C"]) -> tuple[Carry, jax.Array]:
        """The next carry, and the output of the next chunk."""
        return carry, self(x)

    @nn.nowrap
    def init_carry(self, batch: int, spatial: tuple[int, ...], channels: int) -> Carry:
        """The carry before the first chunk.

        Args:
          batch: B.
          spatial: lengths of the axes behind time.
          channels: of the input.
        """
        return {}

    @nn.nowrap
    def output(self, spatial: tuple[int, ...], channels: int) -> tuple[tuple[int, ...], int]:
        """Lengths of the axes behind time, and channels, of the output for those of the input."""
        return spatial, channels

    @nn.nowrap
    def output_mask(self, mask: Bool[jax.Array, "B T"]) -> Bool[jax.Array, "B N"]:
        """Which frames of the output come from real inputs at their own place, for which inputs are real."""
        return mask


def per_axis(size: Size, axes: int) -> tuple[int, ...]:
    """One number for every axis.

    Raises:
      ValueError: another number of numbers than axes, or one below 1.
    """
    sizes = (size,) * axes if isinstance(size, int) else tuple(size)
    if len(sizes) != axes or min(sizes) < 1:
        raise ValueError(f"{size} must be a number, or {axes} of them for axes={axes}, each at least 1")
    return sizes


def frame_mask(mask: Bool[jax.Array, "B T"], stride: int) -> Bool[jax.Array, "B N"]:
    """Which of the ceil(T / stride) frames have any real input."""
    mask = jnp.pad(mask, ((0, 0), (0, -mask.shape[1] % stride)))
    return jnp.any(mask.reshape(mask.shape[0], -1, stride), axis=-1)


def pad(x: Float[jax.Array, "..."], axis: int, widths: tuple[int, int], mode: str) -> jax.Array:
    """One axis of x with something before and behind it, see `Convolution.padding`."""
    paddings: list[tuple[int, int]] = [(0, 0)] * x.ndim
    short = max(widths) + 1 - x.shape[axis] if mode == "reflect" else 0
    if short > 0:
        paddings[axis] = (0, short)
        x = jnp.pad(x, paddings)
    paddings[axis] = widths
    x = jnp.pad(x, paddings, mode="constant" if mode == "zeros" else mode)
    return jax.lax.slice_in_dim(x, 0, x.shape[axis] - short, axis=axis) if short > 0 else x


def weight(module: nn.Module, shape: tuple[int, ...], init: Any, channel: int = -1) -> jax.Array:
    """The kernel of a module that may normalise its weight: the parameter "kernel", or "direction" (drawn
    from `init`) and its length "scale" along the axis `channel`; float32.
    """
    if not module.weight_norm:  # pyright: ignore
        return module.param("kernel", init, shape, jnp.float32)
    direction = module.param("direction", init, shape, jnp.float32)
    others = tuple(axis for axis in range(len(shape)) if axis != channel % len(shape))
    squared = jnp.sum(jnp.square(direction), axis=others, keepdims=True)
    norm = jnp.sqrt(jnp.maximum(squared, _FLOOR))
    scale = module.param("scale", lambda _: norm.reshape(-1))
    return direction * (scale.reshape(norm.shape) / norm)


def bias(module: nn.Module, features: int) -> jax.Array:
    """The parameter "bias" of a module, in its dtype."""
    return module.param("bias", nn.initializers.zeros, (features,), jnp.float32).astype(module.dtype)


def convolve(
    x: Float[jax.Array, "B *signal C"],
    kernel: Float[jax.Array, "*kernel c E"],
    strides: Size,
    padding: list[tuple[int, int]],
    dilation: Size = 1,
    spread: Size = 1,
    groups: int = 1,
) -> Float[jax.Array, "B *frames E"]:
    """`jax.lax.conv_general_dilated` with channels last, and zeros around.

    Args:
      x: the signal, in the computation dtype.
      kernel: cast to that.
      strides: of the windows.
      padding: zeros before and behind every axis.
      dilation: between the weights of a kernel.
      spread: between the inputs.
      groups: of channels.
    """
    axes = x.ndim - 2
    letters = "DHW"[-axes:]
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        per_axis(strides, axes),
        padding,
        per_axis(spread, axes),
        per_axis(dilation, axes),
        (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        groups,
    )


def check_input(layer: Any, x: jax.Array) -> None:
    """Raises ValueError where x is not a signal of the axes that a layer has."""
    if layer.axes not in (1, 2, 3) or x.ndim != layer.axes + 2:
        raise ValueError(
            f"a signal of shape {x.shape} for axes={layer.axes}: expected [batch, {layer.axes} axes (1 "
            "to 3), channels]"
        )


def check_chunk(layer: Any, length: int, stride: int) -> None:
    """Raises ValueError where a layer cannot read a chunk of that many inputs."""
    if not layer.causal:
        raise ValueError("causal=False: a frame depends on inputs to come; chunks need causal=True")
    if not length or length % stride:
        raise ValueError(
            f"a chunk of {length} inputs must be a multiple of the stride {stride}, and not empty"
        )
