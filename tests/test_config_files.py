import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from experiments.image.instella_t2i import PRESETS, Config
from jaxtok.config_files import differences, from_json, replace_at, to_json
from jaxtok.train.schedules import TrainConfig


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("a", 1.0)
    pairs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    rate: float = 0.1
    name: str = "x"
    many: int | None = None
    part: int | float = 1
    kind: Literal["a", "b", 3] = "a"
    on: bool = False
    free: Any = None


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INNERS = st.builds(
    Inner,
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    pair=st.tuples(st.text(max_size=3), FLOATS),
    pairs=st.lists(st.tuples(st.text(max_size=3), FLOATS), max_size=2).map(tuple),
)
OUTERS = st.builds(
    Outer,
    inner=INNERS,
    rate=FLOATS,
    name=st.text(max_size=5),
    many=st.none() | st.integers(),
    part=st.integers() | FLOATS,
    kind=st.sampled_from(["a", "b", 3]),
    on=st.booleans(),
)
# Not built here: checking the types of a `TrainConfig` draws random numbers, which a strategy must not.
FITS = st.fixed_dictionaries(
    {
        "steps": st.integers(0, 10**9),
        "learning_rate": st.floats(1e-9, 1.0),
        "schedule": st.sampled_from(["cosine", "linear", "constant"]),
        "betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
        "micro_batches": st.integers(1, 64),
        "groups": st.lists(st.tuples(st.text(max_size=5), st.floats(0, 2)), max_size=3).map(tuple),
    }
)


def through_a_file(config):
    return from_json(type(config), json.loads(json.dumps(to_json(config))))


@given(OUTERS)
def test_round_trip(config):
    back = through_a_file(config)
    assert back == config
    assert type(back.rate) is float and type(back.part) is type(config.part)


@given(st.sampled_from(sorted(PRESETS)), FITS, FITS, st.integers(1, 64), st.none() | st.integers(1, 9))
def test_round_trip_of_an_experiment(preset, tokenizer, prior, bits, scale):
    config = dataclasses.replace(
        PRESETS[preset], tokenizer=TrainConfig(**tokenizer), prior=TrainConfig(**prior)
    )
    config = replace_at(replace_at(config, "model.quantizer.bits", bits), "model.scale", scale)
    assert through_a_file(config) == config
    assert differences(to_json(config), to_json(through_a_file(config))) == []


def test_absent_fields_keep_their_defaults():
    assert from_json(Outer, {"inner": {"sizes": []}}) == Outer(Inner(sizes=()))


@pytest.mark.parametrize(
    "value, message",
    [
        ({"rates": 1.0}, r"config has unknown fields \['rates'\]; known ones are .*'rate'"),
        ({"inner": {"sizes": [1, "2"]}}, r"config\.inner\.sizes\[1\] is '2'; expected int"),
        ({"inner": {"pair": ["a"]}}, r"config\.inner\.pair has 1 entries; expected 2"),
        ({"inner": {"sizes": 3}}, r"config\.inner\.sizes is 3; expected a list"),
        ({"inner": 3}, r"config\.inner is 3; expected the fields of Inner"),
        ({"rate": "fast"}, r"config\.rate is 'fast'; expected float"),
        ({"rate": True}, r"config\.rate is True; expected float"),
        ({"many": 1.5}, r"config\.many is 1\.5; expected int; config\.many is 1\.5; expected None"),
        ({"kind": "c"}, r"config\.kind is 'c'; expected one of \('a', 'b', 3\)"),
        ({"on": 1}, r"config\.on is 1; expected bool"),
    ],
)
def test_errors_name_the_path(value, message):
    with pytest.raises(ValueError, match=message):
        from_json(Outer, value)


def test_what_json_cannot_hold():
    with pytest.raises(ValueError, match=r"holds <object.*\(object\), which JSON cannot hold"):
        to_json(Outer(free=object()))
    with pytest.raises(ValueError, match="nan"):
        to_json(Outer(rate=float("nan")))


def test_differences_are_listed_by_path():
    old = to_json(Outer())
    new = to_json(Outer(Inner(sizes=(1,)), kind="b"))
    assert differences(old, new) == ["inner.sizes: [1, 2] -> [1]", "kind: a -> b"]
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 -> (absent)", "b: (absent) -> 2"]
    assert differences({"a": {"x": 1}}, {"a": 3}) == ["a: {'x': 1} -> 3"]


def test_replace_at_a_path():
    config = PRESETS["tiny"]
    changed = replace_at(config, "model.encoder.layers", 2)
    assert changed.model.encoder.layers == 2 and config.model.encoder.layers == 4
    assert replace_at(changed, "model.encoder.layers", 4) == config
    assert isinstance(replace_at(config, "classes", 3), Config)
    with pytest.raises(ValueError, match=r"no field 'layer' in ViTShape, on the way to 'layer'"):
        replace_at(config, "model.encoder.layer", 2)
    with pytest.raises(ValueError, match="no field 'x' in int"):
        replace_at(config, "classes.x", 2)


def test_fields_without_a_default_that_are_absent_are_named():
    @dataclass(frozen=True)
    class Needs:
        data: int
        model: str
        seed: int = 0

    with pytest.raises(ValueError, match="config lacks data, model, which have no defaults"):
        from_json(Needs, {"seed": 1})
    assert from_json(Needs, {"data": 1, "model": "x"}) == Needs(1, "x")
