import dataclasses

import pytest
import tyro

from jaxtok.data.config import Data, validate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(source="imagenet"), "data.source is 'imagenet', but must be one of"),
        (dict(source="folder"), "data.path is '', but source 'folder' reads files"),
        (dict(path="x"), "data.path is 'x', but source 'digits' is embedded"),
        (dict(eval_path="x"), "data.eval_path is 'x', but source 'digits' is embedded"),
        (dict(image_sizes=()), "data.image_sizes"),
        (dict(image_sizes=(16, 0)), "data.image_sizes"),
        (dict(channels=4), "data.channels is 4"),
        (dict(source="shapes"), "data.channels is 1, but the captions of 'shapes' name colours"),
        (dict(batch_size=0), "data.batch_size"),
        (dict(text_length=-1), "data.text_length"),
        (dict(crop="middle"), "data.crop"),
        (dict(crop_scale=(0.5, 1.5)), "data.crop_scale"),
        (dict(crop_ratio=(2.0, 1.0)), "data.crop_ratio"),
        (dict(resize="area"), "data.resize"),
        (dict(held_out=-1.0), "data.held_out"),
        (dict(held_out=1.5), "data.held_out"),
        (dict(seed=-1), "data.seed"),
        (dict(workers=-1), "data.workers"),
        (dict(workers=2, prefetch=0), "data.prefetch is 0, but each of the 2 workers"),
        (dict(max_bad_fraction=1.0), "data.max_bad_fraction"),
    ],
)
def test_wrong_values_are_named(changes, message):
    # Made without the run-time type checks: a user's JSON or notebook has none.
    data = object.__new__(Data)
    for name, value in (dataclasses.asdict(Data()) | changes).items():
        object.__setattr__(data, name, value)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        validate(data)


def test_defaults_and_flags():
    validate(Data())
    data = tyro.cli(Data, args=["--source", "shapes", "--channels", "3", "--image-sizes", "16", "24"])
    validate(data)
    assert data == Data("shapes", channels=3, image_sizes=(16, 24))
