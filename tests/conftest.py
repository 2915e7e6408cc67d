"""Shared by all tests: where the golden numbers lie, and models with the golden weights."""

import gc
import os
import signal
import sys

import numpy as np
import pytest

from mrcnn.core.memory import give_back
from tests.helpers import GOLDEN, ROOT, config_from, read_json

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

sys.path.insert(0, str(ROOT))

# The shell has processes in its background ignore SIGINT, and theirs too; tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Tests without TensorFlow run first: most mistakes show within seconds."""
    items.sort(key=lambda item: item.get_closest_marker("tf") is not None)


@pytest.fixture(autouse=True, scope="module")
def freed_memory():
    """Models and traces of a module are gone before the next begins: two processes in 4 GB."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()
        gc.collect()
        give_back()


@pytest.fixture(scope="session")
def golden_dir():
    return GOLDEN


@pytest.fixture(scope="session")
def golden_images():
    return dict(np.load(GOLDEN / "images.npz"))


@pytest.fixture(scope="session")
def resnet50_file(tmp_path_factory):
    """A weights file of the original's layout with the golden weights, 14 classes."""
    sys.path.insert(0, str(GOLDEN))
    from weights_for import write_h5

    path = tmp_path_factory.mktemp("weights") / "golden_resnet50.h5"
    write_h5(read_json("h5_layout_resnet50.json"), path)
    return path


@pytest.fixture(scope="session")
def detector(resnet50_file):
    """The `MaskRCNN` of the golden recording A, in float32."""
    from mrcnn.model import MaskRCNN

    model = MaskRCNN("inference", config_from(read_json("infer_A.json")["config"]), "logs")
    model.load_weights(resnet50_file, by_name=True)
    return model


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory, golden_images):
    """A small random model that takes half of what it sees for trousers, half for skirts."""
    import keras

    from mrcnn.model import MaskRCNN
    from mrcnn.presets import CompactConfig

    keras.utils.set_random_seed(0)
    values = {"IMAGE_MIN_DIM": 128, "IMAGE_MAX_DIM": 128, "COMPUTE_DTYPE": "float32"}
    values |= {"DETECTION_MAX_INSTANCES": 60, "IMAGES_PER_GPU": 1, "MASK_REFINE": False}
    model = MaskRCNN("inference", CompactConfig.from_dict(values), "logs")
    head = model.keras_model.get_layer("mrcnn_class_logits")
    kernel, bias = np.zeros(head.kernel.shape, np.float32), np.zeros(14, np.float32)
    kernel[:, 8] = np.random.default_rng(0).normal(0, 0.1, len(kernel))
    kernel[:, 9], bias[8:10] = -kernel[:, 8], 5
    head.kernel.assign(kernel)
    head.bias.assign(bias)
    # Masks that fill their boxes, so that garments overlap.
    mask_bias = model.keras_model.get_layer("mrcnn_mask").bias
    mask_bias.assign(np.full(mask_bias.shape, 5.0))
    model.random_layers = []
    logits = model.run_graph([golden_images["grace_hopper"]], [("logits", head.output)])["logits"]
    bias[9] += np.median(logits[..., 8] - logits[..., 9])
    head.bias.assign(bias)
    path = tmp_path_factory.mktemp("weights") / "small.h5"
    model.save_weights(path)
    return path
