"""A program of a cluster's process, run by tests/training/test_devices.py.

    python distributed_worker.py FOLDER DEVICES IMAGES EPOCHS

Trains the small network of the shapes sample on DEVICES logical CPUs with IMAGES on each, goes on
with FOLDER's run if there is one, and writes all weights to FOLDER/weights_<index>.npz. Exit
status 3: another process was lost.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))


def main():
    import keras
    import numpy as np
    import tensorflow as tf

    from mrcnn.model import MaskRCNN
    from mrcnn.training.stopping import WorkerLost
    from tests.helpers.shapes import SmallConfig, shapes

    folder, devices, images, epochs = sys.argv[1], *map(int, sys.argv[2:])
    if devices > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * devices
        )

    class Config(SmallConfig):
        GPU_COUNT = devices
        IMAGES_PER_GPU = images
        STEPS_PER_EPOCH = 3

    keras.utils.set_random_seed(1)
    model = MaskRCNN("training", Config(), folder)
    if list(Path(folder).glob("*/checkpoints.json")):
        model.resume()
    try:
        model.train(shapes(8), shapes(4), 0.01, epochs, "all", seed=5, workers=0)
    except WorkerLost as error:
        print(error)
        return 3
    values = {str(i): v.numpy() for i, v in enumerate(model.keras_model.variables)}
    np.savez(Path(folder) / f"weights_{model.cluster.index}.npz", **values)
    return 0


if __name__ == "__main__":
    sys.exit(main())
