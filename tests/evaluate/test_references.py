import dataclasses

import numpy as np
import pytest

from jaxtok.evaluate.frechet import Gaussian, moments_of
from jaxtok.evaluate.references import Reference, read_reference
from tests.evaluate.sheet import A, B


def made():
    return Reference("waves", moments_of(A).gaussian(), moments_of(B[:, :2]).gaussian(), 64, "toy 1, area")


def test_a_file_gives_back_everything(tmp_path):
    reference = made()
    reference.save(tmp_path / "waves.npz")
    back = read_reference(tmp_path / "waves.npz")
    assert (back.name, back.images, back.network) == ("waves", 64, "toy 1, area")
    assert back.hash == reference.hash and len(back.hash) == 16
    np.testing.assert_array_equal(back.features.covariance, reference.features.covariance)
    np.testing.assert_array_equal(back.spatial.mean, reference.spatial.mean)
    with np.load(tmp_path / "waves.npz") as file:  # what ADM and pytorch-fid look for
        assert {"mu", "sigma", "mu_s", "sigma_s"} <= set(file.files)


def test_files_of_others_are_read(tmp_path):
    mean, covariance = made().features
    np.savez(tmp_path / "VIRTUAL.npz", mu=mean, sigma=covariance.astype(np.float32), arr_0=np.zeros(3))
    back = read_reference(tmp_path / "VIRTUAL.npz")
    assert (back.name, back.images, back.network, back.spatial) == ("VIRTUAL", 0, "", None)
    assert back.features.covariance.dtype == np.float64
    again = Reference("", back.features)
    assert again.hash == back.hash != made().hash
    assert dataclasses.replace(again, features=Gaussian(mean + 1e-9, covariance), hash="").hash != back.hash


def test_files_of_something_else_are_refused(tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="statistics need 'mu' and 'sigma'"):
        read_reference(tmp_path / "images.npz")
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(ValueError, match=r"mu \(3,\) and sigma \(2, 2\); expected \[D\] and \[D, D\]"):
        read_reference(tmp_path / "odd.npz")
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(ValueError, match=r"no \.npz file of arrays"):
        read_reference(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        read_reference(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"written as \.npz"):
        made().save(tmp_path / "waves.npy")
