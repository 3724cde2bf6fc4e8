"""The part of the contract that quantizers share when no step changes their state."""

from typing import Any

import flax.linen as nn
import jax


class FixedStateQuantizer(nn.Module):
    """Base of quantizers whose state, if they have any (a rotation, frozen codes), never changes."""

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """The same state; everything that is learned is a parameter."""
        del statistics, key
        return state
