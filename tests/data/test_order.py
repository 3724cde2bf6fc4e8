import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtok.data.order import augmentation_generator, choice_at, permuted, record_at


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_permuted_is_a_permutation(count, seed):
    assert sorted(permuted(position, count, seed) for position in range(count)) == list(range(count))


def test_order_is_the_same_in_every_release():
    # Runs resume and held-out splits stay where they are only while these numbers do not change.
    assert [permuted(position, 1000, 7) for position in range(6)] == [687, 904, 974, 514, 833, 444]
    assert [record_at(example, 1000, 3) for example in (0, 1, 999, 1000, 1001, 10**9)] == [
        941,
        163,
        489,
        516,
        150,
        320,
    ]
    assert [choice_at(step, (1, 2, 3), 0) for step in range(8)] == [3, 3, 1, 1, 2, 2, 2, 3]


@given(st.integers(0, 2**31), st.integers(0, 10**12))
def test_epochs_differ_and_are_complete(seed, epoch):
    first, second = (
        [record_at(start * 20 + position, 20, seed) for position in range(20)] for start in (epoch, epoch + 1)
    )
    assert sorted(first) == sorted(second) == list(range(20))


def test_neighbouring_records_are_not_neighbours_in_the_order():
    order = np.array([permuted(position, 10_000, 1) for position in range(10_000)])
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


def test_streams_of_one_seed_are_independent():
    draws = {augmentation_generator(example, seed).random() for example in range(20) for seed in range(3)}
    assert len(draws) == 60


@pytest.mark.parametrize("sizes", [(8,), (8, 16), (8, 12, 16)])
def test_all_sizes_come_equally_often(sizes):
    drawn = [choice_at(step, sizes, 5) for step in range(600)]
    counts = [drawn.count(size) for size in sizes]
    assert min(counts) > 0.75 * 600 / len(sizes)
