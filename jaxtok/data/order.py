"""Everything random about a position in the data, as functions of integers.

A position is one integer, so a run continues on any number of hosts and workers by arithmetic alone.
"""

import functools

import grain
import numpy as np

# Keeps the streams of one seed apart.
_ORDER, _AUGMENTATION, _SHARED = 0, 1, 2


def permuted(position: int, count: int, seed: int) -> int:
    """Entry `position` of a pseudorandom permutation of `range(count)`, in O(1) memory.

    Args:
      position: In `[0, count)`.
      count: Length of the permutation, at most 2**32.
      seed: In `[0, 2**32)`.
    """
    return int(grain.experimental.index_shuffle(position, max_index=count - 1, seed=seed, rounds=4))


@functools.lru_cache(maxsize=16)
def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, _ORDER, epoch)).generate_state(1)[0])


def record_at(example: int, count: int, seed: int) -> int:
    """Record of global training example `example`: each epoch of `count` examples is its own permutation."""
    epoch, position = divmod(example, count)
    return permuted(position, count, _epoch_seed(seed, epoch))


def augmentation_generator(example: int, seed: int) -> np.random.Generator:
    """Generator of the augmentation of global training example `example`."""
    return np.random.default_rng((seed, _AUGMENTATION, example))


def choice_at(step: int, options: tuple[int, ...], seed: int) -> int:
    """What all examples of training step `step` share, such as a resolution: the same on every host."""
    if len(options) == 1:
        return options[0]
    return options[np.random.default_rng((seed, _SHARED, step)).integers(len(options))]
