import subprocess
import sys

import numpy as np
import pytest

from jaxtok.data import check, pack
from jaxtok.data.arrayrecord import ArrayRecordImages
from jaxtok.data.folder import ImageFolder
from jaxtok.data.image_files import encode_png


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(12):
        (folder / f"{index:02d}.png").write_bytes(encode_png(np.full((4, 6, 3), index, np.uint8)))
    (folder / "00.png").write_bytes(b"broken")
    return folder


def test_check_shows_ten_records_and_the_broken_one(folder):
    first, *lines = check.describe(ImageFolder(path=str(folder), channels=3, held_out=0), "train").split("\n")
    assert first == "12 records in split 'train'"
    assert len(lines) == 10
    assert "00.png" in lines[0] and "cannot be decoded" in lines[0]
    assert "4x6x3" in lines[-1] and "[ 11,  11]" in lines[-1] and "11.png" in lines[-1]


def test_pack_then_check(folder, tmp_path):
    (folder / "00.png").unlink()
    data = ImageFolder(path=str(folder), channels=3, held_out=0)
    pack.run(data, pack.Options(tmp_path / "out", records_per_shard=5))
    assert len(list((tmp_path / "out").iterdir())) == 3
    packed = ArrayRecordImages(path=str(tmp_path / "out"), channels=3, held_out=0)
    assert check.describe(packed, "train").startswith("11 records")


def test_mistakes_are_one_line_on_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxtok.data.check", "--source", "folder", "--path", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "holds no" in done.stderr and "Traceback" not in done.stderr
