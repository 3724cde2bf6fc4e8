import os
import signal
import subprocess
import sys

import pytest

from jaxtok.run.lock import shard_lock, workdir_lock

_HOLDER = """
import pathlib, sys, time
from jaxtok.run.lock import shard_lock, workdir_lock
with workdir_lock(sys.argv[1]), shard_lock(pathlib.Path(sys.argv[1]), 3):
    print("held", flush=True)
    time.sleep(60)
"""


def test_refused_while_another_run_lives_and_taken_over_when_it_was_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(RuntimeError, match=rf'another run is using .*"pid": {holder.pid}.*--workdir')
        with refused, workdir_lock(tmp_path):
            pass
        with shard_lock(tmp_path, 2):
            pass
        refused = pytest.raises(
            RuntimeError, match=r"another `encode` is writing shard 3 .*--part and --parts"
        )
        with refused, shard_lock(tmp_path, 3):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    with workdir_lock(tmp_path), shard_lock(tmp_path, 3):
        pass


def test_can_be_taken_again_after_release_and_creates_the_directory(tmp_path):
    for _ in range(2):
        with workdir_lock(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()


def test_remote_directories_are_not_locked():
    with workdir_lock("gs://bucket/run"):
        pass
