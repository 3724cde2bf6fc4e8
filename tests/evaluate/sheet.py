"""Data of the evaluation sheet whose metrics are known to twelve digits. Not a test."""

import numpy as np

_I = np.arange(64)
A = np.stack([np.sin(0.7 * _I), np.cos(1.3 * _I), np.sin(2.1 * _I + 0.5)], axis=1)
B = np.stack([1.2 * np.sin(0.9 * _I + 0.2), 0.8 * np.cos(1.1 * _I) + 0.1, np.sin(1.7 * _I)], axis=1)
