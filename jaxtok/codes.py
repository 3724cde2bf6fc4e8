"""The vocabulary of the whole library: what a latent is.

A discrete latent is an integer array `codes[B, N, Q]`: N tokens, each with Q slots, slot q taking one of
`levels[q]` values. A vector-quantized image has one slot, a residual codec one slot per level, a binary
latent one slot per bit. Quantizers produce such arrays, priors consume them, files store them and inspectors
draw them, so any tokenizer can meet any prior.

Mixed-radix order: slot 0 is the fastest digit everywhere, `index = sum_q codes[q] * prod_{p<q} levels[p]`.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

from jaxtok.packing import pack_fields, unpack_fields

Array = jax.Array | np.ndarray

# What stands for a code where an encoder's features were not finite. No alphabet has it: its values are NaN,
# and so is a loss over it; files refuse it.
NO_CODE = -1

_LARGEST_INDEX = (
    2**32
)  # joint indices are int32, or uint32 where int32 is too small; nothing wider is exact on a TPU


@dataclasses.dataclass(frozen=True)
class CodeSpace:
    """The alphabet of one token: how many values each of its slots can take.

    Attributes:
      levels: number of values per slot, each at least 2 (1 is allowed and carries no information).
    """

    levels: tuple[int, ...]

    def __post_init__(self):
        levels = tuple(int(level) for level in self.levels)
        if not levels or any(level < 1 for level in levels):
            raise ValueError(
                f"levels={self.levels}: a code space needs at least one slot and at least 1 level per slot"
            )
        object.__setattr__(self, "levels", levels)

    @classmethod
    def binary(cls, bits: int) -> "CodeSpace":
        """Tokens of `bits` independent bits."""
        return cls((2,) * bits)

    @property
    def slots(self) -> int:
        """Q, the number of slots."""
        return len(self.levels)

    @functools.cached_property
    def size(self) -> int:
        """Number of different tokens, an exact Python integer of any size."""
        return math.prod(self.levels)

    @functools.cached_property
    def bits(self) -> float:
        """Information of one uniformly distributed token in bits, `sum_q log2(levels[q])`."""
        return math.fsum(math.log2(level) for level in self.levels)

    @property
    def code_dtype(self) -> np.dtype:
        """int32, or uint32 where a slot has more than 2**31 values."""
        return np.dtype(np.int32 if max(self.levels) <= 2**31 else np.uint32)

    @property
    def stored_dtype(self) -> np.dtype:
        """The narrowest unsigned integers that hold every code: uint8 for alphabets of up to 256."""
        return np.min_scalar_type(max(self.levels) - 1)

    @property
    def is_binary(self) -> bool:
        """Whether every slot is one bit."""
        return all(level == 2 for level in self.levels)

    # -- joint index --

    @functools.cached_property
    def index_dtype(self) -> np.dtype:
        """int32 if every joint index fits, else uint32.

        Raises:
          ValueError: the joint index does not fit 32 bits.
        """
        if self.size > _LARGEST_INDEX:
            raise ValueError(
                f"a token of this space has {self.size:.3g} values ({self.bits:.1f} bits), more than the "
                "2**32 that an exact "
                "32-bit index can hold. Keep the slots apart, join groups of them with `regroup`, or store "
                "with `pack`."
            )
        return np.dtype(np.int32 if self.size <= 2**31 else np.uint32)

    def join(self, codes: Shaped[Array, "... Q"]) -> Integer[Array, "..."]:
        """Mixed-radix index of each token, in [0, size).

        Args:
          codes: integers [..., Q] with `0 <= codes[..., q] < levels[q]`; checked when they are concrete NumPy
            arrays.

        Returns:
          int32 [...] (uint32 if size > 2**31), exact: no arithmetic passes through a float.

        Raises:
          ValueError: wrong number of slots, a code outside its levels, or an index that does not fit 32 bits.
        """
        self._check_slots(codes)
        self._check_range(codes)
        dtype = self.index_dtype
        index, radix = codes[..., 0].astype(dtype), 1
        for q in range(1, self.slots):
            radix *= self.levels[q - 1]
            # A slot of one level contributes nothing, and its radix may not fit the dtype.
            if self.levels[q] > 1:
                index = index + codes[..., q].astype(dtype) * dtype.type(radix)
        return _namespace(codes).asarray(index)  # NumPy turns the index of a single token into a scalar

    def split(self, index: Integer[Array, "..."]) -> Integer[Array, "... Q"]:
        """Inverse of `join`.

        Args:
          index: integers in [0, size); checked when they are a concrete NumPy array.

        Returns:
          int32 [..., Q] (see `code_dtype`).

        Raises:
          ValueError: an index outside [0, size), or a space whose index does not fit 32 bits.
        """
        dtype, xp = self.index_dtype, _namespace(index)
        if (
            isinstance(index, np.ndarray)
            and index.size
            and not 0 <= int(index.min()) <= int(index.max()) < self.size
        ):
            raise ValueError(f"indices span [{index.min()}, {index.max()}], this space has [0, {self.size})")
        rest, digits = xp.asarray(index).astype(dtype), []
        for level in self.levels:
            # A level of 2**32 fills the whole dtype, so it is its own remainder.
            whole = level > np.iinfo(dtype).max
            digits.append(rest if whole else rest % dtype.type(level))
            rest = xp.zeros_like(rest) if whole else rest // dtype.type(level)
        return xp.stack([digit.astype(self.code_dtype) for digit in digits], axis=-1)

    # -- regrouping --

    def regroup(self, groups: Sequence[Sequence[int]]) -> "Regrouping":
        """Merges slots: `regroup(((0, 1), (2, 3)))` turns four slots into two.

        Raises:
          ValueError: `groups` is not a partition of the slots, or a merged slot does not fit 32 bits.
        """
        return Regrouping(self, tuple(tuple(int(slot) for slot in group) for group in groups))

    # -- storage --

    @functools.cached_property
    def _fields(self) -> tuple[tuple[int, ...], ...]:
        """Neighbouring slots that share one bit field of a packed token: as many as keep the product within
        2**32.
        """
        groups, product = [[0]], self.levels[0]
        for slot, level in enumerate(self.levels[1:], start=1):
            product *= level
            if product <= _LARGEST_INDEX:
                groups[-1].append(slot)
            else:
                groups.append([slot])
                product = level
        return tuple(map(tuple, groups))

    @functools.cached_property
    def packed_bits(self) -> int:
        """Bits that one token takes in `pack`: equal to `bits` for powers of two, else rounded up once per
        32-bit field.
        """
        sizes = (math.prod(self.levels[slot] for slot in group) for group in self._fields)
        return sum((size - 1).bit_length() for size in sizes)

    def pack(self, codes: Shaped[Array, "*batch N Q"]) -> UInt8[np.ndarray, "*batch bytes"]:
        """Packs the tokens of each item into bytes, on the host.

        Args:
          codes: integers [..., N, Q] within their levels.

        Returns:
          uint8 [..., ceil(N * packed_bits / 8)], little-endian bit order, zero-padded in the last byte.

        Raises:
          ValueError: wrong number of slots or a code outside its levels (nothing is ever clipped).
        """
        codes = np.asarray(codes)
        self._check_slots(codes)
        if self.is_binary:  # one field per bit is the same bytes, and much faster
            self._check_range(codes)
            return pack_fields(codes, (1,) * self.slots)
        grouping = self.regroup(self._fields)
        return pack_fields(
            np.asarray(grouping.merge(codes)), [(level - 1).bit_length() for level in grouping.space.levels]
        )

    def unpack(
        self, packed: UInt8[np.ndarray, "*batch bytes"], tokens: int
    ) -> Integer[np.ndarray, "*batch N Q"]:
        """Inverse of `pack`: int32 [..., tokens, Q] (see `code_dtype`).

        Raises:
          ValueError: the number of bytes is not what `tokens` tokens take.
        """
        needed = -(-tokens * self.packed_bits // 8)
        if packed.shape[-1] != needed:
            raise ValueError(
                f"{packed.shape[-1]} bytes per item, but {tokens} tokens of {self.packed_bits} bits take "
                f"{needed}"
            )
        if self.is_binary:
            return unpack_fields(packed, tokens, (1,) * self.slots).astype(self.code_dtype)
        grouping = self.regroup(self._fields)
        merged = unpack_fields(packed, tokens, [(level - 1).bit_length() for level in grouping.space.levels])
        return np.asarray(grouping.split(merged))

    # -- checks --

    def _check_slots(self, codes: Array) -> None:
        if codes.ndim == 0 or codes.shape[-1] != self.slots:
            raise ValueError(
                f"codes of shape {codes.shape}: the last axis must hold the {self.slots} slots of this space"
            )
        if not jnp.issubdtype(codes.dtype, jnp.integer):
            raise ValueError(
                f"codes are {codes.dtype}, expected integers; bits given as floats need `.astype(int)`"
            )

    def _check_range(self, codes: Array) -> None:
        if not isinstance(codes, np.ndarray) or not codes.size:
            return
        low, high = codes.reshape(-1, self.slots).min(0), codes.reshape(-1, self.slots).max(0)
        for slot, level in enumerate(self.levels):
            if low[slot] < 0 or high[slot] >= level:
                raise ValueError(
                    f"slot {slot} holds codes in [{low[slot]}, {high[slot]}], its alphabet is [0, {level}). "
                    + _no_code(int(low[slot]))
                )


def _no_code(lowest: int) -> str:
    if lowest == NO_CODE:
        return f"{NO_CODE} stands where the features of an encoder were not finite."
    return "Absent tokens are marked by a mask, never by a code."


@dataclasses.dataclass(frozen=True)
class Regrouping:
    """Merged slots of a code space and the way there and back.

    Attributes:
      source: the space before merging.
      groups: which source slots make each merged slot, the first being the fastest digit.
    """

    source: CodeSpace
    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        if sorted(slot for group in self.groups for slot in group) != list(range(self.source.slots)):
            raise ValueError(
                f"groups {self.groups} must name each of the {self.source.slots} slots exactly once"
            )
        for part in self.parts:
            part.index_dtype  # noqa: B018 - raises when a merged slot does not fit

    @functools.cached_property
    def parts(self) -> tuple[CodeSpace, ...]:
        """The source alphabet of each merged slot."""
        return tuple(CodeSpace(tuple(self.source.levels[slot] for slot in group)) for group in self.groups)

    @functools.cached_property
    def space(self) -> CodeSpace:
        """The space after merging."""
        return CodeSpace(tuple(part.size for part in self.parts))

    def merge(self, codes: Integer[Array, "... Q"]) -> Integer[Array, "... G"]:
        """Codes of `source` to codes of `space`; int32, or uint32 when a merged slot needs it (see
        `code_dtype`).
        """
        self.source._check_slots(codes)
        merged = [
            part.join(codes[..., np.array(group)])
            for part, group in zip(self.parts, self.groups, strict=True)
        ]
        return _namespace(codes).stack([slot.astype(self.space.code_dtype) for slot in merged], axis=-1)

    def split(self, codes: Integer[Array, "... G"]) -> Integer[Array, "... Q"]:
        """Codes of `space` back to codes of `source`; int32 (see `code_dtype`)."""
        order = np.argsort([slot for group in self.groups for slot in group])
        digits = [
            part.split(codes[..., g]).astype(self.source.code_dtype) for g, part in enumerate(self.parts)
        ]
        return _namespace(codes).concatenate(digits, axis=-1)[..., order]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Static structure along the token axis.

    Attributes:
      tokens: N, the number of tokens.
      scales: grid shape of each scale of a multi-scale code, coarse to fine (VAR: (1, 1), (2, 2), ...), or
        empty.
      segments: name and number of tokens of each run of tokens ("semantic", "pixel", ...), in order, or
        empty.
    """

    tokens: int
    scales: tuple[tuple[int, ...], ...] = ()
    segments: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        for name, total in (
            ("scales", sum(map(math.prod, self.scales))),
            ("segments", sum(n for _, n in self.segments)),
        ):
            if getattr(self, name) and total != self.tokens:
                raise ValueError(
                    f"{name}={getattr(self, name)} cover {total} tokens, the layout has {self.tokens}"
                )

    def segment(self, name: str) -> slice:
        """Where a named segment lies on the token axis."""
        start = 0
        for other, length in self.segments:
            if other == name:
                return slice(start, start + length)
            start += length
        raise ValueError(f"no segment {name!r}; this layout has {[segment for segment, _ in self.segments]}")

    @property
    def levels(self) -> np.ndarray:
        """Which scale each token belongs to, int32 [N]."""
        return np.repeat(np.arange(len(self.scales), dtype=np.int32), [math.prod(s) for s in self.scales])

    def scale(self, index: int) -> slice:
        """Where scale `index` lies on the token axis."""
        sizes = [math.prod(shape) for shape in self.scales]
        if not -len(sizes) <= index < len(sizes):
            raise ValueError(f"scale {index} of a layout with {len(sizes)} scales")
        start = sum(sizes[: index % len(sizes)])
        return slice(start, start + sizes[index])


@dataclasses.dataclass(frozen=True)
class Vocab:
    """One table of token ids: the codes of every slot, then special tokens and classes, each as a named
    range.

    The ids of slot q start at `offsets[q]`; named ranges follow the codes in the order given. Embedding
    sizes, head sizes and files all take their numbers from here, so no offset is ever added by hand.

    Attributes:
      space: the code space.
      ranges: (name, count) of each range after the codes, for example `(("mask", 1), ("class", 1000))`.
    """

    space: CodeSpace
    ranges: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        names = [name for name, _ in self.ranges]
        if len(set(names)) != len(names) or "codes" in names or any(count < 1 for _, count in self.ranges):
            raise ValueError(f"ranges={self.ranges}: names must differ, not be 'codes', and count at least 1")

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """First id of each slot."""
        return tuple(
            np.concatenate([[0], np.cumsum(self.space.levels[:-1], dtype=np.int64)]).astype(int).tolist()
        )

    @functools.cached_property
    def size(self) -> int:
        """Number of ids."""
        return sum(self.space.levels) + sum(count for _, count in self.ranges)

    def range(self, name: str) -> range:
        """The ids of a named range ("codes" for all code ids)."""
        start = sum(self.space.levels)
        if name == "codes":
            return range(start)
        for other, count in self.ranges:
            if other == name:
                return range(start, start + count)
            start += count
        raise ValueError(
            f"no range {name!r}; this vocabulary has {['codes', *(other for other, _ in self.ranges)]}"
        )

    def id(self, name: str, index: int = 0) -> int:
        """Id of entry `index` of a named range."""
        ids = self.range(name)
        if not 0 <= index < len(ids):
            raise ValueError(f"{name}[{index}] is outside the {len(ids)} ids of that range")
        return ids[index]

    def from_codes(self, codes: Integer[Array, "... Q"]) -> Integer[Array, "... Q"]:
        """Codes to ids: adds each slot's offset, int32."""
        self.space._check_slots(codes)
        return codes.astype(np.int32) + np.asarray(self.offsets, np.int32)

    def to_codes(self, ids: Integer[Array, "... Q"]) -> Integer[Array, "... Q"]:
        """Ids to codes: inverse of `from_codes`."""
        self.space._check_slots(ids)
        codes = ids.astype(np.int32) - np.asarray(self.offsets, np.int32)
        self.space._check_range(codes)
        return codes


@typing.dataclass_transform(frozen_default=True)
def pytree_dataclass(*static: str):
    """Registers a frozen dataclass as a pytree whose named fields are static.

    Fields are annotated `Any`: JAX rebuilds these objects around shapes, shardings and placeholders.
    """

    def register(cls):
        cls = dataclasses.dataclass(frozen=True)(cls)
        data = [field.name for field in dataclasses.fields(cls) if field.name not in static]
        return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(static))

    return register


@pytree_dataclass()
class Latents:
    """A batch of latents.

    Attributes:
      codes: int32 [B, N, Q] within the code space, or None for continuous latents. Never -1: absence is the
        mask.
      values: float32 [B, N, D], continuous latents or the embedding of the codes, or None.
      mask: bool [B, N, Q], True where a token or residual level is present; None means all are.
      positions: int32 [B, N, A] coordinates where order alone does not say (video, 3D, sets), or None.
    """

    codes: Any = None
    values: Any = None
    mask: Any = None
    positions: Any = None


@pytree_dataclass()
class Quantized:
    """What a quantizer returns.

    Attributes:
      values: float32 [B, N, D], equal to `decode(codes)`, with the quantizer's gradient.
      codes: int32 [B, N, Q].
      losses: scalar float32 losses by name.
      statistics: additive sums (counts, moments) for `update`, or an empty dict.
    """

    values: Any
    codes: Any
    losses: Any = dataclasses.field(default_factory=dict)
    statistics: Any = dataclasses.field(default_factory=dict)


@pytree_dataclass()
class Reconstruction:
    """What a tokenizer returns in training.

    Attributes:
      quantized: the quantizer's output.
      x_hat: float32 reconstruction in the tokenizer's own range, or None for decoders that do not reconstruct
        in training.
      features: named extra outputs (for example "alignment" for a REPA-style loss).
    """

    quantized: Any
    x_hat: Any = None
    features: Any = dataclasses.field(default_factory=dict)


@pytree_dataclass("batch_axis")
class Condition:
    """What a prior is conditioned on.

    Attributes:
      features: a pytree of arrays: class ids int32 [B], token ids int32 [B, T], text features float32 [B, T,
        D], or one set of them per layer [L, B, T, D].
      mask: bool [B, T], True at real text positions; None means all are.
      null: a `Condition` that stands for "no condition", its batch axes of size 1 or B; None when there is no
        such thing.
      batch_axis: where the batch lies in the leaves of `features` (1 for layer-wise text).
    """

    features: Any
    mask: Any = None
    null: Any = None
    batch_axis: int = 0

    @property
    def batch(self) -> int:
        """B."""
        return jax.tree.leaves(self.features)[0].shape[self.batch_axis]

    def select(self, drop: Bool[Array, " B"]) -> "Condition":
        """Replaces the rows where `drop` is True by the null condition (caption dropout).

        Raises:
          ValueError: there is no null condition.
        """
        null = self.unconditional()

        def rows(axis):
            def pick(mine, other):
                shape = [1] * mine.ndim
                shape[axis] = -1
                return jnp.where(drop.reshape(shape), other, mine)

            return pick

        features = jax.tree.map(rows(self.batch_axis), self.features, null.features)
        mask = None if null.mask is None else rows(0)(self._full_mask(null.mask), null.mask)
        return dataclasses.replace(self, features=features, mask=mask)

    def unconditional(self) -> "Condition":
        """The null condition, repeated to this batch.

        Raises:
          ValueError: there is no null condition.
        """
        if self.null is None:
            raise ValueError(
                "this condition has no `null`, which guidance and caption dropout need; pass Condition(..., "
                "null=)"
            )

        def repeat(axis):
            def rows(mine, other):
                if other.shape[axis] not in (1, mine.shape[axis]):
                    raise ValueError(
                        f"null has {other.shape[axis]} rows on axis {axis}; expected 1 or the batch size "
                        f"{mine.shape[axis]}"
                    )
                return jnp.broadcast_to(other, mine.shape)

            return rows

        features = jax.tree.map(repeat(self.batch_axis), self.features, self.null.features)
        mask = self.null.mask
        if self.mask is not None or mask is not None:
            mine = self._full_mask(mask)
            mask = repeat(0)(mine, jnp.ones((1, mine.shape[1]), bool) if mask is None else mask)
        return dataclasses.replace(self, features=features, mask=mask, null=None)

    def _full_mask(self, other):
        """The mask, written out as long as `other` where it is left out."""
        return jnp.ones((self.batch, other.shape[1]), bool) if self.mask is None else self.mask


def _namespace(x: Array):
    return np if isinstance(x, np.ndarray | np.generic) else jnp
