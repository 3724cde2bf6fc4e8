"""Statistics of a reference set as a file, so that it is passed through the feature network once.

The layout is that of ADM and pytorch-fid: an `.npz` with `mu` [D] and `sigma` [D, D] (and `mu_s`, `sigma_s`
of spatial features). Files of theirs can be read; what we write can be read by them, and says besides what it
was made of. A reference is known by a hash: of its images where they were seen here, so that it is the same
on every machine, otherwise of the numbers in the file.
"""

import dataclasses
import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.evaluate.frechet import Gaussian

_FIELDS = ("mu", "sigma", "mu_s", "sigma_s", "name", "images", "network", "hash")


@dataclasses.dataclass(frozen=True)
class Reference:
    """Moments of a set of images under a feature network.

    Attributes:
      name: which images.
      features: Gaussian of the pooled features.
      spatial: Gaussian of the spatial features, or None.
      images: how many images; 0 if the file does not say.
      network: which network, version and resizing; "" if the file does not say.
      hash: 16 hex digits, of the images; default of the numbers.
    """

    name: str
    features: Gaussian
    spatial: Gaussian | None = None
    images: int = 0
    network: str = ""
    hash: str = ""

    def __post_init__(self):
        if not self.hash:
            digest = hashlib.sha256()
            for gaussian in (self.features, self.spatial):
                for part in gaussian or ():
                    digest.update(np.ascontiguousarray(part, "<f8").tobytes())
            object.__setattr__(self, "hash", digest.hexdigest()[:16])

    def save(self, path: str | os.PathLike) -> None:
        """Writes an `.npz` file.

        Raises:
          ValueError: another suffix.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"statistics are written as .npz, got {path.name}; rename the file")
        arrays: dict[str, Any] = {
            "mu": self.features.mean,
            "sigma": self.features.covariance,
            "images": np.asarray(self.images),
            "name": np.asarray(self.name),
            "network": np.asarray(self.network),
            "hash": np.asarray(self.hash),
        }
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean, "sigma_s": self.spatial.covariance}
        np.savez(path, **arrays)


def read_reference(path: str | os.PathLike) -> Reference:
    """Reads statistics of ours, of ADM or of pytorch-fid.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no `.npz` file, has no `mu` and `sigma`, or their shapes do not belong together.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:  # ADM's files hold the images too: they stay on disk
            names = file.files
            arrays = {field: file[field] for field in _FIELDS if field in names}
    except (ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file of arrays ({error}); statistics need one") from error
    features = _gaussian(path, arrays, "")
    if features is None:
        raise ValueError(
            f"{path} holds {sorted(names)[:5]}, statistics need 'mu' and 'sigma'; a file of images has to go "
            "through the feature network first"
        )
    return Reference(
        str(arrays["name"]) if "name" in arrays else path.stem,
        features,
        _gaussian(path, arrays, "_s"),
        int(arrays["images"]) if "images" in arrays else 0,
        str(arrays["network"]) if "network" in arrays else "",
        str(arrays["hash"]) if "hash" in arrays else "",
    )


def _gaussian(path: Path, arrays: dict[str, np.ndarray], suffix: str) -> Gaussian | None:
    mean, covariance = arrays.get(f"mu{suffix}"), arrays.get(f"sigma{suffix}")
    if mean is None or covariance is None:
        return None
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise ValueError(
            f"{path}: mu{suffix} {mean.shape} and sigma{suffix} {covariance.shape}; expected [D] and [D, D]"
        )
    return Gaussian(mean.astype(np.float64), covariance.astype(np.float64))
