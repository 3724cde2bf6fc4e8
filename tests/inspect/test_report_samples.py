"""Samples of every kind of signal in the report."""

import json

import numpy as np

from jaxtok.inspect.report_samples import samples_section
from jaxtok.modality.audio import AudioModality
from jaxtok.modality.image import IMAGE
from jaxtok.modality.motion import MotionModality
from jaxtok.modality.text import TextModality


def test_every_kind_is_shown_as_what_it_is(tmp_path):
    for kind, values in (
        (IMAGE, np.zeros((1, 4, 4, 1), np.uint8)),
        (AudioModality(800), np.zeros((1, 40, 1), np.float32)),
        (MotionModality(5.0, ((0, 1),)), np.random.default_rng(0).standard_normal((1, 3, 4))),
        (TextModality(), np.frombuffer(b"<b>hi</b>", np.uint8)[None].astype(np.int32)),
    ):
        kind.write(tmp_path / kind.noun, values, ["000000"])
        (tmp_path / kind.noun / "grid.png").write_bytes(b"not shown")
    row = {"file": "000000.png", "caption": "a <small> star"}
    (tmp_path / "images" / "requests.jsonl").write_text(json.dumps(row) + "\ndamaged\n")
    shown = {kind: samples_section(tmp_path / kind) for kind in ("images", "recordings", "motions", "texts")}
    assert "data:image/png" in shown["images"] and "a &lt;small&gt; star" in shown["images"]
    assert "<audio controls" in shown["recordings"] and "data:audio/wav" in shown["recordings"]
    assert "data:image/gif" in shown["motions"] and "npy" not in shown["motions"]
    assert "<pre>&lt;b&gt;hi" in shown["texts"] and "<b>" not in shown["texts"]
    assert samples_section(tmp_path / "nothing") == ""
