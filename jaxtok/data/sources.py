"""From the name in the configuration to an open source."""

from jaxtok.data import embedded
from jaxtok.data.config import Data, Split, validate
from jaxtok.data.records import Source


def open_source(data: Data, split: Split) -> Source:
    """Opens the records of one split.

    Args:
      data: The configuration.
      split: "train" or "eval".

    Returns:
      A source; `source[i]` is `{"image": uint8 [H, W, C], "label": int, "caption": str, "key": str, ...}`.

    Raises:
      ValueError: The configuration, a path or a column is wrong, or there are no records.
    """
    validate(data)
    if data.source == "digits":
        return embedded.digits(split, data.channels)
    raise NotImplementedError(data.source)
