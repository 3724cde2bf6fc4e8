"""Token files as a data set: priors train on the codes that `encode` wrote, and no signal is read."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtok.codes import CodeSpace
from jaxtok.data.dataset import Dataset, Example, Field, Split
from jaxtok.data.files import digests
from jaxtok.data.records import Source
from jaxtok.data.token_shards import TokenShards
from jaxtok.nn.caption_ids import caption_ids


class Tokens(Source):
    """Entries of token files. Augmented versions of a record count as records of their own."""

    def __init__(self, path: str):
        """Opens a folder of the verb `encode`.

        Raises:
          ValueError: no manifest, or shards are missing or cut short.
        """
        self.shards = TokenShards(path)

    def __len__(self) -> int:
        return len(self.shards)

    def raw(self, index: int) -> dict[str, Any]:
        about = self.shards.about(index)
        return {
            "codes": self.shards.packed(index),
            "label": about["label"],
            "caption": about["caption"],
            "length": about.get("length", self.shards.manifest.tokens),
            "key": f"{self.shards.folder.name}/{index}",
        }

    def identity(self) -> Any:
        return digests([*self.shards.files("tokens"), *self.shards.files("about")])


@dataclass(frozen=True, kw_only=True)
class TokenFiles(Dataset):
    """Codes of token files: "codes" [N, Q] in the narrowest unsigned integers, "label", and captions as
    `ImageData` has them.
    """

    kind = "tokens"
    path: str = ""
    """Folder that the verb `encode` wrote."""
    levels: tuple[int, ...] = (2,)
    """Alphabet of a token, see `CodeSpace`."""
    tokens: int = 1
    """N, tokens of an example."""
    lengths: bool = False
    """Whether entries have lengths, which "codes_mask" bool [N] then says."""
    text_length: int = 0
    """Tokens kept of a caption. 0 leaves captions out of the batches."""
    text_model: str = ""
    """Folder of a Hugging Face language model whose tokenizer makes them. Empty: tokens are bytes."""

    @classmethod
    def in_place_of(
        cls, data: Dataset, path: str, levels: tuple[int, ...], tokens: int, lengths: bool = False
    ) -> "TokenFiles":
        """Token files of a data set, with its settings for loading and its captions."""
        kept = {field.name for field in dataclasses.fields(cls)} & {f.name for f in dataclasses.fields(data)}
        own = {name: getattr(data, name) for name in kept}
        return cls(**{**own, "path": path, "levels": levels, "tokens": tokens, "lengths": lengths})

    def open(self, split: Split) -> Source:
        """See `Dataset.open`; the files hold one split.

        Raises:
          ValueError: no tokens there, of another split, or others than `levels` and `tokens` say.
        """
        source = Tokens(self.path)
        found = source.shards.manifest
        if found.split != split:
            raise ValueError(
                f"{self.path} holds the split {found.split!r}, not {split!r}. Encode that one with --split."
            )
        if (found.levels, found.tokens, found.lengths) != (self.levels, self.tokens, self.lengths):
            raise ValueError(
                f"{self.path} holds {found.tokens} tokens of levels {found.levels} with"
                f"{'' if found.lengths else 'out'} lengths, not {self.tokens} of {self.levels} with"
                f"{'' if self.lengths else 'out'}. Set data.tokens, data.levels and data.lengths alike."
            )
        return source

    def fields(self) -> Mapping[str, Field]:
        """See `Dataset.fields`."""
        space = CodeSpace(self.levels)
        fields = {
            "codes": Field(
                (self.tokens, space.slots), space.stored_dtype, "length" if self.lengths else None
            ),
            "label": Field((), np.int32, blank=-1),
        }
        if self.text_length:
            fields["text"] = Field((self.text_length,), np.int32, pad="length")
        return fields

    def example(self, record: Mapping[str, Any], step: int, rng: np.random.Generator | None) -> Example:
        """See `Dataset.example`; codes are packed until `collate`, which unpacks those of a batch at once."""
        example = {"codes": record["codes"], "label": np.array(record["label"], np.int32)}
        if self.lengths:
            example["codes_mask"] = np.arange(self.tokens) < record["length"]
        if self.text_length:
            ids, mask = caption_ids([record["caption"]], self.text_length, self.text_model)
            example |= {"text": ids[0], "text_mask": mask[0]}
        return example

    def blank(self, beside: Example | None = None) -> Example:
        """See `Dataset.blank`."""
        del beside
        size = -(-self.tokens * CodeSpace(self.levels).packed_bits // 8)
        return self.example(
            {"codes": np.zeros(size, np.uint8), "label": -1, "caption": "", "length": 0}, 0, None
        )

    def collate(self, examples: Sequence[Example]) -> Example:
        """See `Dataset.collate`."""
        space = CodeSpace(self.levels)
        packed = np.stack([example["codes"] for example in examples])
        codes = space.unpack(packed, self.tokens).astype(space.stored_dtype)
        return super().collate([example | {"codes": row} for example, row in zip(examples, codes)])
