import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import Latents
from jaxtok.inspect import show

pytest.importorskip("treescope")
# 2026-11-28, treescope 0.1.10 with NumPy 2.5: it lists all names of NumPy, a deprecated one among them. Try
# without when treescope is newer.
pytestmark = pytest.mark.filterwarnings("ignore:The chararray class is deprecated:DeprecationWarning")
CODES = np.arange(24, dtype=np.int32).reshape(2, 4, 3)


def text(shown):
    return re.sub(r"<[^>]+>", "", shown._repr_html_())


def test_codes_have_named_axes():
    page = show(CODES, labels={0: "nothing"}).html
    assert all(name in page for name in ("image: 2", "token: 4", "slot: 3")) and "nothing" in page
    assert "image:" not in show(CODES[0]).html and "token: 4" in show(CODES[0]).html
    assert "http" not in re.sub("http://www.w3.org[^\"']*", "", page), "nothing is loaded"
    for other in (np.zeros(3, np.int32), np.zeros((1, 2, 3, 4), np.uint8)):
        assert "token:" not in show(other).html


def test_large_arrays_are_cut():
    large = np.random.default_rng(0).integers(0, 9, (300, 300))
    assert len(show(large, largest=100).html) < len(show(large, largest=100_000).html) / 4


def test_latents_and_parameters():
    page = text(show(Latents(codes=jnp.asarray(CODES))))
    assert "codes" in page and "int32(2, 4, 3)" in page and "mask" in page and "None" in page
    page = text(show({"dense": {"kernel": jnp.ones((3, 5))}, "step": np.int32(7)}))
    assert "kernel" in page and "float32(3, 5)" in page and "7" in page


def test_without_treescope(monkeypatch):
    monkeypatch.setitem(sys.modules, "treescope", None)
    with pytest.raises(ImportError, match=r"jaxtok\[inspect\]"):
        show(CODES)
