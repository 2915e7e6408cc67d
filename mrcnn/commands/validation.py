"""Detection on validation images while a model trains: mask AP, and sample images."""

from typing import Any

import numpy as np

from mrcnn.coco.ground_truth import read_ground_truth
from mrcnn.data.dataset import CocoDataset, source_ids
from mrcnn.evaluation.per_image import coco_scores
from mrcnn.model import MaskRCNN
from mrcnn.network import weights
from mrcnn.predictor import Predictor
from mrcnn.render.drawing import draw_instances


class ValidationDetector:
    """An inference model that copies the weights of a model in training whenever it is used.

    Args:
        model: in training mode.
        dataset: made from one COCO file.
        count: number of images, chosen by the seed: the same ones each time.
    """

    def __init__(
        self,
        model: MaskRCNN,
        dataset: CocoDataset,
        count: int = 100,
        seed: int = 0,
    ) -> None:
        self._model, self._dataset = model, dataset
        order = np.random.default_rng(seed).permutation(dataset.num_images)
        self._images = sorted(int(i) for i in order[:count])
        ids = [dataset.image_info[i]["id"] for i in self._images]
        self._ground_truth = read_ground_truth(dataset.tables[0], image_ids=ids)
        self._detector: MaskRCNN | None = None

    def mask_ap(self) -> float:
        """COCO's mask AP on the chosen images, 0 to 1."""
        predictor = self._predictor(min_score=0.05)
        ids = source_ids(self._dataset)
        results: list[Any] = []
        for i in self._images:
            (result,) = predictor([self._dataset.load_image(i)])
            results += result.to_coco(self._dataset.image_info[i]["id"], ids)
        return coco_scores(self._ground_truth, results, ["segm"])["segm"]["AP"] or 0.0

    def draw_samples(self, count: int) -> list[tuple[str, np.ndarray]]:
        """The first of the chosen images with their detections: names, and uint8 [H, W, 3]."""
        predictor = self._predictor(min_score=0.5)
        samples = []
        for i in self._images[:count]:
            image = self._dataset.load_image(i)
            (found,) = predictor([image])
            drawn = draw_instances(
                image,
                np.asarray(found.boxes),
                found.masks,
                found.class_ids,
                found.class_names,
                found.scores,
            )
            samples.append((f"image {self._dataset.image_info[i]['id']}", drawn))
        return samples

    def _predictor(self, min_score: float) -> Predictor:
        if self._detector is None:
            config = self._model.config
            values = {**config.to_dict(), "IMAGES_PER_GPU": 1, "GPU_COUNT": 1}
            values["DETECTION_MIN_CONFIDENCE"] = 0.05
            values["SLEEVE_REFINE"] = False  # a head fits the weights that it was trained on
            values["MASK_REFINE"] = False  # the network is measured, and there are many detections
            self._detector = MaskRCNN("inference", type(config).from_dict(values), "logs")
            self._detector.class_names = self._model.class_names
        trained = weights.weighted_layers(self._model.keras_model)
        for name, pairs in weights.weighted_layers(self._detector.keras_model).items():
            for (_, ours), (_, variable) in zip(pairs, trained[name], strict=True):
                ours.assign(variable.numpy())
        self._detector.random_layers = []
        return Predictor(self._detector, batch_size=1, min_score=min_score)
