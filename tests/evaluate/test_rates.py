import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.evaluate import rates


def test_nominal_rates():
    np.testing.assert_allclose(rates.bits_per_pixel(CodeSpace((4096,)), 256, 256, 256), 0.046875)
    np.testing.assert_allclose(rates.bits_per_pixel(CodeSpace((4096,) * 8), 256, 256, 256), 0.375)
    assert rates.bits_per_image(CodeSpace((2,) * 64), 128) == 8192
    assert rates.bits_per_token(CodeSpace((2,) * 64)) == 64
    assert rates.kilobits_per_second(CodeSpace((1024,) * 8), 75.0) == 6
    per_token, per_pixel = rates.nominal_rates(CodeSpace((4096,)), 256, 256, 256, split="eval")
    assert (per_token.value, per_pixel.value) == (12, 0.046875)
    assert per_pixel.protocol == {"tokens": 256, "slots": 1, "size": [256, 256], "split": "eval"}


def test_rates_of_a_prior():
    space = CodeSpace((16, 16))
    uniform = {r.name: r for r in rates.entropy_coded_rates(np.log(16), space, 64, 32, 16, split="eval")}
    np.testing.assert_allclose(uniform["entropy_coded_bits_per_token"].value, space.bits)
    np.testing.assert_allclose(uniform["entropy_coded_bits_per_image"].value, 512)
    np.testing.assert_allclose(uniform["entropy_coded_bits_per_pixel"].value, 1)
    np.testing.assert_allclose(uniform["entropy_coded_share"].value, 1)
    assert uniform["entropy_coded_share"].protocol["split"] == "eval"
    half = rates.entropy_coded_rates(np.log(4), space, 64, 32, 16, bound="elbo")[-1]
    np.testing.assert_allclose(half.value, 0.5)
    assert half.protocol["rate"] == "elbo"
    for wrong in ((-1.0, 64), (1.0, 0), (float("nan"), 64)):
        with pytest.raises(ValueError, match="cross-entropy >= 0"):
            rates.entropy_coded_rates(wrong[0], space, wrong[1], 32, 32)


def test_other_units():
    np.testing.assert_allclose(rates.bits_per_dimension(3072 * np.log(2) * 3.5, 3072), 3.5)
    np.testing.assert_allclose(rates.bits_per_byte(8 * np.log(2), ["\u00e4", "ab"]), 2)
    with pytest.raises(ValueError, match="without a byte"):
        rates.bits_per_byte(1.0, [""])
