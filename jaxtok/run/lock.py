"""One run per work directory, one writer per token file."""

import contextlib
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jax

log = logging.getLogger(__name__)


@contextlib.contextmanager
def workdir_lock(workdir: str | Path) -> Iterator[None]:
    """Holds `workdir` for this run; two runs writing into one directory would destroy each other's
    checkpoints.

    The operating system owns the lock and drops it when the process dies in whatever way, so a killed run
    never leaves a stale one. Only process 0 of a multi-process run takes it. File systems without locks (some
    network mounts) and remote addresses (`gs://...`) are not protected; the log says so.

    Raises:
      RuntimeError: Another live run holds the directory.
    """
    if jax.process_index() != 0:
        yield
        return
    if "://" in str(workdir):
        log.info("no lock on %s: remote storage has none", workdir)
        yield
        return
    path = Path(workdir) / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RuntimeError(
                f"another run is using {workdir} ({file.read().strip() or 'its owner is unknown'}). "
                "Wait for it, stop it, or choose another --workdir."
            ) from None
        except OSError as error:
            log.warning("no lock on %s: %s. Make sure that only one run uses it.", workdir, error)
        # The file stays after the run: removing it would let two later runs lock two different files.
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
        yield


@contextlib.contextmanager
def shard_lock(folder: Path, shard: int) -> Iterator[None]:
    """Holds one shard of a folder of token files: machines may share a folder, but not a file in it.

    All shards share the file `encode.lock`, of which each has the byte of its number. The operating system
    drops the lock when the process dies. File systems without locks are not protected; the log says so.

    Raises:
      RuntimeError: another process is writing this shard.
    """
    with open(folder / "encode.lock", "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard)
        except (BlockingIOError, PermissionError):  # which one depends on the file system
            raise RuntimeError(
                f"another `encode` is writing shard {shard} in {folder}. Wait for it or stop it; several can "
                "share the work of one folder with --part and --parts."
            ) from None
        except OSError as error:
            log.warning("no lock on %s: %s. Make sure that only one `encode` writes a shard.", folder, error)
        yield
