"""What a data set is: a frozen dataclass that is configuration and factory in one."""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from jaxtok.config_files import to_json
from jaxtok.data.records import Source
from jaxtok.kinds import Kinds

Split = Literal["train", "eval"]
Example = dict[str, np.ndarray]


def check_split(split: str) -> None:
    """Raises a `ValueError` for a split that there is not."""
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}, but must be one of {', '.join(get_args(Split))}")


class Field(NamedTuple):
    """One array of an example, known before anything is opened.

    Attributes:
      shape: of one example; with `pad="length"` its first entry is the greatest length.
      dtype: NumPy dtype.
      pad: "length" for arrays of different lengths: a batch fills them up with zeros and brings
        `<name>_mask`, bool [b, length], True on what is real; None for arrays of one shape.
      blank: what rows hold that only fill up the last batch.
    """

    shape: tuple[int, ...]
    dtype: Any
    pad: Literal["length"] | None = None
    blank: int = 0


@dataclass(frozen=True, kw_only=True)
class Dataset(Kinds):
    """Records, what an example of them is, and how batches are loaded. Knows no kind of signal.

    A subclass says where records are (`open`), which arrays an example has (`fields`), and makes one of a
    record (`example`).
    """

    home: ClassVar[str] = "jaxtok.data"

    batch_size: int = 64
    """Examples per step over all hosts together."""
    seed: int = 0
    """Order of the records and augmentation. Never which records are held out."""
    workers: int = 0
    """Processes that prepare batches. 0 uses threads of this process, which is right for small examples."""
    prefetch: int = 2
    """Batches prepared ahead, per worker process. 0 prepares each when it is asked for."""
    max_bad_fraction: float = 0.01
    """A run stops above this fraction of undecodable records; below it they are replaced and logged."""

    def __post_init__(self) -> None:
        self.require(self.batch_size >= 1, "batch_size", "must be at least 1", "It counts over all hosts.")
        self.require(self.seed >= 0, "seed", "must be at least 0", "Any non-negative integer will do.")
        self.require(self.workers >= 0, "workers", "must be at least 0", "Use 0 for threads.")
        self.require(self.prefetch >= 0, "prefetch", "must be at least 0", "Use 0 for none.")
        self.require(
            self.workers == 0 or self.prefetch >= 1,
            "prefetch",
            f"each of the {self.workers} workers must prepare at least one batch ahead",
            "Use 1 or more, or workers=0.",
        )
        self.require(
            0 <= self.max_bad_fraction < 1, "max_bad_fraction", "must be in [0, 1)", "Use 0 to allow none."
        )

    def require(self, condition: bool, field: str, constraint: str, remedy: str) -> None:
        """Raises a `ValueError` that names a field, its value, the constraint and the remedy."""
        if not condition:
            raise ValueError(f"data.{field} is {getattr(self, field)!r}, but {constraint}. {remedy}")

    @abstractmethod
    def open(self, split: Split) -> Source:
        """The records of a split.

        Raises:
          ValueError: a path is wrong, or there are no records.
        """

    @abstractmethod
    def fields(self) -> Mapping[str, Field]:
        """The arrays of an example, without opening anything; of several possible shapes the largest."""

    @abstractmethod
    def example(self, record: Mapping[str, Any], step: int, rng: np.random.Generator | None) -> Example:
        """The arrays of a record.

        Args:
          record: what the source gives.
          step: of training; what all examples of a batch share may be drawn from it and `seed`.
          rng: for augmentation; None for an example without any.

        Raises:
          BadRecord: nothing can be made of this record; the next one takes its place.
        """

    def shapes(self) -> Sequence[Mapping[str, Field]]:
        """`fields` for every set of shapes that a training batch may have, the largest first."""
        return (self.fields(),)

    def blank(self, beside: Example | None = None) -> Example:
        """The arrays of a row that only fills up a batch, in the shapes of an example `beside` it."""
        beside, filled = beside or {}, {}
        for name, field in self.fields().items():
            mask = beside.get(f"{name}_mask")
            empty = field.pad == "length" and mask is None  # `collate` fills it up
            own = np.shape(beside[name]) if name in beside else field.shape
            filled[name] = np.full((0, *own[1:]) if empty else own, field.blank, field.dtype)
            if mask is not None:
                filled[f"{name}_mask"] = np.zeros_like(mask)
        return filled

    def collate(self, examples: Sequence[Example]) -> Example:
        """A batch of examples: arrays [b, ...] by name, with `<name>_mask` of those with lengths.

        Raises:
          ValueError: an example has other arrays than `fields` declares, or values that do not fit them.
        """
        fields = self.fields()
        masks = {f"{name}_mask" for name, field in fields.items() if field.pad == "length"}
        for example in examples:
            if missing := sorted(fields.keys() - example.keys()):
                raise ValueError(f"an example of {self.describe()} lacks {missing}, which fields() declares")
            if undeclared := sorted(example.keys() - fields.keys() - masks):
                raise ValueError(
                    f"an example of {self.describe()} has {undeclared}, which no batch would hold; declare "
                    "them in fields(), or leave them out"
                )
        batch: Example = {}
        for name, field in fields.items():
            arrays = [example[name] for example in examples]
            if field.pad == "length" and f"{name}_mask" not in examples[0]:
                batch[name], batch[f"{name}_mask"] = _filled_up(name, arrays, field)
                continue
            batch[name] = _as_declared(name, np.stack(arrays), field)
            if f"{name}_mask" in examples[0]:
                batch[f"{name}_mask"] = np.stack([example[f"{name}_mask"] for example in examples])
        return batch

    def content(self) -> Any:
        """What changes the examples of a record, as JSON, for the fingerprint of the data."""
        loading = {"type", *(field.name for field in dataclasses.fields(Dataset))}
        return {name: value for name, value in to_json(self).items() if name not in loading}

    def for_tokens(self) -> "Dataset":
        """The same data without what tokens do not depend on, such as captions."""
        return self

    def describe(self) -> str:
        """What messages call this data."""
        return str(getattr(self, "path", "") or self.kind_name())


def _as_declared(name: str, array: np.ndarray, field: Field) -> np.ndarray:
    """The array in the dtype of its field, as long as this drops no fraction and no sign."""
    if not np.can_cast(array.dtype, field.dtype, "same_kind"):
        raise ValueError(
            f"an example has {name!r} in {array.dtype}, which {np.dtype(field.dtype)} would cut; declare "
            "another dtype in fields(), or convert it"
        )
    return array.astype(field.dtype, copy=False)


def _filled_up(name: str, arrays: Sequence[np.ndarray], field: Field) -> tuple[np.ndarray, np.ndarray]:
    longest = max(len(array) for array in arrays)
    if longest > field.shape[0]:
        raise ValueError(
            f"an example has {longest} entries of {name!r}, but at most {field.shape[0]} fit. Raise that "
            "length, or cut examples"
        )
    filled = np.zeros((len(arrays), *field.shape), field.dtype)
    mask = np.zeros((len(arrays), field.shape[0]), bool)
    for row, array in enumerate(arrays):
        filled[row, : len(array)] = _as_declared(name, np.asarray(array), field)
        mask[row, : len(array)] = True
    return filled, mask
