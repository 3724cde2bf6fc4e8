"""Block sizes by device kind: data, measured where a number is given, otherwise bounded by on-chip memory."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How many tokens and codes are compared at a time.

    Attributes:
      tokens: rows of one tile of scores.
      codes: columns of one tile of scores.
    """

    tokens: int
    codes: int


# CPU, one core of a shared server, N=16,384, K=8,192, D=8/64/256, best of 3 to 5: 8.5-9.6/3.8-4.5/1.9-2.4
# times as fast as plain torch matmul + argmax in four runs; the products alone take 26/72/94 % of the time.
# A tile of 2 MB stays in the cache. Minima per lane over 512x256 were 1.14/0.99/0.91 times as fast as this.
XLA = {"cpu": Blocks(512, 1024), "": Blocks(8192, 4096)}
# A tile of scores, two of codes and one of tokens fit the 16 MB of vector memory that a kernel may use by
# default.
PALLAS_TPU = {"": Blocks(512, 512)}
PALLAS_GPU = {"": Blocks(64, 64)}


def blocks_for(table: dict[str, Blocks], kind: str | None = None) -> Blocks:
    """The entry of a table whose key the device kind starts with (longest first; "" fits all).

    Args:
      table: block sizes by lower-case beginning of the device kind.
      kind: device kind; default that of the target (the current mesh's, else the first local device's).
    """
    if kind is None:
        mesh = jax.sharding.get_abstract_mesh()
        device = None if mesh.empty else getattr(mesh, "abstract_device", None)
        kind = device.device_kind if device is not None else jax.devices()[0].device_kind
    kind = str(kind).lower()
    return table[max((key for key in table if kind.startswith(key)), key=len)]
