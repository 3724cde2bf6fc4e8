"""Parity with the installed `vector-quantize-pytorch` at configurations that no recording has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.systems.quantizers.vector_quantize_pytorch import VectorQuantizePytorch

RVQ = {"dim": 8, "num_quantizers": 2, "codebook_size": 16}
RFSQ = {"dim": 8, "num_quantizers": 2, "levels": [5, 4]}
# Each names an argument that was once dropped because it is False, or refused for one that was.
CASES = [
    ("ResidualVQ", RVQ | {"rotation_trick": False}),
    ("ResidualVQ", RVQ | {"learnable_codebook": True, "ema_update": False}),
    ("ResidualVQ", RVQ | {"use_cosine_sim": True, "rotation_trick": False, "codebook_dim": 4}),
    ("ResidualVQ", RVQ | {"codebook_size": (16, 8), "quant_grad_frac": 0.3, "rotation_trick": False}),
    ("GroupedResidualVQ", RVQ | {"groups": 2, "rotation_trick": False}),
    ("ResidualSimVQ", RVQ | {"rotation_trick": False}),
    ("ResidualLFQ", RVQ | {"spherical": False, "projection_has_bias": False}),
    ("ResidualFSQ", RFSQ | {"bound_hard_clamp": False}),
    ("ResidualFSQ", RFSQ | {"bound_hard_clamp": False, "soft_clamp_input_value": [2.0, 1.5]}),
    ("GroupedResidualFSQ", RFSQ | {"groups": 2, "bound_hard_clamp": False}),
    ("SimVQ", {"dim": 8, "codebook_size": 16, "rotation_trick": False}),
    ("VectorQuantize", {"dim": 8, "codebook_size": 16, "ema_update": False, "rotation_trick": False}),
]


def load(kind, arguments, tensors):
    return convert.load("vector_quantize_pytorch", tensors, {"class": kind, "args": arguments})["model"]


@pytest.mark.slow  # parity
@pytest.mark.parametrize("kind, arguments", CASES)
def test_values_and_gradients_are_the_official_ones(kind, arguments):
    torch = pytest.importorskip("torch")
    official = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    theirs = getattr(official, kind)(**arguments).train()
    features, cotangent = torch.randn(2, 6, 8, requires_grad=True), torch.randn(2, 6, 8)
    loaded = load(kind, arguments, {k: v.detach().clone().numpy() for k, v in theirs.state_dict().items()})
    expected = theirs(features)[0]
    (gradient,) = torch.autograd.grad((expected * cotangent).sum(), features)

    @jax.jit
    def ours(variables, z, weights):
        values = lambda z: loaded.module.apply(variables, z, train=True, key=jax.random.key(0)).values
        return values(z), jax.grad(lambda z: jnp.vdot(values(z), weights))(z)

    found = ours(loaded.variables, jnp.asarray(features.detach().numpy()), jnp.asarray(cotangent.numpy()))
    np.testing.assert_allclose(found[0], expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1], gradient.numpy(), atol=1e-5)


def module(kind, arguments):
    system = VectorQuantizePytorch.official_components({"class": kind, "args": arguments})
    return next(iter(system.values())).module


def test_arguments_that_are_false_count():
    routing = lambda **changes: module("ResidualVQ", RVQ | changes).quantizers[0].routing
    assert routing() == "rotation" and routing(rotation_trick=False) == "straight_through"
    learned = module("ResidualVQ", RVQ | {"learnable_codebook": True, "ema_update": False})
    assert learned.quantizers[0].learning == "gradient"
    assert module("ResidualFSQ", RFSQ | {"bound_hard_clamp": False}).pre_clamp == ()


@pytest.mark.parametrize(
    "kind, arguments, named",
    [
        ("ResidualVQ", RVQ | {"rotation_trik": False}, "rotation_trik"),
        ("ResidualFSQ", RFSQ | {"preserve_symmetri": False}, "preserve_symmetri"),
        ("ResidualFSQ", RFSQ | {"noise_dropout": 0.5}, "noise_dropout"),
        ("ResidualFSQ", RFSQ | {"soft_clamp_input_value": 2.0}, "bound_hard_clamp=False"),
        ("ResidualLFQ", RVQ | {"sphericl": False}, "sphericl"),
        ("VectorQuantize", {"dim": 8, "codebook_size": 16, "kmeans": False}, "kmeans"),
        (
            "VectorQuantize",
            {"dim": 8, "codebook_size": 16, "return_zeros_for_masked_padding": False},
            "padding",
        ),
    ],
)
def test_arguments_without_counterpart_are_refused_also_if_false(kind, arguments, named):
    with pytest.raises(ValueError, match=named):
        module(kind, arguments)
