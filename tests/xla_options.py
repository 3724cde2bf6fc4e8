"""What this jaxlib's XLA can be told, known before JAX is imported."""

import importlib.metadata

# XLA's older emitters for CPUs compile a training step in half the time (JAX 0.10.2: 1.9 s in place of 5.3);
# the option is gone with jaxlib 0.12, which ends a process that asks for it.
HAS_OLD_EMITTERS = importlib.metadata.version("jaxlib").startswith("0.10.")
OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
