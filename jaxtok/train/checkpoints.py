"""Checkpoints that restore on any device mesh, and that notice when they are damaged.

A checkpoint is `<directory>/<step>/{state,metadata}`, written by Orbax in the background and committed at the
end, so a run that dies while saving leaves no half checkpoint behind. The metadata holds a hash per array
(`fingerprint.py`): a flipped bit would otherwise load silently.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from jaxtok.aliases import current_path
from jaxtok.param_trees import unflatten
from jaxtok.train.fingerprint import fingerprint
from jaxtok.train.tree_paths import leaves_by_path

log = logging.getLogger(__name__)


class DamagedCheckpoint(RuntimeError):
    """A stored checkpoint is incomplete or its bytes are not the ones that were saved."""


class Checkpoints:
    """The checkpoints of one stage of one run.

    Call every method from all processes, in the same order: saving and restoring are collective. Give arrays
    of PRNG keys as `jax.random.key_data`.

    Args:
      directory: Where they live; created by the first save. Local, or any file system that `etils.epath`
        knows.
      keep: How many of the newest ones stay.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least the newest checkpoint has to stay: use 1 or more.")
        path = epath.Path(directory)
        self.directory = path if "://" in str(directory) else path.resolve()
        self._keep = keep
        self._orbax: ocp.training.Checkpointer | None = None
        self._in_flight: int | None = None
        self._response: Any = None  # of the save in flight
        self._damaged: set[int] = set()

    def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Starts saving in the background; the arrays may be donated as soon as this returns.

        Saving a step again replaces it. Waits for the previous save, and raises if that one failed.

        Args:
          step: Number of finished optimizer steps.
          state: Pytree of arrays.
          metadata: Anything JSON can hold: configuration, position in the data, versions, key.

        Raises:
          ValueError: The state holds typed PRNG keys or Python numbers, or the metadata is not JSON.
          RuntimeError: The previous save failed.
        """
        self.wait()
        arrays = leaves_by_path(state)
        for path, leaf in arrays.items():
            if not hasattr(leaf, "dtype"):
                raise ValueError(f"{path} is {leaf!r}; a state holds arrays only, so wrap it in jnp.asarray.")
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                raise ValueError(f"{path} is a typed PRNG key; store jax.random.key_data(key) instead.")
        record = {"user": metadata, "hashes": {path: fingerprint(leaf) for path, leaf in arrays.items()}}
        record["checksum"] = _checksum(record)
        self._set_damaged_aside()
        self._response = self._writer().save_checkpointables_async(
            step, {"state": unflatten(arrays), "metadata": record}, force=True, overwrite=step in self.steps()
        )
        self._in_flight = step

    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, ascending; one that is still being written is not among them."""
        if not self.directory.exists():
            return []
        steps = [checkpoint.step for checkpoint in self._writer().checkpoints]
        return sorted(step for step in steps if step != self._in_flight)

    def latest(self) -> int | None:
        """The newest committed step, or None."""
        return max(self.steps(), default=None)

    def restore(
        self, target: Any, step: int | None = None, partial: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """Loads a state into the shapes, dtypes and shardings of `target`, on any number of devices.

        Call it outside of `jax.set_mesh`. What was saved on other devices or with other rules restores all
        the same.

        Args:
          target: Pytree of `jax.ShapeDtypeStruct` with shardings (a leaf without one goes to the first local
            device).
          step: Which checkpoint; by default the newest that is whole. Damaged ones are named in a warning and
            skipped.
          partial: Load only the leaves of `target`, where otherwise the checkpoint must hold exactly those.

        Returns:
          The state and the metadata given to `save`.

        Raises:
          FileNotFoundError: There is no checkpoint (of that step).
          ValueError: The checkpoint is whole but its leaves differ from `target`: the differences are listed.
          DamagedCheckpoint: None is whole, or the one asked for is not.
        """
        self.wait()
        available = self.steps()
        if not available or (step is not None and step not in available):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise FileNotFoundError(f"{wanted} in {self.directory}; steps there: {available}.")
        candidates = available[::-1] if step is None else [step]
        problems = []
        for candidate in candidates:
            restored, problem = None, "another process cannot read it"
            try:
                restored = self._load(candidate, target, partial)
            except DamagedCheckpoint as error:
                problem = str(error)
            # All processes must take the same one, though perhaps only one of them met the damage.
            damaged = on_any_process(restored is None)
            if restored is not None and not damaged:
                return restored
            log.warning("checkpoint of step %d in %s is damaged: %s", candidate, self.directory, problem)
            problems.append(f"step {candidate}: {problem}")
            self._damaged.add(candidate)
        raise DamagedCheckpoint(f"no whole checkpoint in {self.directory}: " + "; ".join(problems))

    def check(self) -> None:
        """Raises if a background save has failed; does not wait. Meant for every step of a loop."""
        if self._in_flight is not None and not self._writer().is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for the background save, and raises if it failed."""
        if self._in_flight is None:
            return
        step, self._in_flight = self._in_flight, None
        response, self._response = self._response, None
        problems = []
        # Orbax tells either of the two. Without its result a response keeps a thread, an event loop and three
        # file descriptors for good.
        for finish in (self._writer().wait, response.result):
            try:
                finish()
            except Exception as error:
                problems.append(error)
        if problems:
            self._writer().reload()
            raise RuntimeError(
                f"saving the checkpoint of step {step} failed: {problems[0]}. "
                f"The last whole one is of step {self.latest()}."
            ) from problems[0]
        log.info("checkpoint of step %d is safe in %s", step, self.directory)

    def close(self) -> None:
        """Waits, raises if the last save failed, and frees the background threads."""
        try:
            self.wait()
        finally:
            if self._orbax is not None:
                self._orbax.close()
                self._orbax = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _writer(self) -> ocp.training.Checkpointer:
        if self._orbax is None:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                context=_context(),
                # Orbax's own policies do not fit its protocol for type checkers.
                preservation_policy=ocp.training.preservation_policies.LatestN(self._keep),  # pyright: ignore[reportArgumentType]
            )
        return self._orbax

    def _load(self, step: int, target: Any, partial: bool) -> tuple[Any, dict[str, Any]]:
        record = self._read(step, {"metadata": None}, partial)["metadata"]
        if not isinstance(record, dict) or record.get("checksum") != _checksum(record):
            raise DamagedCheckpoint("its metadata is not what was saved")
        wanted = leaves_by_path(target)
        stored = {current_path(path): path for path in record["hashes"]}
        hashes = {path: record["hashes"][name] for path, name in stored.items()}
        _compare(hashes, wanted, partial, f"checkpoint of step {step} in {self.directory}")
        abstract = unflatten({stored[path]: _with_sharding(leaf) for path, leaf in wanted.items()})
        read = leaves_by_path(self._read(step, {"state": abstract}, partial)["state"])
        arrays = {path: read[stored[path]] for path in wanted}
        changed = [path for path in wanted if fingerprint(arrays[path]) != hashes[path]]
        if changed:
            raise DamagedCheckpoint(f"the stored bytes of {_listed(changed)} have changed")
        state = jax.tree.unflatten(jax.tree.structure(target), [arrays[path] for path in wanted])
        return state, record["user"]

    def _read(self, step: int, what: dict[str, Any], partial: bool) -> dict[str, Any]:
        try:
            with _context(partial):
                return ocp.load_checkpointables(self.directory / str(step), what)
        except Exception as error:  # whatever a storage layer raises on bytes that make no sense
            raise DamagedCheckpoint(f"cannot be read ({type(error).__name__}: {str(error)[:300]})") from error

    def _set_damaged_aside(self) -> None:
        """Renames what `restore` refused, so that it does not count among the newest that stay."""
        if not self._damaged:
            return
        if jax.process_index() == 0:
            for step in self._damaged:
                aside = self.directory / f"damaged-{step}"
                if aside.exists():
                    aside.rmtree()
                (self.directory / str(step)).rename(aside)
        on_any_process(True)  # a barrier
        self._damaged.clear()
        self._writer().reload()


def _context(partial: bool = False) -> ocp.Context:
    context = ocp.Context()
    registry = ocp.handlers.local_registry()
    # Without this Orbax would take the dictionary for a tree of arrays.
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="metadata")
    context.checkpointables.registry = registry
    context.pytree.loading.partial_load = partial
    return context


def _checksum(record: dict[str, Any]) -> str:
    content = {name: value for name, value in record.items() if name != "checksum"}
    try:
        text = json.dumps(content, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"checkpoint metadata must be plain JSON: {error}") from error
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _compare(stored: dict[str, str], wanted: dict[str, Any], partial: bool, what: str) -> None:
    """Raises a ValueError that lists how the stored leaves differ from the wanted ones."""
    described = {path: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for path, leaf in wanted.items()}
    found = {path: digest.rpartition(":")[0] for path, digest in stored.items()}
    missing = [f"{path} {text}" for path, text in described.items() if path not in found]
    unexpected = (
        [] if partial else [f"{path} {text}" for path, text in found.items() if path not in described]
    )
    changed = [
        f"{path} {found[path]} where {text} is wanted"
        for path, text in described.items()
        if path in found and found[path] != text
    ]
    groups = {"missing": missing, "unexpected": unexpected, "different": changed}
    problems = [f"{name}: {_listed(paths)}" for name, paths in groups.items() if paths]
    if problems:
        raise ValueError(
            f"{what} does not fit this configuration. " + "; ".join(problems) + ". "
            "Use the configuration it was saved with, another --workdir, or --init-from for a partial load."
        )


def _listed(paths: list[str], limit: int = 20) -> str:
    more = f" and {len(paths) - limit} more" if len(paths) > limit else ""
    return ", ".join(paths[:limit]) + more


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def on_any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; collective."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
