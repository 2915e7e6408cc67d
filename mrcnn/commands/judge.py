"""Looking at a model while it trains: AP on some validation images, and what it finds there."""

import numpy as np

from mrcnn.coco.ground_truth import read_ground_truth
from mrcnn.evaluation.per_image import coco_scores
from mrcnn.model import MaskRCNN
from mrcnn.network import weights
from mrcnn.predictor import Predictor
from mrcnn.render.drawing import draw_instances


class Judge:
    """A detector that takes over the weights of a model in training whenever it is asked.

    Args:
        model: `MaskRCNN` in training mode.
        dataset: `CocoDataset` to judge it by.
        annotations: path of the data set's COCO file.
        count: int, images: the same ones each time; all, if there are no more.
        seed: of their choice.
    """

    def __init__(self, model, dataset, annotations, count=100, seed=0):
        self._model, self._dataset = model, dataset
        order = np.random.default_rng(seed).permutation(dataset.num_images)
        self._pictures = sorted(int(i) for i in order[:count])
        ids = [dataset.image_info[i]["id"] for i in self._pictures]
        self._truth = read_ground_truth(annotations, image_ids=ids)
        self._detector = None

    def mask_ap(self):
        """COCO's mask AP on the chosen images, 0 to 1."""
        predictor = self._predictor(min_score=0.05)
        results = []
        for image_id in self._pictures:
            (result,) = predictor([self._dataset.load_image(image_id)])
            results += result.to_coco(self._dataset.image_info[image_id]["id"])
        return coco_scores(self._truth, results, ["segm"])["segm"]["AP"] or 0.0

    def samples(self, count=4):
        """[(name, uint8 [H, W, 3])]: the first of the chosen images with what is found drawn."""
        predictor = self._predictor(min_score=0.5)
        drawn = []
        for image_id in self._pictures[:count]:
            image = self._dataset.load_image(image_id)
            (found,) = predictor([image])
            boxes = np.asarray(found.boxes)
            picture = draw_instances(
                image, boxes, found.masks, found.class_ids, found.class_names, found.scores
            )
            drawn.append((f"image {self._dataset.image_info[image_id]['id']}", picture))
        return drawn

    def _predictor(self, min_score):
        if self._detector is None:
            config = self._model.config
            values = {**config.to_dict(), "IMAGES_PER_GPU": 1, "GPU_COUNT": 1}
            values["DETECTION_MIN_CONFIDENCE"] = 0.05
            values["SLEEVE_REFINE"] = False  # a head fits the weights that it was trained on
            values["MASK_REFINE"] = False  # the network is judged, and the faint finds are many
            self._detector = MaskRCNN("inference", type(config).from_dict(values), "logs")
            self._detector.class_names = self._model.class_names
        theirs = weights.weighted_layers(self._model.keras_model)
        for name, pairs in weights.weighted_layers(self._detector.keras_model).items():
            for (_, ours), (_, variable) in zip(pairs, theirs[name], strict=True):
                ours.assign(variable.numpy())
        self._detector.random_layers = []
        return Predictor(self._detector, batch_size=1, min_score=min_score)
