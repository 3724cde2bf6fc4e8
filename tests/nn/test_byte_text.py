import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtok.nn.byte_text import BYTE_VOCAB, END, byte_ids


def test_a_short_text_is_padded_on_the_right():
    ids, mask = byte_ids(["ab"], 4)
    assert ids.tolist() == [[98, 99, 0, 0]]
    assert mask.tolist() == [[True, True, False, False]]
    assert ids.dtype == np.int32 and mask.dtype == bool


def test_an_empty_text_is_one_end_token():
    ids, mask = byte_ids([""], 3)
    assert ids.tolist() == [[END, 0, 0]]
    assert mask.sum() == 1


@given(st.lists(st.text(), max_size=4), st.integers(1, 20))
def test_ids_spell_the_beginning_of_the_text(texts, length):
    ids, mask = byte_ids(texts, length)
    assert ids.shape == mask.shape == (len(texts), length)
    for text, row, kept in zip(texts, ids, mask):
        assert kept.any() and (np.diff(kept.astype(int)) <= 0).all()  # at least one, and right-padded
        assert ((row >= 0) & (row < BYTE_VOCAB)).all() and (kept == (row != 0)).all()
        spelled = bytes(int(token) - 1 for token in row[kept] if token != END)
        assert spelled == text.encode()[:length]


def test_no_room_for_a_token_is_refused():
    with pytest.raises(ValueError, match="text length is 0"):
        byte_ids(["a"], 0)
