import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from jaxtok.kernels.dispatch import choose, target_platform

THREE = {"xla": len, "pallas_tpu": min, "pallas_gpu": max}
DEVICES = {"tpu": "TPU v5 lite", "cuda": "NVIDIA H200", "rocm": "gfx942", "cpu": "cpu"}


def on(platform: str):
    """As if tracing for a platform that is not attached."""
    device = AbstractDevice(device_kind=DEVICES[platform], platform=platform, num_cores=None)
    return jax.sharding.use_abstract_mesh(
        AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    )


@pytest.mark.parametrize("platform", DEVICES)
def test_the_mesh_says_what_is_traced_for(platform):
    with on(platform):
        assert target_platform() == platform
    assert target_platform() == jax.default_backend()


@pytest.mark.parametrize("platform, best", [("tpu", min), ("cuda", len), ("rocm", len), ("cpu", len)])
def test_the_default_is_the_best_of_the_platform(platform, best):
    with on(platform):
        assert choose("f", None, THREE) is best
        assert choose("f", None, {"xla": len}) is len  # what has no kernel falls back


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_on_gpus_the_kernel_is_there_for_who_asks(platform):
    with on(platform):
        assert choose("f", "pallas_gpu", THREE) is max


@pytest.mark.parametrize(
    "platform, name, reason",
    [
        ("cpu", "pallas_tpu", "runs on tpu, but this program is traced for cpu"),
        ("tpu", "pallas_gpu", "runs on cuda and rocm, but this program is traced for tpu"),
        ("cuda", "pallas_tpu", "runs on tpu, but this program is traced for cuda"),
    ],
)
def test_one_that_cannot_run_raises_with_the_reason(platform, name, reason):
    with on(platform):
        with pytest.raises(ValueError, match=reason):
            choose("f", name, THREE)
        assert choose("f", name, THREE, interpret=True) is THREE[name]


def test_one_that_does_not_exist_raises():
    with pytest.raises(ValueError, match="f has no implementation 'pallas_tpu'"):
        choose("f", "pallas_tpu", {"xla": len}, interpret=True)


def test_a_back_end_that_jax_has_dropped():
    dropped = THREE | {"pallas_gpu": "jax.experimental.no_such_back_end:f"}
    with on("cuda"):
        assert choose("f", None, dropped) is len
        with pytest.raises(ValueError, match="has no such Pallas back end"):
            choose("f", "pallas_gpu", dropped)


def test_names_are_imported_when_they_are_chosen():
    with on("tpu"):
        assert choose("f", None, THREE | {"pallas_tpu": "jax.numpy:argmin"}) is jnp.argmin
