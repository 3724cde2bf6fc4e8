import jax
import jax.numpy as jnp
import pytest

from jaxtok.run.plan.arithmetic import jaxpr_flops
from jaxtok.run.plan.chips import CHIPS, parse_topology
from jaxtok.run.plan.costs import Collective, costs, product_flops
from jaxtok.run.plan.hlo import parse
from jaxtok.run.plan.messages import group_size
from jaxtok.run.plan.roofline import roofline, utilisation
from tests.run.plan.programs import SCANNED, one_line


@pytest.fixture(scope="module")
def counted():
    return costs(parse(SCANNED), devices=8)


def test_products_in_loops_count_as_often_as_they_run(counted):
    assert counted.flops == counted.passes == 8 * 2 * 4 * 8 * 8


def test_collectives_count_once_per_channel_and_loop(counted):
    # Over groups of 4: a weight of 8 x 8 bfloat16 is gathered, an array of 4 x 8 float32 reduced.
    assert counted.collectives == {
        "all-gather": Collective(8, 8 * 128, 8 * 128 * 3 / 4),
        "all-reduce": Collective(1, 128, 2 * 128 * 3 / 4),
    }
    assert [m.kind for m in counted.messages] == ["all-gather", "all-reduce"]


def test_traffic_counts_slices_of_stacks_and_not_what_stays_on_the_chip(counted):
    # Per run: one of the 16 weights, its number, x and the result; two additions and a comparison.
    product = 4 * (8 * 8 + 1 + 4 * 8 + 4 * 8)
    assert counted.bytes == 8 * (product + 2 * 12 + 9) + 2 * 128


def test_largest_temporaries_have_places(counted):
    assert counted.largest[0].bytes == 128 and counted.largest[0].array in ("f32[4,8]", "bf16[8,8]")
    assert any("linear.py:36 (stack/block/up, backward)" in t.place for t in counted.largest)


@pytest.mark.parametrize(
    "instruction, operands, flops",
    [
        # A matrix product, plain and as a convolution.
        ("f32[4,6] dot(%a0, %a1), lhs_contracting_dims={1}", ("f32[4,5]", "f32[5,6]"), 240),
        ("f32[4,6]{1,0} convolution(%a0, %a1), dim_labels=bf_io->bf", ("f32[4,5]", "f32[5,6]"), 240),
        # 16 heads as the holes of a dilated window: 16 x 2 x 24 x 24 x 32 multiplications, twice.
        (
            "f32[16,2,24,24] convolution(%a0, %a1), window={size=16x2 stride=15x1 lhs_dilate=16x2}, "
            "dim_labels=0b1f_0o1i->01bf",
            ("f32[16,24,2,32]", "f32[16,24,2,32]"),
            2 * 16 * 2 * 24 * 24 * 32,
        ),
        # 3 x 3 with padding 1: on each side one position of the window meets padding.
        (
            "f32[2,4,4,7] convolution(%a0, %a1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
            ("f32[2,4,4,5]", "f32[3,3,5,7]"),
            2 * 2 * 5 * 7 * 10 * 10,
        ),
    ],
)  # fmt: skip
def test_flops_of_products(instruction, operands, flops):
    body = parse(one_line(instruction, *operands)).computations["main"]
    assert product_flops(body["r"], body) == flops


def test_higher_precision_takes_more_passes():
    text = one_line(
        "f32[4,6]{1,0} convolution(%a0, %a1), dim_labels=bf_io->bf, operand_precision={highest,highest}",
        "f32[4,5]", "f32[5,6]",
    )  # fmt: skip
    counted = costs(parse(text), 1)
    assert (counted.flops, counted.passes) == (240, 6 * 240)


@pytest.mark.parametrize(
    "attributes, size",
    [
        ("replica_groups={{0,1},{2,3}}, x", 2),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=16,'axis_2'=8], device_ids=([16,8]T(1,0)) {'axis_1'}", 16),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("replica_groups=mesh['a'=2,'b'=8] {'b':(1)2}", 2),
        ("replica_groups={}", 32),
    ],
)
def test_group_sizes_in_every_spelling(attributes, size):
    assert group_size(attributes, 32) == size


def test_flops_of_a_jaxpr_count_loops_branches_and_recomputation():
    w = jnp.ones((3, 8, 8))

    def layers(x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    x = jnp.ones((4, 8))
    one = 2 * 4 * 8 * 8
    assert jaxpr_flops(jax.make_jaxpr(layers)(x)) == 3 * one
    assert jaxpr_flops(jax.make_jaxpr(jax.jit(layers))(x)) == 3 * one
    either = jax.make_jaxpr(lambda x: jax.lax.cond(x[0, 0] > 0, layers, lambda x: x, x))(x)
    assert jaxpr_flops(either) == 3 * one

    def loss(w, x):
        return jnp.sum(jnp.sin(jnp.sin(x @ w) @ w))

    plain = jaxpr_flops(jax.make_jaxpr(jax.grad(loss))(w[0], x))
    again = jaxpr_flops(jax.make_jaxpr(jax.grad(jax.checkpoint(loss)))(w[0], x))
    assert plain == 5 * one and again > plain


def test_flops_of_the_compiled_program_are_those_of_the_jaxpr():
    def loss(w, x):
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])

    w, x = jnp.ones((5, 8, 8)), jnp.ones((4, 8))
    traced = jax.jit(jax.grad(loss)).trace(w, x)
    counted = costs(parse(traced.lower().compile().as_text()), 1)
    assert counted.flops == jaxpr_flops(traced.jaxpr) == 3 * 5 * 2 * 4 * 8 * 8


def test_bounds_and_ceiling(counted):
    bounds = roofline(counted, CHIPS["v5e"])
    assert bounds.compute == counted.flops / 197e12 and bounds.memory == counted.bytes / 819e9
    assert bounds.links == (96 * 8 + 192) / 200e9
    assert bounds.limit == "memory" and bounds.seconds == bounds.memory
    ceiling = utilisation(counted.flops, 1, bounds, CHIPS["v5e"])
    assert ceiling == pytest.approx(bounds.compute / bounds.memory)


def test_topologies_are_a_chip_and_a_number():
    assert parse_topology("v5e:16x16") == (CHIPS["v5e"], 256)
    assert parse_topology("v5p:2x2x2") == (CHIPS["v5p"], 8)
    assert parse_topology("gpu:8") == (CHIPS["h100"], 8)
    for wrong in ("v5e", "v9:2x2", "v5e:", "v5e:2xx2"):
        with pytest.raises(ValueError, match=r"give a chip and how many, such as v5e:16x16"):
            parse_topology(wrong)
