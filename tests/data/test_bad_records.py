"""Records that cannot be decoded: replaced in the same way everywhere, counted, named, and limited."""

import itertools
import logging

import numpy as np
import pytest

from jaxtok.data.errors import BadDataError, BadRecord
from jaxtok.data.folder import ImageFolder
from jaxtok.data.image_files import encode_png
from jaxtok.data.pipeline import Pipeline

COUNT, BAD = 60, (7, 20, 21)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for index in range(COUNT):
        good = encode_png(np.full((4, 4, 3), index, np.uint8))
        content = {7: b"", 20: b"not an image", 21: good[:40]}.get(index, good)
        (root / f"{index:03d}.png").write_bytes(content)
    return root


def data(folder, **options):
    defaults = dict(channels=3, image_sizes=(4,), batch_size=12, held_out=0, max_bad_fraction=0.5)
    return ImageFolder(path=str(folder), **defaults | options)


def epoch(pipeline):
    batches = pipeline.batches()
    taken = list(itertools.islice(batches, COUNT // pipeline.data.batch_size))
    batches.close()
    return taken


def test_replaced_by_the_next_good_one_counted_and_logged_once(folder, caplog):
    pipeline = Pipeline(data(folder))
    with caplog.at_level(logging.WARNING, logger="jaxtok.data.pipeline"):
        batches = epoch(pipeline) + epoch(pipeline)
    for batch in batches:
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        assert batch["valid"].all()
    indices = np.concatenate([batch["index"] for batch in batches[: len(batches) // 2]])
    assert (np.bincount(indices, minlength=COUNT)[[7, 8, 20, 21, 22]] == [0, 2, 0, 0, 3]).all()
    assert pipeline.counters == {"records_seen": 2 * COUNT, "records_bad": 6}
    assert sorted(record.args[0] for record in caplog.records) == ["007.png", "020.png", "021.png"]


@pytest.mark.parametrize("hosts", [2, 3])
def test_every_host_replaces_alike(folder, hosts):
    expected = epoch(Pipeline(data(folder)))
    pipelines = [Pipeline(data(folder), process_index=index, process_count=hosts) for index in range(hosts)]
    for parts, whole in zip(zip(*map(epoch, pipelines)), expected, strict=True):
        np.testing.assert_array_equal(np.concatenate([part["index"] for part in parts]), whole["index"])
    assert sum(pipeline.counters["records_bad"] for pipeline in pipelines) == len(BAD)


@pytest.mark.slow  # starts processes
def test_workers_replace_count_and_stop_alike(folder):
    expected, pipeline = epoch(Pipeline(data(folder))), Pipeline(data(folder, workers=2))
    for batch, whole in zip(epoch(pipeline), expected, strict=True):
        np.testing.assert_array_equal(batch["image"], whole["image"])
    assert pipeline.counters == {"records_seen": COUNT, "records_bad": len(BAD)}
    with pytest.raises(BadDataError, match=r"max_bad_fraction=0\.02"):
        epoch(Pipeline(data(folder, workers=2, max_bad_fraction=0.02)))


def test_evaluation_counts_each_good_record_once(folder):
    pipeline = Pipeline(data(folder, batch_size=16))
    batches = list(pipeline.evaluation_batches())
    counted = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert counted.tolist() == [index for index in range(COUNT) if index not in BAD]


def test_too_many_stop_the_run_and_are_listed(folder):
    with pytest.raises(BadDataError, match=r"3 of \d+ records .* max_bad_fraction=0.02 .*0\d\d\.png.* raise"):
        epoch(Pipeline(data(folder, max_bad_fraction=0.02)))


def test_one_bad_record_is_too_many_when_none_is_allowed(folder):
    with pytest.raises(BadDataError, match=r"1 of \d+ records"):
        epoch(Pipeline(data(folder, max_bad_fraction=0.0, batch_size=1)))


def test_a_folder_without_a_single_good_image(tmp_path):
    for index in range(20):
        (tmp_path / f"{index}.jpg").write_bytes(b"no")
    with pytest.raises(BadDataError, match="16 records in a row cannot be decoded"):
        next(Pipeline(data(tmp_path)).batches())


def test_a_file_that_vanished_is_a_bad_record(tmp_path):
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    pipeline = Pipeline(data(tmp_path, batch_size=2))
    (tmp_path / "0.png").unlink()
    with pytest.raises(BadRecord, match=r"0\.png"):
        pipeline.source[0]
    assert next(pipeline.batches())["index"].tolist() == [1, 1]


def test_fewer_records_than_hosts(tmp_path):
    for index in range(5):
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="5 records but 8 hosts: every host needs at least one"):
        Pipeline(data(tmp_path, batch_size=8), process_index=0, process_count=8)
