"""Every file format on small temporary files: the same ten pictures come back, and mistakes are named."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jaxtok.data.arrayrecord import write_shards
from jaxtok.data.embedded import Digits
from jaxtok.data.folder import ImageFolder
from jaxtok.data.image_data import ImageData
from jaxtok.data.image_files import encode_png
from jaxtok.kinds import kind_named

COUNT = 10
LABELS = [index % 3 for index in range(COUNT)]
CAPTIONS = [f"picture number {index}" for index in range(COUNT)]


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 6, 9, 3), np.uint8)


def write_folder(root, pictures):
    for index, picture in enumerate(pictures):
        file = root / "abc"[LABELS[index]] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(picture))
        file.with_suffix(".txt").write_text(CAPTIONS[index] + "\n")
    return root


def write_parquet(root, pictures, struct=False):
    encoded = [encode_png(picture) for picture in pictures]
    column = [{"bytes": data, "path": None} for data in encoded] if struct else encoded
    for name, rows in (("a", slice(0, 7)), ("b", slice(7, None))):
        columns = {"image": column[rows], "label": LABELS[rows], "caption": CAPTIONS[rows]}
        pq.write_table(pa.table(columns), root / f"{name}.parquet", row_group_size=3)
    return root


def write_tar(root, pictures):
    for name, rows in (("0", range(0, 4)), ("1", range(4, COUNT))):
        with tarfile.open(root / f"{name}.tar", "w") as archive:
            for row in rows:
                if row % 2:
                    about = json.dumps({"caption": CAPTIONS[row], "label": LABELS[row]}).encode()
                    members = {"png": encode_png(pictures[row]), "json": about}
                else:
                    members = {"txt": CAPTIONS[row].encode(), "PNG": encode_png(pictures[row])}
                    members["cls"] = str(LABELS[row]).encode()
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"part/{row:03d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return root


def write_arrayrecord(root, pictures):
    folder = write_folder(root / "images", pictures)
    source = ImageFolder(path=str(folder), channels=3, held_out=0).open("train")
    assert len(list(write_shards(source, root / "packed", records_per_shard=4))) == 3
    return root / "packed"


def write_npz(root, pictures):
    np.savez(root / "x.npz", images=pictures, labels=LABELS, captions=CAPTIONS)
    return root / "x.npz"


def write_npy(root, pictures):
    np.save(root / "x.npy", pictures)
    np.save(root / "labels.npy", LABELS)
    return root / "x.npy"


FORMATS = {
    "folder": write_folder,
    "parquet": write_parquet,
    "webdataset": write_tar,
    "arrayrecord": write_arrayrecord,
    "numpy": write_npz,
}


def opened(source, path, split="train", **options):
    return kind_named(ImageData, source, "source")(
        path=str(path), **({"channels": 3, "held_out": 0} | options)
    ).open(split)


def assert_pictures(source, pictures, captions=True):
    assert len(source) == COUNT
    found = {}
    for index in range(COUNT):
        record = source[index]
        assert record["image"].dtype == np.uint8 and isinstance(record["label"], int) and record["key"]
        found[record["image"].tobytes()] = record["label"], record["caption"]
    expected = zip(LABELS, CAPTIONS if captions else [""] * COUNT)
    assert found == {picture.tobytes(): about for picture, about in zip(pictures, expected)}


@pytest.mark.parametrize("source", FORMATS)
def test_format_gives_pictures_labels_and_captions(source, tmp_path, pictures):
    assert_pictures(opened(source, FORMATS[source](tmp_path, pictures)), pictures)


def test_parquet_of_the_hub_and_npy(tmp_path, pictures):
    assert_pictures(opened("parquet", write_parquet(tmp_path, pictures, struct=True)), pictures)
    assert_pictures(opened("numpy", write_npy(tmp_path, pictures)), pictures, captions=False)


@pytest.mark.parametrize("source", FORMATS)
def test_held_out_records_are_never_trained_on(source, tmp_path, pictures):
    path = FORMATS[source](tmp_path, pictures)
    keys = {}
    for split, seed in (("train", 0), ("eval", 0), ("eval", 1)):
        records = opened(source, path, split, held_out=3, seed=seed)
        keys[split, seed] = {records[index]["key"] for index in range(len(records))}
    assert len(keys["train", 0]) == 7 and len(keys["eval", 0]) == 3
    assert not keys["train", 0] & keys["eval", 0]
    assert keys["eval", 0] == keys["eval", 1]


@pytest.mark.parametrize("source", FORMATS)
def test_identity_follows_the_records_not_the_place(source, tmp_path, pictures):
    places = []
    for name, content in (("one", pictures), ("two", pictures), ("three", pictures[:, :5])):
        (tmp_path / name).mkdir()
        places.append(FORMATS[source](tmp_path / name, content))
    one, two, three = (json.dumps(opened(source, place).identity()) for place in places)
    assert one == two != three


def test_evaluation_files_of_their_own(tmp_path, pictures):
    train = write_folder(tmp_path / "train", pictures)
    (tmp_path / "val" / "c").mkdir(parents=True)
    (tmp_path / "val" / "c" / "x.png").write_bytes(encode_png(pictures[0]))
    source = opened("folder", train, "eval", eval_path=str(tmp_path / "val"))
    assert len(source) == 1 and source[0]["label"] == 2 and source.classes == ("a", "b", "c")
    assert len(opened("folder", train, "train", eval_path=str(tmp_path / "val"))) == COUNT

    (tmp_path / "val" / "d").mkdir()
    (tmp_path / "val" / "d" / "x.png").write_bytes(encode_png(pictures[0]))
    with pytest.raises(ValueError, match=r"class folders \['d'\] that the training folder does not have"):
        opened("folder", train, "eval", eval_path=str(tmp_path / "val"))


def test_images_directly_in_the_folder_have_no_label(tmp_path, pictures):
    (tmp_path / "x.png").write_bytes(encode_png(pictures[0]))
    record = opened("folder", tmp_path)[0]
    assert record["label"] == -1 and record["caption"] == "" and record["key"] == "x.png"


def test_grey_and_colour_on_demand(tmp_path, pictures):
    path = write_npz(tmp_path, pictures)
    assert opened("numpy", path, channels=1)[0]["image"].shape == (6, 9, 1)
    np.save(tmp_path / "grey.npy", pictures[..., 0])
    image = opened("numpy", tmp_path / "grey.npy")[0]["image"]
    assert image.shape == (6, 9, 3) and (image == image[..., :1]).all()


def test_packed_jpegs_keep_their_bytes(tmp_path, pictures):
    file = io.BytesIO()
    Image.fromarray(pictures[0]).save(file, "jpeg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jpg").write_bytes(file.getvalue())
    list(write_shards(opened("folder", tmp_path / "in"), tmp_path / "out", 10))
    assert opened("arrayrecord", tmp_path / "out").raw(0)["image"] == file.getvalue()


def test_packing_embedded_digits(tmp_path):
    digits = Digits().open("eval")
    list(write_shards(digits, tmp_path, 200))
    packed = opened("arrayrecord", tmp_path, channels=1)
    assert packed.classes == digits.classes
    np.testing.assert_array_equal(packed[250]["image"], digits[250]["image"])
    with pytest.raises(ValueError, match="already holds"):
        list(write_shards(digits, tmp_path, 200))


def test_cifar10(shared):
    source = opened("parquet", shared("data/cifar10/train.parquet"))
    assert len(source) == 24_000
    record = source[23_999]
    assert record["image"].shape == (32, 32, 3)
    assert 0 <= record["label"] < 10 and record["caption"].startswith("a photo of a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(image_column="img"), "image_column is 'img', but .* has the columns image, label, caption"),
        (dict(label_column="y"), "label_column is 'y', but .* --data.label-column"),
        (dict(label_column="caption"), "holds string .* must hold integers"),
        (dict(image_column="label"), "must hold binary or a struct with bytes"),
        (dict(caption_column="label"), "must hold strings"),
    ],
)
def test_wrong_column_is_named_with_those_that_exist(options, message, tmp_path, pictures):
    with pytest.raises(ValueError, match=message):
        opened("parquet", write_parquet(tmp_path, pictures), **options)


def test_columns_may_be_absent(tmp_path, pictures):
    record = opened("parquet", write_parquet(tmp_path, pictures), label_column="", caption_column="")[0]
    assert record["label"] == -1 and record["caption"] == ""


@pytest.mark.parametrize("source", FORMATS)
def test_missing_and_empty_paths_are_plain_errors(source, tmp_path):
    with pytest.raises(ValueError, match=r"does not exist|is not a"):
        opened(source, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no .* file|is not a"):
        opened(source, tmp_path)


@pytest.mark.parametrize(
    ("source", "name"),
    [("parquet", "x.parquet"), ("webdataset", "x.tar"), ("arrayrecord", "x.arrayrecord"), ("numpy", "x.npz")],
)
def test_a_file_of_another_format_is_named(source, name, tmp_path):
    (tmp_path / name).write_bytes(b"this is text, whatever the name says" * 40)
    with pytest.raises(ValueError, match=name):
        opened(source, tmp_path / name)


@pytest.mark.parametrize("source", ["folder", "parquet", "webdataset", "arrayrecord"])
def test_unreadable_path(source, tmp_path, pictures, monkeypatch):
    path = FORMATS[source](tmp_path, pictures)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, as in containers, may read everything
    with pytest.raises(ValueError, match="may not be read by this user"):
        opened(source, path)


def test_folder_that_cannot_be_listed(tmp_path, pictures, monkeypatch):
    path = write_parquet(tmp_path, pictures)

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="cannot be listed: Permission denied"):
        opened("parquet", path)


def test_a_file_is_not_a_folder_of_images(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is not a folder"):
        opened("folder", tmp_path / "x.png")


def test_float_images_and_miscounted_labels(tmp_path, pictures):
    np.save(tmp_path / "x.npy", pictures.astype(np.float32))
    with pytest.raises(ValueError, match=r"float32 of shape .* must be uint8"):
        opened("numpy", tmp_path / "x.npy")
    np.savez(tmp_path / "y.npz", images=pictures, labels=[1, 2])
    with pytest.raises(ValueError, match="10 images but 2 labels"):
        opened("numpy", tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", pixels=pictures)
    with pytest.raises(ValueError, match="no array named 'images'"):
        opened("numpy", tmp_path / "z.npz")


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x\.npy cannot be read"):
        opened("numpy", tmp_path / "x.npy")


def test_held_out_must_leave_something_on_both_sides(tmp_path, pictures):
    path = write_npz(tmp_path, pictures)
    with pytest.raises(ValueError, match="reserves 10 of 10 records"):
        opened("numpy", path, held_out=10)
    with pytest.raises(ValueError, match="no evaluation split"):
        opened("numpy", path, "eval", held_out=0)


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(ImportError, match=r'pip install "jaxtok\[data\]"'):
        opened("parquet", tmp_path)


def test_hidden_files_are_skipped_and_globs_work(tmp_path, pictures):
    write_parquet(tmp_path, pictures)
    (tmp_path / ".hidden.parquet").write_bytes(b"")
    assert len(opened("parquet", tmp_path)) == COUNT
    assert len(opened("parquet", Path(tmp_path, "a*.parquet"))) == 7
