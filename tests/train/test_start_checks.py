"""What is refused before the first step."""

import dataclasses

import numpy as np
import pytest

from experiments.image import instella_t2i, titok
from jaxtok.data.embedded import Digits
from jaxtok.data.image_sources import ImageArrays
from jaxtok.losses import reconstruction
from jaxtok.systems.objectives import TokenizerObjective
from jaxtok.train.gradient import gradient
from jaxtok.train.stage import Stage
from jaxtok.train.start_checks import check_labels, check_stages, label_summary

DATA = Digits(image_sizes=(8,), batch_size=4)


def stages(**changes):
    config = dataclasses.replace(titok.TINY, data=dataclasses.replace(titok.TINY.data, **changes))
    return config.model.check_data, list(titok.stages(config))


def test_the_smallest_run_passes():
    check_stages(*stages())


def test_other_channels_than_the_models_are_refused():
    with pytest.raises(ValueError, match=r"data\.channels is 3, but model\.channels is 1"):
        check_stages(*stages(channels=3))


def test_sizes_without_the_models_are_refused():
    with pytest.raises(ValueError, match=r"data\.image_sizes is \(16,\), without the 8 pixels of the model"):
        check_stages(*stages(image_sizes=(16,)))


def test_every_resolution_is_traced():
    """Not only the largest: a small one would be refused when its first batch comes."""
    sizes = (8, 10, 12)  # in cells of 4 pixels
    data = dataclasses.replace(instella_t2i.TINY.data, image_sizes=sizes)
    config = dataclasses.replace(instella_t2i.TINY, data=data)
    with pytest.raises(ValueError, match=r"batches of .*10,10.* both sides must divide by 4"):
        check_stages(config.model.check_data, list(instella_t2i.stages(config))[:1])


def test_texts_of_another_length_than_the_models_are_refused():
    data = dataclasses.replace(instella_t2i.TINY.data, text_length=7)
    config = dataclasses.replace(instella_t2i.TINY, data=data)
    with pytest.raises(ValueError, match=r"data\.text_length is 7, but the model reads texts of \d+ tokens"):
        check_stages(config.model.check_data, list(instella_t2i.stages(config)))


def test_losses_refuse_unequal_shapes():
    for loss in (reconstruction.l1, reconstruction.l2, reconstruction.smooth_l1):
        with pytest.raises((ValueError, TypeError), match=r"1\)|shape"):
            loss(np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 4, 4, 3), np.float32))


def source(labels, classes=("cat", "dog")):
    labels = np.asarray(labels)
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    return ImageArrays(images, labels, ("",) * 9, name="x", channels=1, classes=classes)


def conditioned(classes=2, null_class=True):
    update = gradient(TokenizerObjective(titok.TINY.model.tokenizer()), titok.TINY.tokenizer)
    return Stage("prior", update, DATA, 1, classes=classes, null_class=null_class)


@pytest.mark.parametrize(
    ("labels", "stage", "message"),
    [
        ([0, 1, 2], conditioned(), r"labels 0 to 1, and the data has 1 others: 2 \(1 records\)"),
        ([0, 7, 7, 9], conditioned(), r"7 \(2 records\), 9 \(1 records\)"),
        ([0, -1], conditioned(null_class=False), "1 of 2 records have no label"),
        ([-1, -1], conditioned(), "2 of 2 records have no label"),
    ],
)
def test_labels_outside_the_classes_are_refused(labels, stage, message):
    with pytest.raises(ValueError, match=message):
        check_labels(stage, source(labels))


def test_other_labels_pass():
    check_labels(conditioned(), source([0, 1, -1]))
    check_labels(conditioned(classes=0), source([0, 5, -1]))  # the stage reads no labels


def test_the_summary_counts_classes():
    assert label_summary(source([0, 1, 1, -1])) == "4 records: cat 1, dog 2; 1 without a label"
    many = label_summary(source(np.repeat(np.arange(30), 2), classes=()))
    assert many == "60 records: 30 classes of 2 to 2 records"
