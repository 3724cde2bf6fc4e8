"""Token files as a source: priors train on the codes that `encode` wrote, and no image is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtok.data.files import digests
from jaxtok.data.records import Source
from jaxtok.data.token_shards import TokenShards


class Tokens(Source):
    """Entries of token files: "codes", packed, in place of "image"; `stack` unpacks them. Augmented versions
    of an image count as records of their own.
    """

    channels = 1
    content = "codes"

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
            "key": f"{self.shards.folder.name}/{index}",
        }

    def blank(self, size: int) -> np.ndarray:
        del size
        return np.zeros(self.shards.manifest.bytes_per_entry, np.uint8)

    def stack(self, contents: Sequence[np.ndarray]) -> np.ndarray:
        """Codes [n, N, Q], the narrowest unsigned integers: a byte per slot for most alphabets."""
        manifest = self.shards.manifest
        return manifest.space.unpack(np.stack(contents), manifest.tokens).astype(manifest.space.stored_dtype)

    def identity(self) -> Any:
        return digests([*self.shards.files("tokens"), *self.shards.files("about")])
