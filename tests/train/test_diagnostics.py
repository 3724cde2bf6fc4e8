import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.train.diagnostics import NonFiniteError, check_finite, module_norms

NAN = float("nan")


def test_module_norms_group_by_depth():
    tree = {
        "decoder": {
            "up_1": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.array([8.0])},
            "up_2": {"bias": jnp.ones(4)},
        },
        "scale": jnp.bfloat16(2.0),
    }
    norms = jax.jit(module_norms)(tree)
    assert {name: float(norm) for name, norm in norms.items()} == {
        "decoder/up_1": 10.0,
        "decoder/up_2": 2.0,
        "scale": 2.0,
    }
    np.testing.assert_allclose(module_norms(tree, depth=1)["decoder"], np.sqrt(104.0), rtol=1e-6)


def test_finite_metrics_pass():
    check_finite({"loss": 1.0, "norm": -2.0}, step=3, last_finite_step=2)


@pytest.mark.parametrize(
    "norms, largest",
    [({"decoder/up_1": 2.0, "decoder/up_2": NAN}, "up_2 .nan"), ({"a": 1.0, "b": 3.0}, "b .3")],
)
def test_message_says_where_to_look(norms, largest):
    metrics = {"loss": 1.0, "loss/entropy": NAN, "loss/bits": float("inf")}
    expected = (
        r"loss/entropy is nan, loss/bits is inf at step 3120 \(process 0\)\. Last finite step 3119\. "
        rf"Largest gradient norm: .*{largest}\)\. The batch and all metrics of that step are in debug_3120/\."
    )
    with pytest.raises(NonFiniteError, match=expected):
        check_finite(metrics, 3120, 3119, norms, "debug_3120/")
