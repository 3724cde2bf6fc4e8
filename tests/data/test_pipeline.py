import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtok.data.arrays import NumpyImages
from jaxtok.data.embedded import Digits
from jaxtok.data.pipeline import Pipeline

DATA = Digits(image_sizes=(8,), batch_size=24, text_length=20, seed=3)


def replace(**changes):
    return dataclasses.replace(DATA, **changes)


def take(pipeline, count, start=0):
    batches = pipeline.batches(start)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def hosts(data, count):
    return [Pipeline(data, process_index=index, process_count=count) for index in range(count)]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert a[name].dtype == b[name].dtype


def joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_batch_has_the_agreed_arrays():
    (batch,) = take(Pipeline(DATA), 1)
    shapes = {name: (value.shape, value.dtype) for name, value in batch.items()}
    assert shapes == {
        "image": ((24, 8, 8, 1), np.uint8),
        "label": ((24,), np.int32),
        "text": ((24, 20), np.int32),
        "text_mask": ((24, 20), np.bool_),
        "index": ((24,), np.int64),
        "valid": ((24,), np.bool_),
    }
    assert batch["valid"].all()
    assert "text" not in take(Pipeline(replace(text_length=0)), 1)[0]


def test_rows_hold_the_record_that_index_names():
    pipeline = Pipeline(DATA)
    (batch,) = take(pipeline, 1)
    for image, label, index in zip(batch["image"], batch["label"], batch["index"]):
        record = pipeline.source[int(index)]
        np.testing.assert_array_equal(image, record["image"])
        assert label == record["label"]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_record_once_per_epoch_over_all_hosts(count):
    records = len(Pipeline(DATA).source)  # 1500 = 62.5 batches, so epochs end inside batches
    steps = 2 * records // DATA.batch_size
    streams = [take(pipeline, steps) for pipeline in hosts(replace(prefetch=0), count)]
    order = np.concatenate([joined(batches)["index"] for batches in zip(*streams)])
    first, second = order[:records], order[records : 2 * records]
    assert sorted(first) == sorted(second) == list(range(records))
    assert (first != second).any()


@pytest.mark.parametrize("count", [2, 3, 8])
def test_resuming_on_other_hosts_gives_the_same_global_batch(count):
    data = replace(image_sizes=(8, 12, 16), crop="random_resized", flip=True)
    expected = take(Pipeline(data), 4)
    for step in (1, 3):
        assert_equal(joined([take(host, 1, step)[0] for host in hosts(data, count)]), expected[step])


def test_workers_and_prefetch_do_not_change_the_batches():
    data = replace(crop="random_resized", image_sizes=(8, 16))
    expected = take(Pipeline(dataclasses.replace(data, prefetch=0)), 5)
    for batch, whole in zip(take(Pipeline(data), 5), expected, strict=True):
        assert_equal(batch, whole)
    for batch, whole in zip(
        take(Pipeline(dataclasses.replace(data, workers=2)), 3, 2), expected[2:], strict=True
    ):
        assert_equal(batch, whole)


@pytest.fixture(scope="module")
def one_and_three_hosts():
    data = replace(prefetch=0, batch_size=6)
    return Pipeline(data), hosts(data, 3)


@given(st.integers(0, 10**9))
def test_any_step_can_be_the_first(one_and_three_hosts, step):
    one, three = one_and_three_hosts
    assert_equal(joined([take(host, 1, step)[0] for host in three]), take(one, 1, step)[0])


def test_a_resolution_per_step_shared_by_all_rows():
    sizes = [batch["image"].shape[1] for batch in take(Pipeline(replace(image_sizes=(8, 12, 16))), 30)]
    assert set(sizes) == {8, 12, 16}
    assert sizes == [
        batch["image"].shape[1] for batch in take(Pipeline(replace(image_sizes=(8, 12, 16))), 30)
    ]


def test_seed_changes_order_and_run_seed_replaces_it():
    a, b = take(Pipeline(DATA), 1)[0], take(Pipeline(DATA, seed=4), 1)[0]
    assert (a["index"] != b["index"]).any()
    assert_equal(b, take(Pipeline(replace(seed=4)), 1)[0])


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_evaluation_is_one_padded_pass_with_equal_steps(count):
    streams = [
        list(Pipeline(DATA, "eval", process_index=index, process_count=count).evaluation_batches())
        for index in range(count)
    ]
    assert len({len(stream) for stream in streams}) == 1
    whole = joined([joined(batches) for batches in zip(*streams)])
    assert whole["index"][whole["valid"]].tolist() == list(range(297))
    assert (whole["index"][~whole["valid"]] == -1).all()
    assert len(whole["valid"]) % DATA.batch_size == 0


def test_evaluation_may_have_fewer_records_than_hosts(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 4, 4, 1), np.uint8))
    data = NumpyImages(path=str(tmp_path / "x.npy"), held_out=1, batch_size=4)
    masks = [
        next(Pipeline(data, "eval", process_index=index, process_count=4).evaluation_batches())["valid"]
        for index in range(4)
    ]
    assert np.concatenate(masks).tolist() == [True, False, False, False]


def test_evaluation_does_not_augment_and_is_of_the_largest_size():
    pipeline = Pipeline(replace(crop="random", flip=True, image_sizes=(8, 16)), "eval")
    assert_equal(next(pipeline.evaluation_batches()), next(pipeline.evaluation_batches()))
    assert next(pipeline.evaluation_batches())["image"].shape[1] == 16


def test_fingerprint_follows_content_not_logistics():
    base = Pipeline(DATA).fingerprint
    for same in (dict(batch_size=2), dict(workers=2), dict(seed=9), dict(prefetch=0)):
        assert Pipeline(replace(**same)).fingerprint == base
    for other in (dict(image_sizes=(9,)), dict(channels=3), dict(flip=True)):
        assert Pipeline(replace(**other)).fingerprint != base
    assert Pipeline(DATA, "eval").fingerprint != base


def test_batch_must_divide_over_hosts():
    with pytest.raises(ValueError, match="global batch 24 does not divide over 5 hosts"):
        Pipeline(DATA, process_index=0, process_count=5)


def test_process_must_be_one_of_them():
    with pytest.raises(ValueError, match="process_index is 2"):
        Pipeline(DATA, process_index=2, process_count=2)
