import numpy as np
import pytest

from jaxtok.data.shapes import caption, random_scene
from jaxtok.evaluate.composition import (
    Clause,
    Detection,
    composition_results,
    places,
    satisfies,
    scene_clauses,
)


def thing(label, x=0.0, y=0.0, size=2.0, score=0.9, color=""):
    return Detection(label, (x - size / 2, y - size / 2, x + size / 2, y + size / 2), score, color)


def test_counts_look_at_the_most_certain_objects():
    apples = [thing("apple", i, score=1 - i / 4) for i in range(4)]
    assert satisfies(apples, [Clause("apple", 3)]) and satisfies(
        apples, [Clause("apple", 3)], [Clause("apple", 4)]
    )
    assert not satisfies(apples, [Clause("apple", 3)], [Clause("apple", 4)], threshold=0.2)
    assert not satisfies(apples, [Clause("apple", 4)], threshold=0.25)  # 0.25 is not over it
    assert not satisfies(apples, [Clause("apple"), Clause("pear")])


def test_colours_of_the_chosen_objects():
    seen = [thing("cup", color="red"), thing("cup", score=0.5, color="blue")]
    assert satisfies(seen, [Clause("cup", color="red")])
    assert not satisfies(seen, [Clause("cup", color="blue")])  # the less certain one
    assert not satisfies(seen, [Clause("cup", 2, color="red")])


def test_places():
    dog = thing("dog")
    assert places(thing("cat", x=-10), dog) == {"left of"}
    assert places(thing("cat", y=10), dog) == {"below"}
    assert places(thing("cat", x=10, y=-10), dog) == {"right of", "above"}
    assert places(thing("cat", x=10, y=4), dog) == {"right of"}
    assert places(thing("cat"), dog) == set()
    # Shortened by a tenth of both sizes (0.4 of 0.79), less than half is left.
    assert places(thing("cat", x=0.79), dog) == set() and places(thing("cat", x=0.81), dog) == {"right of"}


def test_positions_refer_to_all_objects_of_an_earlier_clause():
    dogs = [thing("dog", 0), thing("dog", 20)]
    cat = thing("cat", 10)
    assert satisfies([dogs[0], cat], [Clause("dog"), Clause("cat", place=("right of", 0))])
    assert not satisfies([dogs[0], cat], [Clause("dog"), Clause("cat", place=("left of", 0))])
    assert not satisfies([*dogs, cat], [Clause("dog", 2), Clause("cat", place=("right of", 0))])
    assert not satisfies([cat], [Clause("dog"), Clause("cat", place=("right of", 0))])
    with pytest.raises(ValueError, match="name one of the 1 before"):
        satisfies([cat], [Clause("dog"), Clause("cat", place=("right of", 1))])


def test_true_scenes_are_right_and_other_captions_are_not():
    rng, captions, seen = np.random.default_rng(0), [], []
    for _ in range(200):
        scene = random_scene(rng)
        captions.append(caption(scene))
        seen.append(
            [
                thing(f"{o['size']} {o['color']} {o['shape']}", o["x"], o["y"], 2 * o["radius"])
                for o in scene["objects"]
            ]
        )
    assert all(satisfies(found, scene_clauses(text)) for found, text in zip(seen, captions))
    others = captions[1:] + captions[:1]
    assert sum(satisfies(found, scene_clauses(text)) for found, text in zip(seen, others)) <= 6


def test_results_weigh_kinds_alike():
    results = composition_results({"one": [True, True, True, False], "two": [False]}, detector="exact")
    values = {result.name: result for result in results}
    assert values["composition_one"].value == 0.75 and values["composition_two"].value == 0
    assert values["composition_overall"].value == 0.375
    assert values["composition_overall"].protocol == {
        "images": 5,
        "detector": "exact",
        "kinds": ["one", "two"],
    }
    with pytest.raises(ValueError, match="at least one image"):
        composition_results({"one": []})
