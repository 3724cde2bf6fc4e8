import os
import zlib

import jax
import jax.numpy as jnp

from jaxtok.train.compile_cache import remove_cut_entries

WHOLE = zlib.compress(bytes(range(256)) * 50)


def test_a_cut_entry_is_removed_and_whole_ones_stay(tmp_path):
    for name, content in (("a-cache", WHOLE), ("b-cache", WHOLE[:-9]), ("c-cache", b""), ("d-atime", b"x")):
        (tmp_path / name).write_bytes(content)
    assert sorted(remove_cut_entries(tmp_path)) == ["b-cache", "c-cache"]
    assert {path.name for path in tmp_path.glob("*-*")} == {"a-cache", "d-atime", "jaxtok-checked"}


def test_entries_are_read_once(tmp_path):
    (tmp_path / "a-cache").write_bytes(WHOLE[:-9])
    os.utime(tmp_path / "a-cache", ns=(0, 0))
    (tmp_path / "jaxtok-checked").touch()
    assert remove_cut_entries(tmp_path) == []  # older than the last look
    (tmp_path / "b-cache").write_bytes(WHOLE[:-9])
    assert remove_cut_entries(tmp_path) == ["b-cache"]


def test_no_folder_is_no_error(tmp_path):
    assert remove_cut_entries(tmp_path / "absent") == [] == remove_cut_entries("gs://bucket/cache")


def test_what_jax_writes_is_whole(tmp_path):
    """And a program whose entry was cut is written again, without a warning."""
    from jax.experimental import compilation_cache

    before = jax.config.jax_compilation_cache_dir  # pyright: ignore
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        compilation_cache.compilation_cache.reset_cache()
        program = lambda: jax.jit(lambda x: jnp.sin(x) + 0.125)(jnp.arange(3.0)).block_until_ready()
        program()
        entries = list(tmp_path.glob("*-cache"))
        assert entries and remove_cut_entries(tmp_path) == []
        for entry in entries:
            entry.write_bytes(entry.read_bytes()[:100])
        jax.clear_caches()
        assert len(remove_cut_entries(tmp_path)) == len(entries)
        program()
        assert all(len(entry.read_bytes()) > 100 for entry in entries)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.compilation_cache.reset_cache()
