import dataclasses
from dataclasses import dataclass

import pytest

from jaxtok.run.claims import Arm, Claim, evaluate_claim, evaluate_claims, identity_of, vary, with_steps
from jaxtok.train.schedules import TrainConfig


@dataclass(frozen=True)
class Parts:
    fit: TrainConfig = TrainConfig(steps=100)
    bits: int = 8


@dataclass(frozen=True)
class Settings:
    model: Parts = Parts()
    tokenizer: TrainConfig = TrainConfig(steps=100)
    rate: float = 1.0


GROWS = Claim("more is more", vary("model.bits", 4, 8, 16, metric="tokenizer/psnr"), margin=1.0)


def test_arms_change_only_their_field():
    configs = [arm.configure(Settings()) for arm in GROWS.arms]
    assert [config.model.bits for config in configs] == [4, 8, 16]
    assert configs[1] == Settings() and GROWS.arms[0].label == "model.bits=4"
    assert {arm.stage for arm in GROWS.arms} == {"tokenizer"}


@pytest.mark.parametrize(
    "values, holds, smallest, reached",
    [
        ([[1, 2], [3, 3], [5, 5]], True, 1.5, True),
        ([[1, 2], [3, 2], [5, 5]], False, 1.0, True),  # equal in one seed
        ([[1, 2], [3, 1.5], [5, 5]], False, 0.75, False),
        ([[1, 2], [1.5, 2.5], [5, 5]], True, 0.5, False),  # holds, by less than hoped
        ([[1, 2], [float("nan"), 3], [5, 5]], False, None, False),
    ],
)
def test_a_claim_holds_when_every_step_goes_its_way_in_every_seed(values, holds, smallest, reached):
    labels = [arm.label for arm in GROWS.arms]
    values = [[float(value) for value in row] for row in values]
    outcome = evaluate_claim(GROWS, dict(zip(labels, values)))
    assert outcome["holds"] is holds and outcome["margin_reached"] is reached
    if smallest is not None:
        assert outcome["smallest_mean_difference"] == pytest.approx(smallest)
    assert [arm["values"] for arm in outcome["arms"]] == [pytest.approx(row, nan_ok=True) for row in values]
    falling = dataclasses.replace(GROWS, relation="decreasing", margin=None)
    reverse = evaluate_claim(falling, dict(zip(labels, values[::-1])))
    assert reverse["holds"] is holds and reverse["margin_reached"] is None


def test_a_hypothesis_may_name_a_number():
    claim = Claim("uses half", (Arm("hypothesis", constant=0.5), Arm("measured", "tokenizer/usage")))
    seeds = []

    def run_arm(config, seed, stages, identity):
        assert stages == ("tokenizer",)
        seeds.append(seed)
        return {"tokenizer/usage": 0.6 + 0.1 * seed}

    (outcome,) = evaluate_claims([claim], Settings(), (0, 1, 2), run_arm)
    assert outcome["holds"] is True and seeds == [0, 1, 2]
    constant, measured = outcome["arms"]
    assert constant == {"label": "hypothesis", "metric": "", "changes": {}, "values": [0.5] * 3}
    assert measured["values"] == pytest.approx([0.6, 0.7, 0.8])
    below = dataclasses.replace(claim, arms=claim.arms[::-1])
    assert evaluate_claims([below], Settings(), (0, 1), run_arm)[0]["holds"] is False


def test_a_hypothesis_may_scale_and_shift_what_is_measured():
    arms = (Arm("twice the first, less one", "a/x", factor=2.0, offset=-1.0), Arm("second", "b/x"))
    found = {"a/x": 3.0, "b/x": 5.5}
    (outcome,) = evaluate_claims([Claim("nearly twice", arms)], Settings(), (0,), lambda *args: found)
    assert [arm["values"] for arm in outcome["arms"]] == [[5.0], [5.5]] and outcome["holds"]


@pytest.mark.parametrize(
    "arm", [{}, {"metric": "a/b", "constant": 1.0}, {"constant": 1.0, "changes": (("x", 1),)}]
)
def test_an_arm_is_measured_or_a_constant(arm):
    with pytest.raises(ValueError, match="needs a metric, or a constant and nothing else"):
        Arm("x", **arm)


def test_constants_alone_are_no_claim():
    with pytest.raises(ValueError, match="at least one arm has to be measured"):
        Claim("numbers", (Arm("1", constant=1.0), Arm("2", constant=2.0)))


def test_one_arm_is_no_comparison():
    with pytest.raises(ValueError, match="'alone' has 1 arms"):
        Claim("alone", vary("bits", 1, metric="a/b"))


def test_equal_arms_are_trained_once_with_all_their_stages():
    claims = [
        GROWS,
        Claim("prior", (Arm("low", "prior/accuracy_w0"), Arm("high", "prior/accuracy_w3"))),
        Claim("rate", (Arm("slow", "prior/accuracy_w0", (("rate", 0.5),)), Arm("1", "prior/accuracy_w0"))),
    ]
    calls = []

    def run_arm(config, seed, stages, identity):
        assert identity == identity_of(config)
        calls.append((config.model.bits, config.rate, seed, stages))
        value = config.model.bits + config.rate + 0.1 * seed
        return {"tokenizer/psnr": value, "prior/accuracy_w0": value, "prior/accuracy_w3": value + 1}

    outcomes = evaluate_claims(claims, Settings(), (0, 1), run_arm)
    assert [outcome["holds"] for outcome in outcomes] == [True] * 3
    assert len(calls) == len(set(calls)) == 4 * 2
    assert {stages for bits, rate, _, stages in calls if bits == 8 and rate == 1} == {("prior", "tokenizer")}
    assert {stages for bits, _, _, stages in calls if bits == 16} == {("tokenizer",)}
    assert outcomes[0]["arms"][2]["values"] == pytest.approx([17.0, 17.1])


def test_an_unknown_metric_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no metric 'tokenizer/psnr'; there are \['tokenizer/ssim'\]"):
        evaluate_claims([GROWS], Settings(), (0,), lambda *_: {"tokenizer/ssim": 1.0})


def test_identity_follows_the_values_and_nothing_else():
    assert identity_of(Settings()) == identity_of(Settings(model=Parts()))
    assert identity_of(Settings()) != identity_of(Settings(rate=2.0))
    assert len({identity_of(arm.configure(Settings())) for arm in GROWS.arms}) == 3


def test_with_steps_reaches_every_fit():
    changed = with_steps(Settings(), 3)
    assert changed.tokenizer.steps == 3 and changed.model.fit.steps == 3
    assert dataclasses.replace(changed, tokenizer=TrainConfig(steps=100), model=Parts()) == Settings()
