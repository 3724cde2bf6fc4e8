import json
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from jaxtok.config_files import from_json, to_json
from jaxtok.run.sweep.space import (
    Choice,
    Range,
    annotated_space,
    configured,
    fit_space,
    listed,
    parse_space,
)


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Range(1e-4, 1e-2, log=True)] = 1e-3
    layers: int = 2


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    kind: Annotated[str, Choice(("a", "b"))] = "a"
    widths: tuple[int, ...] = (1, 2)


def test_typed_annotations_are_a_space():
    assert annotated_space(Outer()) == {
        "inner.rate": Range(1e-4, 1e-2, log=True),
        "kind": Choice(("a", "b")),
    }


def test_a_space_as_text():
    space = parse_space(["inner.rate=1e-4:1e-2:log", "inner.layers=1:4", "kind=a,b", "flag=true,false"])
    assert space == {
        "inner.rate": Range(1e-4, 1e-2, log=True),
        "inner.layers": Range(1, 4),
        "kind": Choice(("a", "b")),
        "flag": Choice((True, False)),
    }


@pytest.mark.parametrize(
    "word", ["a", "a=", "=1:2", "a=1:2:3", "a=1:b", "a=2:1", "a=0:1:log", "a=1,1", "a=1:2:log:x"]
)
def test_what_cannot_be_read_is_named(word):
    with pytest.raises(ValueError, match=r"cannot be read.*path=low:high"):
        parse_space([word])
    with pytest.raises(ValueError, match="once"):
        parse_space(["a=1:2", "a=1:2"])


def test_ranges_take_the_type_of_their_field():
    fitted = fit_space({"inner.rate": Range(1, 2), "inner.layers": Range(1, 3)}, Outer())
    assert fitted == {"inner.rate": Range(1.0, 2.0), "inner.layers": Range(1, 3)}
    assert isinstance(fitted["inner.rate"], Range) and not fitted["inner.rate"].whole
    assert fit_space({"inner.rate": Choice((1, 2.5))}, Outer()) == {"inner.rate": Choice((1.0, 2.5))}
    for space, message in (
        ({"inner.layers": Range(1.0, 2.5)}, "whole number"),
        ({"kind": Range(1, 2)}, "no number"),
        ({"inner.depth": Range(1, 2)}, "no field 'depth' in Inner"),
        ({"kind.depth": Range(1, 2)}, "no field 'depth' in str"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_space(space, Outer())


@dataclass(frozen=True)
class Typed:
    flip: bool = False
    scale: float | None = None
    layers: int = 2
    name: str = "a"
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("flip=True,False", (True, False)),
        ("flip=true,false", (True, False)),
        ("scale=None,4", (None, 4.0)),
        ("layers=2,4", (2, 4)),
        ("name=None,8", ("None", "8")),
        ("kind=a,b", ("a", "b")),
    ],
)
def test_choices_take_the_type_of_their_field(word, values):
    (choice,) = fit_space(parse_space([word]), Typed()).values()
    assert [(type(value), value) for value in choice.values] == [(type(value), value) for value in values]
    for value in choice.values:  # what `best.json` will hold is read back as the same configuration
        found = configured(Typed(), {word.split("=")[0]: choice}, {word.split("=")[0]: choice.label(value)})
        assert from_json(Typed, json.loads(json.dumps(to_json(found)))) == found


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("layers=8,banana", "banana"),
        ("layers=2,4.0", r"4\.0"),
        ("layers=2,None", "None"),
        ("flip=True,yes", "yes"),
        ("flip=0,1", "0"),
        ("kind=a,c", "c"),
        ("flip=True,true", "different values"),
    ],
)
def test_choices_of_another_type_are_refused_before_the_first_trial(word, wrong):
    with pytest.raises(ValueError, match=rf"{wrong}.*{word.split('=')[0]}"):
        fit_space(parse_space([word]), Typed())


def test_a_configuration_from_what_was_drawn():
    space = {"inner.layers": Range(1, 4), "widths": Choice(((1, 2), (3, 4, 5)))}
    own = configured(Outer(), space, {"inner.layers": 3, "widths": repr((3, 4, 5))})
    assert own == Outer(inner=Inner(layers=3), widths=(3, 4, 5))


def test_a_grid_lists_everything():
    space = {"inner.layers": Range(1, 3), "kind": Choice(("a", "b"))}
    assert listed(space) == {"inner.layers": [1, 2, 3], "kind": ["a", "b"]}
    with pytest.raises(ValueError, match=r"inner\.rate has a range"):
        listed({"inner.rate": Range(0.1, 0.2)})
