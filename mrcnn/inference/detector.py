"""What runs over images and videos need of a detector, such as `mrcnn.predictor.Predictor`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from mrcnn.inference.results import Result


class Detector(Protocol):
    """For `pipeline.run_images`.

    `prepare` and `to_result` are called in threads, `detect` in the thread of the caller.
    """

    class_names: Sequence[str]
    batch_size: int

    @property
    def fingerprint(self) -> str:
        """A text that changes with everything that changes the results."""

    def prepare(self, image: np.ndarray) -> Any:
        """An image as `detect` and `to_result` take it."""

    def detect(self, batch: list[Any]) -> Sequence[Any]:
        """The raw results of at most `batch_size` prepared images."""

    def to_result(self, prepared: Any, raw: Any) -> Result:
        """The result of one image."""


class StreamDetector(Protocol):
    """For `video.run_video`."""

    def stream(self, images: Iterable[np.ndarray]) -> Iterator[Result]:
        """Yields the result of each image."""
