"""The original's shapes sample: squares and discs, and small networks that learn them."""

import numpy as np

from mrcnn import utils
from mrcnn.config import Config

COLORS = {"square": (220, 40, 40), "disc": (40, 60, 220)}


class ShapesConfig(Config):
    NAME = "Shapes"
    BACKBONE = "mobilenet_v2"
    MEAN_PIXEL = np.array([127.5] * 3)
    COMPUTE_DTYPE = "float32"
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 3
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    TOP_DOWN_PYRAMID_SIZE = 32
    RPN_CONV_CHANNELS = 32
    MASK_CONV_CHANNELS = 16
    FPN_CLASSIF_FC_LAYERS_SIZE = 64
    TRAIN_ROIS_PER_IMAGE = 32
    POST_NMS_ROIS_TRAINING = 200
    POST_NMS_ROIS_INFERENCE = 50
    STEPS_PER_EPOCH = 3
    VALIDATION_STEPS = 1


def five_convolutions(image, stage5, train_bn):
    """C1..C5 of a backbone with a convolution for each."""
    from keras import layers as KL

    from mrcnn.network.layers import BatchNorm, Conv2D

    maps, x = [], KL.Rescaling(1 / 127.5)(image)
    for i, channels in enumerate((8, 16, 32, 64, 96), start=1):
        x = Conv2D(channels, 3, strides=2, padding="same", name=f"own{i}_conv")(x)
        x = BatchNorm(train_bn=train_bn, name=f"own{i}_bn")(x)
        x = KL.Activation("relu", name=f"own{i}_relu")(x)
        maps.append(x)
    return maps


class SmallConfig(ShapesConfig):
    """Traced in a fraction of the time: for tests of what is alike for all backbones."""

    BACKBONE = staticmethod(five_convolutions)
    COMPUTE_BACKBONE_SHAPE = staticmethod(
        lambda shape: np.array([[shape[0] // s, shape[1] // s] for s in (4, 8, 16, 32, 64)])
    )


class ShapesDataset(utils.Dataset):
    """Squares and discs, drawn when they are asked for, as in the original's shapes sample."""

    def load_shapes(self, count, size=128):
        self.add_class("shapes", 1, "square")
        self.add_class("shapes", 2, "disc")
        rng = np.random.default_rng(3)
        for i in range(count):
            shapes = [
                (name, rng.integers(30, size - 30, 2), int(rng.integers(14, 26)))
                for name in rng.permutation(list(COLORS))
            ]
            self.add_image("shapes", image_id=i, path=None, width=size, height=size, shapes=shapes)

    def _mask(self, shape, info):
        name, (y, x), radius = shape
        rows, columns = np.mgrid[: info["height"], : info["width"]]
        dy, dx = np.abs(rows - y), np.abs(columns - x)
        return np.maximum(dy, dx) <= radius if name == "square" else dy**2 + dx**2 <= radius**2

    def load_image(self, image_id):
        info = self.image_info[image_id]
        image = np.full((info["height"], info["width"], 3), 200, np.uint8)
        for shape in info["shapes"]:
            image[self._mask(shape, info)] = COLORS[shape[0]]
        return image

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        masks = np.stack([self._mask(s, info) for s in info["shapes"]], axis=-1)
        # What lies below is hidden by what lies above.
        for i in range(masks.shape[-1] - 1):
            masks[..., i] &= ~masks[..., i + 1 :].any(axis=-1)
        ids = np.array([self.class_names.index(s[0]) for s in info["shapes"]])
        return masks, ids.astype(np.int32)

    def image_reference(self, image_id):
        return super(self.__class__, self).image_reference(image_id)


def shapes(count):
    dataset = ShapesDataset()
    dataset.load_shapes(count)
    dataset.prepare()
    return dataset
