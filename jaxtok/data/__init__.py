"""Data: sources of records, transforms, and deterministic pipelines of NumPy batches.

`Data` says what is read and how; `Pipeline(data, split)` turns it into batches. Nothing here
touches a device.
"""

from typing import TYPE_CHECKING

from jaxtok._lazy import attach

if TYPE_CHECKING:
    from jaxtok.data.config import Data
    from jaxtok.data.errors import BadDataError
    from jaxtok.data.pipeline import Pipeline
    from jaxtok.data.records import Source
    from jaxtok.data.sources import open_source

__all__ = ["BadDataError", "Data", "Pipeline", "Source", "open_source"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "BadDataError": "errors",
        "Data": "config",
        "Pipeline": "pipeline",
        "Source": "records",
        "open_source": "sources",
    },
)
