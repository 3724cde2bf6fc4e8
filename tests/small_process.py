"""The command line of the smallest experiment as a process of its own: `python -m tests.small_process train
...`. Not a test.
"""

import sys

from experiments.image import instella_t2i
from jaxtok import cli
from tests.small_run import PRESETS

if __name__ == "__main__":
    experiment = instella_t2i
    cli.main("instella_t2i", PRESETS, experiment.stages, experiment.CLAIMS, experiment.__doc__, sys.argv[1:])
