import numpy as np
import pytest

from jaxtok.data.shapes import ShapeScenes, draw
from jaxtok.evaluate.scenes import (
    SeenObject,
    parse_caption,
    read_scene,
    relation_of,
    scene_matches,
    scene_results,
)


@pytest.fixture(scope="module", params=[32, 64])
def rendered(request):
    source = ShapeScenes("eval", request.param)
    records = [source[index] for index in range(40)]
    return [record["caption"] for record in records], np.stack([record["image"] for record in records])


def test_rendered_scenes_score_everything(rendered):
    results = {result.name: result for result in scene_results(*rendered, guidance=1.5)}
    assert all(result.value == 1 for result in results.values())
    assert results["scene_exact"].protocol["guidance"] == 1.5
    assert results["scene_exact"].protocol["images"] == 40


def test_noise_of_a_few_grey_levels_does_not_matter(rendered):
    captions, images = rendered
    noise = np.random.default_rng(0).normal(0, 6, images.shape)
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
    assert {result.name: result.value for result in scene_results(captions, noisy)}["scene_exact"] >= 0.95


def test_other_captions_are_wrong(rendered):
    captions, images = rendered
    values = {result.name: result.value for result in scene_results(captions[1:] + captions[:1], images)}
    assert values["scene_exact"] == 0
    assert values["scene_colors"] < 0.2


def scene(**changes):
    first = {"shape": "circle", "color": "red", "size": "large", "rgb": (214, 48, 49), "x": 0.25, "y": 0.5}
    second = {"shape": "star", "color": "blue", "size": "small", "rgb": (52, 104, 214), "x": 0.75, "y": 0.5}
    objects = [first | {"radius": 0.19} | changes, second | {"radius": 0.12}]
    return draw({"background": "white", "objects": objects}, 32)


CAPTION = "a large red circle left of a small blue star on white"


def test_each_property_is_told_apart():
    assert all(scene_matches(CAPTION, scene()).values())

    def wrong(image):
        return {name for name, right in scene_matches(CAPTION, image).items() if not right}

    assert wrong(scene(shape="square")) == {"shapes", "exact"}
    assert wrong(scene(radius=0.11)) == {"sizes", "exact"}
    assert wrong(scene(rgb=(248, 214, 60))) == {"colors", "relation", "exact"}
    assert wrong(scene()[:, ::-1].copy()) == {"relation", "exact"}
    blank = np.full((32, 32, 3), 128, np.uint8)
    assert wrong(blank) == {"background", "count", "colors", "shapes", "sizes", "relation", "exact"}


def test_swapped_properties_are_not_exact():
    swapped = "a small red circle left of a large blue star on white"
    matches = scene_matches(swapped, scene())
    assert matches["sizes"] and matches["colors"] and not matches["exact"]


def test_positions_are_found():
    _, seen = read_scene(scene())
    star = next(thing for thing in seen if thing.color == "blue")
    np.testing.assert_allclose([star.x, star.y], [0.75, 0.5], atol=0.02)


def test_relation_follows_the_longer_axis():
    middle = SeenObject("small", "red", "star", 0.5, 0.5)
    places = {"left of": (0.9, 0.7), "right of": (0.1, 0.3), "above": (0.6, 0.9), "below": (0.4, 0.1)}
    for relation, (x, y) in places.items():
        assert relation_of(middle, SeenObject("small", "blue", "star", x, y)) == relation


def test_captions():
    assert parse_caption("a small pink ring on grey").objects == (("small", "pink", "ring"),)
    assert parse_caption(CAPTION).relation == "left of"
    with pytest.raises(ValueError, match="not of the shapes data"):
        parse_caption("a handwritten seven")
    with pytest.raises(ValueError, match="one caption per image"):
        scene_results([CAPTION], np.zeros((2, 32, 32, 3), np.uint8))
