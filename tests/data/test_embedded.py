import json

import numpy as np
import pytest

from jaxtok.data.embedded import DIGIT_NAMES, Digits, Photos
from jaxtok.data.shapes import (
    BACKGROUNDS,
    COLORS,
    RELATIONS,
    SHAPES,
    SIZES,
    Shapes,
    caption,
    draw,
    random_scene,
)


def test_digits_are_split_for_good():
    train, held_out = (Digits().open(split) for split in ("train", "eval"))
    assert (len(train), len(held_out)) == (1500, 297)
    record = train[0]
    assert record["image"].shape == (8, 8, 1) and record["image"].dtype == np.uint8
    assert record["caption"] == f"a handwritten {DIGIT_NAMES[record['label']]}"
    images = np.stack([train[index]["image"] for index in range(1500)])
    assert images.min() == 0 and images.max() == 255
    assert len({held_out[index]["label"] for index in range(297)}) == 10
    again = Digits(seed=5).open("eval")
    assert all((held_out[index]["image"] == again[index]["image"]).all() for index in range(297))


def test_photos_hold_one_photograph_out():
    train, held_out = (Photos(channels=3).open(split) for split in ("train", "eval"))
    labels = [{source[index]["label"] for index in range(60)} for source in (train, held_out)]
    assert labels[0] == set(range(6)) and labels[1] == {6}
    record = train[3]
    height, width, channels = record["image"].shape
    assert height == width >= 128 and channels == 3
    assert record["image"].std() > 5
    assert record["caption"] == f"part of a photo of {train.classes[record['label']]}"
    assert Photos(channels=1).open("train")[0]["image"].shape[-1] == 1


def scenes(count):
    return [random_scene(np.random.default_rng(seed)) for seed in range(count)]


def inked(scene, thing, size):
    """Where the picture has (nearly) the object's own colour."""
    difference = np.abs(draw(scene, size).astype(int) - np.array(thing["rgb"])).max(axis=-1)
    return difference <= 1


@pytest.mark.parametrize("size", [48, 96])
def test_pixels_agree_with_the_scene(size):
    for scene in scenes(60):
        middles = []
        for thing in scene["objects"]:
            rows, columns = np.nonzero(inked(scene, thing, size))
            assert len(rows) > 0.15 * (thing["radius"] * size) ** 2
            # Boxes around the ink; a triangle and a star are not as tall above as below their centre.
            x, y = (columns.min() + columns.max() + 1) / 2 / size, (rows.min() + rows.max() + 1) / 2 / size
            assert (
                abs(x - thing["x"]) < 0.25 * thing["radius"] and abs(y - thing["y"]) < 0.25 * thing["radius"]
            )
            middles.append((x, y))
        if scene["relation"]:
            (ax, ay), (bx, by) = middles
            seen = {"left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by}
            assert max(seen, key=seen.get) == scene["relation"]


def test_sizes_are_seen():
    areas = {name: [] for name in SIZES}
    for scene in scenes(100):
        for thing in scene["objects"]:
            if thing["shape"] == "square":
                areas[thing["size"]].append(inked(scene, thing, 64).sum())
    assert max(areas["small"]) < min(areas["large"])


def test_caption_says_what_the_scene_is():
    scene = {
        "background": "grey",
        "objects": [
            {"shape": "star", "color": "red", "size": "small"},
            {"shape": "ring", "color": "blue", "size": "large"},
        ],
        "relation": "above",
    }
    assert caption(scene) == "a small red star above a large blue ring on grey"
    assert caption(scene | {"objects": scene["objects"][:1], "relation": None}) == "a small red star on grey"


def test_scenes_cover_everything_and_keep_objects_apart():
    all_scenes = scenes(400)
    things = [thing for scene in all_scenes for thing in scene["objects"]]
    assert {thing["shape"] for thing in things} == set(SHAPES)
    assert {thing["color"] for thing in things} == set(COLORS)
    assert {thing["size"] for thing in things} == set(SIZES)
    assert {scene["background"] for scene in all_scenes} == set(BACKGROUNDS)
    assert {scene["relation"] for scene in all_scenes} == {*RELATIONS, None}
    assert max(len(caption(scene)) for scene in all_scenes) <= 72
    for scene in all_scenes:
        for thing in scene["objects"]:
            assert all(thing["radius"] <= thing[axis] <= 1 - thing["radius"] for axis in "xy")
        if scene["relation"]:
            a, b = scene["objects"]
            assert np.hypot(a["x"] - b["x"], a["y"] - b["y"]) > a["radius"] + b["radius"]


def test_edges_are_antialiased_and_sizes_agree():
    scene = scenes(1)[0]
    small, large = draw(scene, 32).astype(float), draw(scene, 128).astype(float)
    pooled = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small).mean() < 1
    assert np.abs(pooled - small).max() < 64  # a hard edge would be off by up to a whole colour step


def test_records_are_functions_of_split_and_index():
    data = Shapes(channels=3, image_sizes=(16, 24))
    train, again, held_out = (data.open(split) for split in ("train", "train", "eval"))
    record = train[5]
    np.testing.assert_array_equal(record["image"], again[5]["image"])
    assert record["image"].shape == (24, 24, 3)  # drawn for the largest resolution
    assert record["caption"] != held_out[5]["caption"]
    scene = json.loads(record["scene"])
    assert caption(scene) == record["caption"] and SHAPES[record["label"]] == scene["objects"][0]["shape"]
    np.testing.assert_array_equal(draw(scene, 24), record["image"])
