"""matterport's `mrcnn.parallel_model`, for code that imports it."""

from typing import Any


def ParallelModel(keras_model: Any, gpu_count: int) -> Any:
    """The model itself for one GPU.

    Raises:
        ValueError: for more; a model can't be split over devices after it is built.
    """
    if gpu_count > 1:
        raise ValueError(
            f"got gpu_count {gpu_count}; train on one device with IMAGES_PER_GPU raised by as much"
        )
    return keras_model
