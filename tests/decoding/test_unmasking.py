import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtok.decoding.unmasking import (
    halton_order,
    keep_masked,
    mask_ratio,
    masked_after,
    random_masked,
)
from jaxtok.tensor_files import read_tensors

SCHEDULES = ["cosine", "arccos", "linear", "square", "cubic", "sqrt", "pow2.5", "log", "exp"]


def golden(shared, name):
    tensors, _ = read_tensors(shared(f"goldens/{name}.safetensors"))
    return {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_one_to_zero(schedule):
    r = np.linspace(0, 1, 50)
    ratio = mask_ratio(schedule, r, tokens=64)
    assert ratio[0] == (1 - 1 / 64 if schedule == "exp" else 1)
    assert abs(ratio[-1]) < 1e-12 and (np.diff(ratio) <= 0).all()
    np.testing.assert_allclose(mask_ratio(schedule, jnp.asarray(r, jnp.float32), tokens=64), ratio, atol=1e-3)


def test_schedules_are_those_of_the_official_code(shared):
    io = golden(shared, "maskgit_transformer")
    names = {
        "uniform": "linear",
        **{n: n for n in ("cosine", "log", "exp", "pow0.5", "pow2", "pow2.5", "pow3")},
    }
    assert {key for key in io if key.startswith("schedule.")} == {f"schedule.{n}" for n in [*names, "ratio"]}
    for theirs, ours in names.items():
        ratio = mask_ratio(ours, io["schedule.ratio"], tokens=16)
        np.testing.assert_allclose(ratio, io[f"schedule.{theirs}"], atol=1e-5, err_msg=theirs)


def test_training_masks_of_the_halton_code_are_those_of_the_schedules(shared):
    io = golden(shared, "halton_transformer")
    names = {"root": "sqrt", "linear": "linear", "square": "square", "cosine": "cosine", "arccos": "arccos"}
    for theirs, ours in names.items():
        ratio = mask_ratio(ours, io["train_mask.r"])[:, None, None]
        np.testing.assert_array_equal(io["train_mask.uniform"] < ratio, io[f"train_mask.{theirs}"])


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(SCHEDULES),
    st.integers(1, 20),
    st.integers(2, 40),
    st.integers(0, 5),
    st.sampled_from(["masked", "known"]),
)
def test_every_step_makes_a_token_known_until_one_is_left(schedule, steps, tokens, start, rounding):
    start = min(start, steps - 1)
    table = masked_after(schedule, steps, tokens, start, rounding)
    assert table.shape == (steps - start, tokens + 1) and table.dtype == np.int32
    assert (table[-1] == 0).all() and (table[:, 0] == 0).all() and (table <= np.arange(tokens + 1)).all()
    before = np.arange(tokens + 1)
    for left in table[:-1]:
        assert ((left < before) | (before <= 1)).all() and (left[1:] >= 1).all()
        before = left


def test_counts_are_those_of_the_official_code(shared):
    for name in ("titok_maskgit_bert", "titok_maskgit_uvit"):
        io = golden(shared, name)
        runs = [key.split(".")[1] for key in io if key.endswith(".n_masked")]
        assert len(runs) == 5
        for run in runs:
            counts = io[f"generate.{run}.n_masked"]  # before each step
            table = masked_after("arccos", len(counts), 16)
            np.testing.assert_array_equal(table[:-1, 16], counts[1:, 0], err_msg=run)
    io = golden(shared, "maskgit_transformer")
    runs = {"full": ("cosine", 8, 0), "edit": ("cosine", 6, 2), "square": ("pow2", 5, 0)}
    for run, (schedule, steps, start) in runs.items():
        unknown = np.sum(io[f"decode.{run}.inputs"] == -1, axis=1)
        found = masked_after(schedule, steps, 16, start)[:, unknown]
        # Official ratios are float32: a product that is a whole number may end just below it.
        exact = unknown * mask_ratio(schedule, np.arange(start + 1, steps + 1) / steps)[:, None]
        clear = np.abs(exact - np.round(exact)) > 1e-5
        # One mask is left in the official state after the last step, whose draw is complete.
        difference = (found - io[f"decode.{run}.masks_after_step"])[:-1]
        assert not difference[clear[:-1]].any() and set(difference.ravel()) <= {0, 1}
        assert clear[:-1].mean() > 0.8


def test_the_halton_order_is_that_of_the_official_code(shared):
    io = golden(shared, "halton_transformer")
    for side in (4, 8, 16, 24):
        places = np.stack(np.unravel_index(halton_order((side, side)), (side, side)), axis=1)
        np.testing.assert_array_equal(places, io[f"halton.order{side}"])
    for steps, side in ((12, 16), (32, 16), (32, 24), (6, 4)):
        known = side**2 - masked_after("arccos", steps, side**2, rounding="known")[:, side**2]
        # A product that is a whole number is rounded either way, by the order of its factors.
        exact = side**2 * (1 - mask_ratio("arccos", np.arange(1, steps + 1) / steps))
        clear = np.abs(exact - np.round(exact)) > 1e-5
        difference = known - io[f"halton.revealed.S{steps}.N{side}"]
        assert not difference[clear].any() and set(difference) <= {0, 1} and clear.mean() > 0.7


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (1, 6), (2, 3, 4)])
def test_the_halton_order_visits_every_cell_once(shape):
    assert sorted(halton_order(shape)) == list(range(np.prod(shape)))


def test_neighbours_in_the_halton_order_lie_far_apart():
    order, rng = halton_order((8, 8)), np.random.default_rng(0)

    def distance(order):
        places = np.stack(np.unravel_index(order.reshape(8, 8), (8, 8)), axis=-1)  # eight runs of eight cells
        pairs = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
        return np.where(pairs > 0, pairs, np.inf).min(-1).mean()

    random = [distance(rng.permutation(64)) for _ in range(20)]
    assert distance(order) > max(random)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_the_least_certain_stay_masked_and_what_is_known_stays_known(seed):
    rng = np.random.default_rng(seed)
    masked, score = rng.random((3, 9)) < 0.6, rng.integers(0, 5, (3, 9)).astype(np.float32)
    count = rng.integers(0, masked.sum(1) + 1)
    found = np.asarray(keep_masked(jnp.asarray(score), jnp.asarray(masked), jnp.asarray(count)))
    np.testing.assert_array_equal(found.sum(1), count)
    assert not (found & ~masked).any()
    for row in range(3):
        revealed = score[row][masked[row] & ~found[row]]
        assert not found[row].any() or not revealed.size or score[row][found[row]].max() <= revealed.min()


def test_random_masks_have_their_count_and_no_favourites():
    count = jnp.asarray([3] * 4000)
    masked = np.asarray(random_masked(jax.random.uniform(jax.random.key(0), (4000, 8)), count))
    assert (masked.sum(1) == 3).all()
    assert np.abs(masked.mean(0) - 3 / 8).max() < 4.5 * np.sqrt(3 / 8 * 5 / 8 / 4000)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mask_ratio("sine", 0.5), "mask schedule 'sine'; choose one of"),
        (lambda: mask_ratio("pow0", 0.5), "pow<P> with P > 0"),
        (lambda: mask_ratio("log", 0.5), "needs tokens of at least 2"),
        (lambda: masked_after("cosine", 0, 4), "steps=0 must be at least 1"),
        (lambda: masked_after("cosine", 3, 4, start=3), r"start=3 in \[0, 3\)"),
        (lambda: halton_order((0, 3)), "one to 5 axes"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
