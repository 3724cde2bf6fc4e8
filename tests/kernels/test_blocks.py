import importlib

import pytest

from jaxtok import kernels
from jaxtok.kernels.blocks import TPU_BYTES, Blocks, fit_tpu, for_device, whole
from tests.kernels.test_dispatch import DEVICES, on

TABLES = [TPU_BYTES] + [
    table
    for operation in kernels.__all__
    for name, table in vars(importlib.import_module(f"jaxtok.kernels.{operation}.shapes")).items()
    if name.isupper()
]


@pytest.mark.parametrize("table", TABLES)
def test_every_device_has_an_entry(table):
    for kind in (*DEVICES.values(), "something new"):
        assert for_device(table, kind) in table.values()


def test_the_longest_name_that_fits():
    table = {"": 1, "tpu v5": 2, "tpu v5 lite": 3}
    assert [for_device(table, kind) for kind in ("TPU v5 lite", "TPU v5", "TPU v6 lite")] == [3, 2, 1]


@pytest.mark.parametrize("platform", DEVICES)
def test_the_device_is_the_one_that_is_compiled_for(platform):
    with on(platform):
        assert for_device({kind.lower(): name for name, kind in DEVICES.items()} | {"": None}) == platform


@pytest.mark.parametrize("tokens, codes, width", [(1, 1, 1), (65_536, 8192, 8), (300, 262_144, 1024)])
def test_blocks_are_no_larger_than_the_arrays_and_the_chip(tokens, codes, width):
    blocks = fit_tpu(Blocks(512, 512), tokens, codes, width)
    assert blocks.tokens % 128 == blocks.codes % 128 == 0
    assert blocks.tokens <= whole(tokens) and blocks.codes <= whole(codes)
    assert 14 * whole(width) * (blocks.tokens + blocks.codes) < for_device(TPU_BYTES)
