"""Configurations for DeepFashion2's garments: the original author's, and a compact one."""

import numpy as np

from mrcnn.config import Config
from mrcnn.core.classes import DEEPFASHION2


class ClothingConfig(Config):
    """Mask R-CNN with ResNet-101 on DeepFashion2, trained by the original author's recipe."""

    NAME = "clothing"
    NUM_CLASSES = len(DEEPFASHION2)
    IMAGES_PER_GPU = 8  # the recipe's batch; halve it where memory is short


class ResNet50Config(ClothingConfig):
    """The same with ResNet-50, which is smaller and faster."""

    BACKBONE = "resnet50"


class CompactConfig(ClothingConfig):
    """MobileNetV2 at 512 pixels with slim heads: a weights file under 25 MB, made for CPUs."""

    NAME = "compact"
    BACKBONE = "mobilenet_v2"
    MEAN_PIXEL = np.array([127.5, 127.5, 127.5])  # the graph then divides by 127.5
    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 512
    TOP_DOWN_PYRAMID_SIZE = 128
    RPN_CONV_CHANNELS = 128
    MASK_CONV_CHANNELS = 128
    FPN_CLASSIF_FC_LAYERS_SIZE = 1024
    # At half the input size, but garments are large: only the largest scale shrinks.
    RPN_ANCHOR_SCALES = (32, 64, 128, 256, 384)
    PRE_NMS_LIMIT = 2000
    POST_NMS_ROIS_TRAINING = 1000
    POST_NMS_ROIS_INFERENCE = 300
    TRAIN_ROIS_PER_IMAGE = 100
    MAX_GT_INSTANCES = 30
    DETECTION_MAX_INSTANCES = 50
    DETECTION_PER_CLASS = True  # rare classes are seldom the likeliest, but often the second
    MASK_REFINE = True  # 28 cells over a coat are coarse; the image shows its edge


CONFIGS: dict[str, type[ClothingConfig]] = {
    "resnet101": ClothingConfig,
    "resnet50": ResNet50Config,
    "compact": CompactConfig,
}
