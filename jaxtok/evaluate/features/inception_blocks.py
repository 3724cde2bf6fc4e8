"""The layers of InceptionV3 (arXiv 1512.00567) as data, by the names of the official weight file."""

from typing import Any, Literal, NamedTuple

Pool = Literal["average", "max", "halve"]


class Layer(NamedTuple):
    """A convolution without bias, batch normalisation, ReLU.

    Attributes:
      name: as in the official file.
      features: output channels.
      window: rows and columns.
      stride: of both axes.
      padded: whether zeros keep the size of the grid (before the stride).
    """

    name: str
    features: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


class Branch(NamedTuple):
    """Layers one after another behind an optional 3 x 3 pool, then an optional fork of two layers on the same
    input, whose outputs are joined.
    """

    layers: tuple[Layer, ...] = ()
    pool: Pool | None = None
    fork: tuple[Layer, ...] = ()


def _chain(prefix: str, *steps: tuple[Any, ...]) -> tuple[Layer, ...]:
    return tuple(Layer(f"{prefix}_{i}", *step) for i, step in enumerate(steps, 1))


def _block_a(pooled: int) -> tuple[Branch, ...]:
    return (
        Branch((Layer("branch1x1", 64),)),
        Branch(_chain("branch5x5", (48,), (64, (5, 5)))),
        Branch(_chain("branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3)))),
        Branch((Layer("branch_pool", pooled),), "average"),
    )


def _block_b() -> tuple[Branch, ...]:
    halve = ((3, 3), 2, False)
    return (
        Branch((Layer("branch3x3", 384, *halve),)),
        Branch(_chain("branch3x3dbl", (64,), (96, (3, 3)), (96, *halve))),
        Branch(pool="halve"),
    )


def _block_c(inner: int) -> tuple[Branch, ...]:
    wide, tall = (1, 7), (7, 1)
    double = ((inner,), (inner, tall), (inner, wide), (inner, tall), (192, wide))
    return (
        Branch((Layer("branch1x1", 192),)),
        Branch(_chain("branch7x7", (inner,), (inner, wide), (192, tall))),
        Branch(_chain("branch7x7dbl", *double)),
        Branch((Layer("branch_pool", 192),), "average"),
    )


def _block_d() -> tuple[Branch, ...]:
    halve = ((3, 3), 2, False)
    return (
        Branch(_chain("branch3x3", (192,), (320, *halve))),
        Branch(_chain("branch7x7x3", (192,), (192, (1, 7)), (192, (7, 1)), (192, *halve))),
        Branch(pool="halve"),
    )


def _block_e(pool: Pool) -> tuple[Branch, ...]:
    def fork(name: str) -> tuple[Layer, ...]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    return (
        Branch((Layer("branch1x1", 320),)),
        Branch(_chain("branch3x3", (384,)), fork=fork("branch3x3_2")),
        Branch(_chain("branch3x3dbl", (448,), (384, (3, 3))), fork=fork("branch3x3dbl_3")),
        Branch((Layer("branch_pool", 192),), pool),
    )


STEM = (
    (
        Layer("Conv2d_1a_3x3", 32, (3, 3), 2, False),
        Layer("Conv2d_2a_3x3", 32, (3, 3), 1, False),
        Layer("Conv2d_2b_3x3", 64, (3, 3)),
    ),
    (Layer("Conv2d_3b_1x1", 80), Layer("Conv2d_4a_3x3", 192, (3, 3), 1, False)),
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _block_b(),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _block_d(),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("max"),
}
