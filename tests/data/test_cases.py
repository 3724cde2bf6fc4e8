"""Small inputs that went wrong once, in ../shared/cases, and others of their kinds."""

import io
import json
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jaxtok.data.errors import BadRecord, notice
from jaxtok.data.image_data import ImageData
from jaxtok.data.image_files import decode_image, encode_png
from jaxtok.kinds import kind_named

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(autouse=True)
def _every_notice_counts():
    notice.cache_clear()


def opened(source, path, split="train", **options):
    return kind_named(ImageData, source, "source")(
        path=str(path), **({"channels": 3, "held_out": 0} | options)
    ).open(split)


def captions(source):
    return [source[index]["caption"] for index in range(len(source))]


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def picture(number):
    return encode_png(np.full((4, 4, 3), number, np.uint8))


# --- WebDataset


def test_members_that_do_not_stand_together_are_joined_by_key(shared):
    source = opened("webdataset", shared("cases/webdataset/apart.tar"))
    records = [source[index] for index in range(len(source))]
    assert len(records) == 20 and all(record["caption"] and record["label"] >= 0 for record in records)


def test_names_with_dots_lose_nothing(shared):
    source = opened("webdataset", shared("cases/webdataset/dots.tar"))
    assert len(source) == 20 and all(captions(source))


@pytest.mark.parametrize(
    ("name", "members"), [("dup", ("000.png", "000.png")), ("two-images", ("000.jpg", "000.png"))]
)
def test_two_members_for_one_part_of_a_sample_are_refused(shared, name, members):
    path = shared(f"cases/webdataset/{name}.tar")
    with pytest.raises(ValueError, match=f"{name}.tar has two members .*{members[0]} and {members[1]}"):
        opened("webdataset", path)


def test_missing_captions_in_json_are_empty(shared):
    found = captions(opened("webdataset", shared("cases/webdataset/null.tar")))
    assert found[:3] == ["cap 0", "", "cap 2"] and not {"None", "nan"} & set(found)


def test_json_in_which_nothing_is_read_is_named(tmp_path, caplog):
    members = [("0.png", picture(0)), ("0.json", b'{"prompt": "a", "url": "b"}')]
    opened("webdataset", write_tar(tmp_path / "x.tar", [*members, ("1.png", picture(1))]))
    assert "x.tar 0: of .json members only 'caption' and 'label' are read" in caplog.text
    assert "holds prompt, url" in caplog.text


def test_several_images_that_only_dots_tell_apart_are_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.1.png", picture(1)), ("a.2.png", picture(2))])
    with pytest.raises(ValueError, match=r"a\.1\.png and a\.2\.png"):
        opened("webdataset", path)


def test_members_that_are_not_read_are_named(tmp_path, caplog):
    members = [("a.png", picture(1)), ("a.seg.png", picture(9)), ("a.npy", b"x"), ("b.txt", b"alone")]
    source = opened("webdataset", write_tar(tmp_path / "x.tar", members))
    assert len(source) == 1 and source[0]["image"][0, 0, 0] == 1
    assert "2 members" in caplog.text and "1 .seg.png" in caplog.text and "1 .npy" in caplog.text
    assert "1 keys" in caplog.text


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("json", b'{"caption": ["a", "b"]}'),
        ("json", b'{"label": Infinity}'),
        ("json", b'{"label": 1e300}'),
        ("json", b'{"label": 4294967296}'),
        ("json", b"[" * 100_000),
        ("json", b"[]"),
        ("cls", b"-3"),
        ("cls", b"dog"),
        ("txt", "caf\u00e9".encode("latin-1")),
    ],
)
def test_one_bad_record_is_a_bad_record(tmp_path, suffix, content):
    members = [("a.png", picture(1)), (f"a.{suffix}", content), ("b.png", picture(2))]
    source = opened("webdataset", write_tar(tmp_path / "x.tar", members))
    with pytest.raises(BadRecord, match=r"x\.tar a"):
        source[0]
    assert source[1]["label"] == -1


def test_a_member_larger_than_its_shard_is_a_bad_record(tmp_path):
    """A GNU sparse member says 2**45 bytes and holds none."""
    member = tarfile.TarInfo("a.png")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = tarfile.itn(2**45, 12, tarfile.GNU_FORMAT)  # the size when unpacked
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    path = write_tar(tmp_path / "x.tar", [("b.png", picture(2))])
    path.write_bytes(bytes(header) + path.read_bytes())
    source = opened("webdataset", path)
    with pytest.raises(BadRecord, match="sparse"):
        source[0]
    assert source[1]["image"][0, 0, 0] == 2


# --- folders


def write_pictures(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    return root


def test_folders_without_images_are_no_classes(shared):
    source = opened("folder", shared("cases/folder/macos-zip"))
    assert source.classes == ("cat", "dog") and len(source) == 8
    assert {source[index]["label"] for index in range(8)} == {0, 1}


def test_folders_of_folders_are_named(tmp_path, caplog):
    for name in ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(len(name)))
    assert opened("folder", tmp_path).classes == ("train", "val")
    assert (
        "its sub-folders (train, val) are the classes, and all images lie in folders further" in caplog.text
    )
    caplog.clear()
    opened("folder", tmp_path / "train")
    assert "further down" not in caplog.text


def test_other_files_of_a_folder_are_named(tmp_path, caplog):
    write_pictures(tmp_path, "cat/0.png", "dog/1.jfif")
    for name in ("annotations/0.xml", "cat/0.heic", "alone.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    source = opened("folder", tmp_path)
    assert source.classes == ("cat", "dog") and source.labels().tolist() == [0, 1]
    assert "2 files" in caplog.text and "1 .heic" in caplog.text and "1 .xml" in caplog.text
    assert "alone.txt" in caplog.text


def test_caption_files_in_any_encoding_and_under_any_name_are_read(shared):
    source = opened("folder", shared("cases/captions"), channels=1)
    found = {}
    for index in range(len(source)):
        try:
            found[source.files[index][:1]] = source[index]["caption"]
        except BadRecord as error:
            found[source.files[index][:1]] = error
    assert isinstance(found["3"], BadRecord) and "UTF-8" in str(found["3"])  # Latin-1
    assert found["5"] == "a cat\nsecond line"
    assert {found[key] for key in "01246"} == {"a cat"} and all(found[key] for key in "78")


def test_an_image_with_two_captions_is_refused(tmp_path):
    write_pictures(tmp_path, "0.png")
    for name in ("0.txt", "0.png.txt"):
        (tmp_path / name).write_text(name)
    with pytest.raises(ValueError, match=r"0\.png .*two captions, 0\.png\.txt and 0\.txt"):
        opened("folder", tmp_path)


def test_a_folder_that_is_named_like_a_caption_is_none(tmp_path):
    write_pictures(tmp_path, "1.png", "1.txt/0.png")
    assert captions(opened("folder", tmp_path)) == ["", ""]


def test_each_file_is_read_once_whatever_links_there_are(tmp_path, caplog):
    write_pictures(tmp_path / "data", "a/0.png", "a/1.png", "b/2.png")
    (tmp_path / "data" / "b" / "up").symlink_to(tmp_path / "data")  # a loop
    (tmp_path / "data" / "b" / "again.png").symlink_to(tmp_path / "data" / "a" / "0.png")
    os.link(tmp_path / "data" / "a" / "1.png", tmp_path / "data" / "b" / "hard.png")
    source = opened("folder", tmp_path / "data")
    assert [name.replace(os.sep, "/") for name in source.files] == ["a/0.png", "a/1.png", "b/2.png"]
    assert "each file is read once" in caplog.text


def test_a_link_that_leads_nowhere_is_a_bad_record(tmp_path):
    write_pictures(tmp_path, "1.png", "2.png")
    (tmp_path / "0.png").symlink_to(tmp_path / "nowhere.png")
    source = opened("folder", tmp_path)
    with pytest.raises(BadRecord, match=r"0\.png: No such file"):
        source[0]
    assert source[1]["key"] == "1.png" and json.dumps(source.identity())


def test_evaluation_files_are_not_trained_on(tmp_path):
    write_pictures(tmp_path, "cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "cat").symlink_to(tmp_path / "cat")
    train, evaluation = (
        opened("folder", tmp_path, split, eval_path=str(tmp_path / "held")) for split in ("train", "eval")
    )
    assert {name.replace(os.sep, "/") for name in train.files} == {"dog/2.png", "dog/3.png"}
    assert len(evaluation) == 2


def test_a_shard_that_was_cut_between_two_members_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [(f"{number}.png", picture(number)) for number in range(3)])
    with tarfile.open(path) as archive:
        last = archive.getmembers()[2].offset
    whole = path.read_bytes()
    path.write_bytes(whole[:last])
    with pytest.raises(ValueError, match=r"x\.tar cannot be read .* no end mark, so it was cut short"):
        opened("webdataset", path)
    path.write_bytes(whole)
    assert len(opened("webdataset", path)) == 3


def test_shards_for_both_splits_are_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.png", picture(1))])
    with pytest.raises(ValueError, match=r"x\.tar is in data\.path and in data\.eval_path"):
        opened("webdataset", path, eval_path=str(tmp_path))


# --- pictures


def case(shared, name):
    return shared(f"cases/pictures/{name}").read_bytes()


@pytest.mark.parametrize(
    ("name", "white"), [("02-u12in16.png", 4095.0), ("03-float01.tif", 0.0), ("05-i32.tif", 2.0**31)]
)
def test_deep_pictures_are_scaled_or_refused(shared, name, white):
    encoded = case(shared, name)
    if white:
        with pytest.raises(BadRecord, match=r"--data\.white"):
            decode_image(encoded, 1, name)
    found = decode_image(encoded, 1, name, white=white)
    assert found.max() > 128 or white == 2**31
    assert len(np.unique(found)) > 4 or white == 2**31


def test_the_32_bit_picture_with_its_white(shared):
    with Image.open(shared("cases/pictures/05-i32.tif")) as image:
        values = np.asarray(image)
    found = decode_image(case(shared, "05-i32.tif"), 1, "x", white=float(values.max()))
    np.testing.assert_allclose(found[..., 0], values * (255 / values.max()), atol=0.51)


@pytest.mark.parametrize("name", ["08-cmyk.jpg", "13-anim.gif", "18-rgb16.png"])
def test_other_pictures_stay_right(shared, name):
    found = decode_image(case(shared, name), 3, name)
    with Image.open(shared(f"cases/pictures/{name}")) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("values", [[0.0, 255.0], [-0.5, 0.5], [0.0, np.nan]])
def test_float_pictures_outside_their_range_are_refused(values):
    file = io.BytesIO()
    Image.fromarray(np.array([values], np.float32)).save(file, "tiff")
    with pytest.raises(BadRecord, match="white is 1; say what white is"):
        decode_image(file.getvalue(), 1, "x")


def test_only_listed_formats_are_opened():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    with pytest.raises(BadRecord, match="in none of the image formats JPEG, PNG"):
        decode_image(eps, 3, "x.png")


def test_huge_pictures_are_refused_before_they_are_decoded():
    file = io.BytesIO()
    Image.new("1", (3000, 2000)).save(file, "png")
    with pytest.raises(BadRecord, match=r"3000 x 2000 is more than 5,000,000 pixels.*--data\.max-pixels"):
        decode_image(file.getvalue(), 1, "x", max_pixels=5_000_000)
    file = io.BytesIO()
    Image.new("1", (13_000, 13_000)).save(file, "png")
    with pytest.raises(BadRecord, match="more than 89,478,485 pixels"):
        decode_image(file.getvalue(), 1, "x")


# --- tables and arrays


@pytest.mark.parametrize(
    ("name", "column"), [("10-duplicate-image", "image"), ("11-duplicate-caption", "caption")]
)
def test_repeated_columns_are_named(shared, name, column):
    with pytest.raises(ValueError, match=f"2 columns named '{column}'"):
        opened("parquet", shared(f"cases/parquet/{name}.parquet"))


@pytest.mark.parametrize("name", ["04-view", "02-dictionary-caption", "05-null-caption-label"])
def test_columns_of_other_libraries_are_read(shared, name):
    source = opened("parquet", shared(f"cases/parquet/{name}.parquet"))
    records = [source[index] for index in range(len(source))]
    assert any(record["caption"] for record in records) and "None" not in {r["caption"] for r in records}
    assert source.labels().tolist() == [record["label"] for record in records]


def test_list_columns_are_refused(tmp_path):
    table = pa.table({"image": [picture(0)], "label": [1], "caption": [["a", "b"]]})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"caption.*holds list<.*must hold strings"):
        opened("parquet", tmp_path)


def test_captions_of_a_table_that_are_not_utf8_are_bad_records(tmp_path):
    text = pa.array([b"caf\xe9", b"tea"]).view(pa.string())
    pq.write_table(
        pa.table({"image": [picture(0), picture(1)], "label": [0, 1], "caption": text}),
        tmp_path / "x.parquet",
    )
    source = opened("parquet", tmp_path)
    with pytest.raises(BadRecord, match="row 0"):
        source[0]
    assert source[1]["caption"] == "tea"


@pytest.mark.parametrize("name", ["15-onehot", "17-label-col"])
def test_labels_in_columns_are_read(shared, name):
    path = shared(f"cases/arrays/{name}.npz")
    source = opened("numpy", path, channels=1)
    stored = np.load(path)["labels"]
    expected = stored[:, 0] if stored.shape[1] == 1 else stored.argmax(axis=1)
    assert source.labels().tolist() == expected.tolist() == [source[i]["label"] for i in range(len(source))]


@pytest.mark.parametrize("labels", [np.ones((3, 2)), np.full(3, 0.5), np.array(["a", "b", "c"])])
def test_other_labels_are_refused_on_opening(tmp_path, labels):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4), np.uint8), labels=labels)
    with pytest.raises(ValueError, match=r"the labels in .* but must be integers"):
        opened("numpy", tmp_path / "x.npz")


def test_numbers_are_no_captions(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), captions=np.array([np.nan, 1.0]))
    with pytest.raises(ValueError, match="must be strings"):
        opened("numpy", tmp_path / "x.npz")
