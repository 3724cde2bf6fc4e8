"""Every kind of signal: there and back, what is written, units, and what is refused."""

import wave

import numpy as np
import pytest
from PIL import Image

from jaxtok.modality.audio import AudioModality
from jaxtok.modality.contract import Modality
from jaxtok.modality.image import IMAGE
from jaxtok.modality.motion import MotionModality
from jaxtok.modality.text import TextModality

RNG = np.random.default_rng(0)
AUDIO, MOTION, TEXT = AudioModality(800), MotionModality(10.0, ((0, 1),)), TextModality()
SIGNALS = {
    "image": (IMAGE, RNG.uniform(-1, 1, (2, 4, 6, 3)).astype(np.float32), "pixels", 24),
    "audio": (AUDIO, RNG.uniform(-1, 1, (2, 400, 1)).astype(np.float32), "seconds", 0.5),
    "motion": (MOTION, RNG.standard_normal((2, 5, 4)).astype(np.float32), "frames", 5),
    "text": (TEXT, np.frombuffer(b"hello world!", np.uint8).reshape(2, 6).astype(np.int32), "tokens", 6),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_every_kind_keeps_the_contract(name, tmp_path):
    modality, values, unit, amount = SIGNALS[name]
    assert isinstance(modality, Modality) and hash(modality) == hash(modality)
    found = modality.units(values.shape[1:])
    assert next(iter(found)) == unit and found[unit] == pytest.approx(amount)
    shown = np.asarray(modality.to_user(values))
    files = modality.write(tmp_path, shown, ["a", "b"])
    assert [file.stem for file in files] == ["a", "b"] and all(file.stat().st_size for file in files)
    meter = modality.meter()
    meter.update(shown, shown, np.array([True, False]))
    perfect = meter.results(split="eval")
    assert perfect and all(np.isfinite(r.value) or r.value > 0 for r in perfect)
    for figure in (
        modality.reconstructions(shown, shown, "title"),
        modality.samples(shown, ["one", "two"], 1),
    ):
        assert hasattr(figure, "savefig")


def test_what_is_written_is_what_was_there(tmp_path):
    audio = SIGNALS["audio"][1]
    (file,) = AUDIO.write(tmp_path, audio[:1], ["x"], [100])
    with wave.open(str(file)) as opened:
        read = np.frombuffer(opened.readframes(100), "<i2") / 32767
    np.testing.assert_allclose(read, audio[0, :100, 0], atol=1e-4)
    (file,) = MOTION.write(tmp_path, SIGNALS["motion"][1][:1], ["m"], [3])
    np.testing.assert_array_equal(np.load(file), SIGNALS["motion"][1][0, :3])
    with Image.open(file.with_suffix(".gif")) as moving:
        assert moving.n_frames == 3
    assert TEXT.write(tmp_path, SIGNALS["text"][1], ["t", "u"])[1].read_text() == "world!\n"


def test_arrays_of_users_are_checked():
    whole = (np.clip(SIGNALS["audio"][1], -1, 1) * 32767).astype(np.int16)
    np.testing.assert_allclose(AUDIO.from_user(whole[..., 0]), whole / 32768, atol=1e-6)
    assert TEXT.from_user(["abc", "xyz"]).tolist() == [[97, 98, 99], [120, 121, 122]]
    assert TextModality("ab").from_user("abba").tolist() == [[0, 1, 1, 0]]
    for modality, wrong, message in (
        (AUDIO, np.full((1, 4), 3.0), "leaves"),
        (AUDIO, np.zeros((1, 4), np.int64), "expected int16, or floats"),
        (AUDIO, np.zeros(4), "expected .B, T. or"),
        (MOTION, np.full((1, 2, 2), np.nan), "expected finite values"),
        (TEXT, ["a", "bc"], "texts of different lengths"),
        (TEXT, np.zeros((1, 2)), "expected ids"),
        (TextModality("ab"), "abc", r"characters .'c'. are not in the alphabet"),
    ):
        with pytest.raises(ValueError, match=message):
            modality.from_user(wrong)
    with pytest.raises(ValueError, match="takes no value_range"):
        AUDIO.from_user(whole, value_range=(0, 1))


def test_a_meter_leaves_padding_out():
    meter = AUDIO.meter()
    original, mask = np.ones((1, 4, 1)), np.array([[True, True, False, False]])
    meter.update(original, np.array([[[1.0], [0.0], [9.0], [9.0]]]), None, mask)
    values = {result.name: result.value for result in meter.results()}
    assert values["waveform_l1"] == 0.5 and values["waveform_snr_db"] == pytest.approx(10 * np.log10(2))
    meter = TEXT.meter()
    meter.update(np.array([[1, 2, 3, 4]]), np.array([[1, 9, 3, 9]]), None, mask)
    assert meter.results()[0].value == 0.5
