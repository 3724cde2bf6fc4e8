"""Data sets, and deterministic pipelines of NumPy batches. Nothing here touches a device.

A data set is a dataclass beside its source, such as `Digits` or `ImageFolder`; `Pipeline(data, split)` turns
it into batches.
"""

from typing import TYPE_CHECKING

from jaxtok._lazy import attach

if TYPE_CHECKING:
    from jaxtok.data.arrayrecord import ArrayRecordImages
    from jaxtok.data.arrays import NumpyImages
    from jaxtok.data.dataset import Dataset, Field
    from jaxtok.data.embedded import Digits, Photos
    from jaxtok.data.errors import BadDataError
    from jaxtok.data.folder import ImageFolder
    from jaxtok.data.image_data import ImageData
    from jaxtok.data.parquet import ParquetImages
    from jaxtok.data.pipeline import Pipeline
    from jaxtok.data.records import Source
    from jaxtok.data.shapes import Shapes
    from jaxtok.data.tokens import TokenFiles
    from jaxtok.data.webdataset import WebDatasetImages

__all__ = [
    "ArrayRecordImages",
    "BadDataError",
    "Dataset",
    "Digits",
    "Field",
    "ImageData",
    "ImageFolder",
    "NumpyImages",
    "ParquetImages",
    "Photos",
    "Pipeline",
    "Shapes",
    "Source",
    "TokenFiles",
    "WebDatasetImages",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "ArrayRecordImages": "arrayrecord",
        "BadDataError": "errors",
        "Dataset": "dataset",
        "Digits": "embedded",
        "Field": "dataset",
        "ImageData": "image_data",
        "ImageFolder": "folder",
        "NumpyImages": "arrays",
        "ParquetImages": "parquet",
        "Photos": "embedded",
        "Pipeline": "pipeline",
        "Shapes": "shapes",
        "Source": "records",
        "TokenFiles": "tokens",
        "WebDatasetImages": "webdataset",
    },
)
