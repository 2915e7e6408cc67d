"""What several test modules share: folders, golden files, and the modules beside this one."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"


def read_json(name):
    return json.loads((GOLDEN / name).read_text())


def config_from(values, **overrides):
    """The `Config` that a golden json describes."""
    from mrcnn.config import Config

    # Random weights make boxes without area, and the recordings come from TensorFlow 1.15.
    recorded = {"COMPUTE_DTYPE": "float32", "NMS_REPEAT_EMPTY_BOXES": True}
    return Config.from_dict({**values, **recorded, **overrides})
