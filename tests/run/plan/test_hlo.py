import jax
import jax.numpy as jnp
import pytest

from jaxtok.run.plan.hlo import Array, parse
from jaxtok.run.plan.sources import scope_of, short_path
from tests.run.plan.programs import SCANNED, one_line


def test_a_module_is_read():
    module = parse(SCANNED)
    assert module.entry == "main" and set(module.computations) == {
        "add", "carried", "product", "condition", "body", "main",
    }  # fmt: skip
    body = module.computations["body"]
    assert body["fusion.2"].arrays == (Array("bf16", (4, 8), 1), Array("bf16", (8, 8), 0))
    assert body["fusion.2"].operands == ("part", "quick") and body["fusion.2"].called == ("carried",)
    assert body["next"].root and not body["one"].root


def test_loops_multiply_and_unrolled_ones_run_less_often():
    times = {name: (times, fused) for name, times, fused in parse(SCANNED).executed()}
    assert times == {
        "main": (1, False),
        "condition": (8, False),
        "body": (8, False),
        "product": (8, True),
        "carried": (8, True),
    }


def test_the_compilers_own_trip_count_wins():
    text = SCANNED.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert dict((name, times) for name, times, _ in parse(text).executed())["body"] == 5


def test_loops_of_real_programs():
    def step(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    x, w = jnp.ones((4, 8)), jnp.ones((13, 8, 8))
    module = parse(jax.jit(step).lower(x, w).compile().as_text())
    assert 13 in [times for _, times, _ in module.executed()]


def test_places_name_the_innermost_line_of_this_library_and_the_module():
    module = parse(SCANNED)
    product = module.computations["body"]["fusion.1"]  # has no metadata; what is fused has
    assert module.place(product) == "jaxtok/nn/linear.py:36 (stack/block/up, backward)"
    # Frame 2 is Flax's; the frame that called it is ours.
    assert module.place(module.computations["main"]["all-reduce.1"]) == "jaxtok/train/step.py:48"


def test_places_in_the_older_form_of_metadata():
    metadata = 'metadata={op_name="jit(f)/net/add" source_file="/a/b/jaxtok/nn/rope.py" source_line=7}'
    module = parse(one_line(f"f32[4]{{0}} add(%a0, %a1), {metadata}", "f32[4]{0}", "f32[4]{0}"))
    assert module.place(module.computations["main"]["r"]) == "jaxtok/nn/rope.py:7 (net)"


@pytest.mark.parametrize(
    "path, short",
    [
        ("/home/jaxtok/x/jaxtok/nn/rope.py", "jaxtok/nn/rope.py"),
        ("/x/experiments/image/a.py", "experiments/image/a.py"),
        ("/x/site-packages/flax/core/scope.py", "core/scope.py"),
    ],
)
def test_paths_start_at_the_package(path, short):
    assert short_path(path) == short


def test_scopes_leave_out_what_jax_adds():
    name = "jit(update)/jvp(Net)/stack/while/body/closed_call/block.body/block/attention/a.queries/query/dot"
    assert scope_of(name) == "stack/block/attention/query"
    assert scope_of("jit(update)/transpose(jvp(Net))/net/rematted_computation/up/dot") == "net/up, recomputed"
    assert scope_of("jit(update)/transpose(jvp())/mul") == ""
    assert scope_of("jit(update)/jvp(Net)/net/up/dot:down/dot") == "net/up and others"


@pytest.mark.parametrize(
    "dtype, size",
    [("f32", 4), ("bf16", 2), ("pred", 1), ("s4", 0.5), ("f8e4m3fn", 1), ("c64", 8), ("u64", 8)],
)
def test_sizes_of_dtypes(dtype, size):
    assert Array(dtype, (6, 4)).bytes == 24 * size
