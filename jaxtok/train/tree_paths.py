"""Names of the leaves of a state: `params/encoder/blocks/attention/q/kernel`.

Sharding rules, optimizer groups, checkpoints and norm tables all speak about leaves by these names.
"""

from collections.abc import Callable
from typing import Any

import jax


def path_of(key_path: tuple[Any, ...]) -> str:
    """Joins a JAX key path to `a/b/c`; indices of tuples and fields of named tuples are segments too."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Returns `{path: leaf}` in the order of `jax.tree.leaves`; empty nodes and None have no entry."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Maps `function(path, leaf)` over the leaves of a tree."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_of(path), leaf), tree)
