import json

import numpy as np
import pytest


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)


@pytest.fixture
def metrics_file(tmp_path):
    lines = [json.dumps({"step": step, "loss": 100.0 / (step + 1), "note": "text"}) for step in range(50)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
