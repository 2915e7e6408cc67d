"""`MaskRCNN`, and every name that matterport's users import from `mrcnn.model`."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mrcnn.config import Config
from mrcnn.core import classes
from mrcnn.core.boxes import compute_backbone_shapes, config_anchors, denorm_boxes, norm_boxes
from mrcnn.core.files import PathLike
from mrcnn.core.image import compose_image_meta, mold_image, parse_image_meta, unmold_image
from mrcnn.data.dataset import Dataset, source_ids
from mrcnn.data.generators import DataGenerator, data_generator
from mrcnn.data.samples import load_image_gt
from mrcnn.data.targets import build_detection_targets, build_rpn_targets, generate_random_rois
from mrcnn.network import build as network
from mrcnn.network import detection, pretrained, weights
from mrcnn.network.backbone import conv_block, fpn_graph, identity_block, resnet_graph
from mrcnn.network.heads import (
    DetectionLayer,
    build_fpn_mask_graph,
    fpn_classifier_graph,
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    refine_detections_graph,
)
from mrcnn.network.layers import BatchNorm
from mrcnn.network.roi import DetectionTargetLayer, PyramidROIAlign
from mrcnn.network.rpn import (
    ProposalLayer,
    build_rpn_model,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
    rpn_graph,
)
from mrcnn.network.tensor_ops import (
    apply_box_deltas_graph,
    batch_pack_graph,
    clip_boxes_graph,
    denorm_boxes_graph,
    log2_graph,
    norm_boxes_graph,
    overlaps_graph,
    parse_image_meta_graph,
    smooth_l1_loss,
    trim_zeros_graph,
)
from mrcnn.siblings import sleeves
from mrcnn.siblings.head import SiblingHead
from mrcnn.training import checkpoints, loop, preflight, run_folders, step
from mrcnn.training.devices import Cluster, find_cluster
from mrcnn.training.log import Row
from mrcnn.training.options import TrainingOptions

__all__ = [
    "BatchNorm",
    "DataGenerator",
    "DetectionLayer",
    "DetectionTargetLayer",
    "MaskRCNN",
    "ProposalLayer",
    "PyramidROIAlign",
    "apply_box_deltas_graph",
    "batch_pack_graph",
    "build_detection_targets",
    "build_fpn_mask_graph",
    "build_rpn_model",
    "build_rpn_targets",
    "clip_boxes_graph",
    "compose_image_meta",
    "compute_backbone_shapes",
    "conv_block",
    "data_generator",
    "denorm_boxes",
    "denorm_boxes_graph",
    "detection_targets_graph",
    "fpn_classifier_graph",
    "fpn_graph",
    "generate_random_rois",
    "identity_block",
    "load_image_gt",
    "log",
    "log2_graph",
    "mold_image",
    "mrcnn_bbox_loss_graph",
    "mrcnn_class_loss_graph",
    "mrcnn_mask_loss_graph",
    "norm_boxes",
    "norm_boxes_graph",
    "overlaps_graph",
    "parse_image_meta",
    "parse_image_meta_graph",
    "refine_detections_graph",
    "resnet_graph",
    "rpn_bbox_loss_graph",
    "rpn_class_loss_graph",
    "rpn_graph",
    "smooth_l1_loss",
    "trim_zeros_graph",
    "unmold_image",
]


class MaskRCNN:
    """Mask R-CNN with matterport's interface.

    Attributes:
        keras_model: the Keras model; its layers have matterport's names.
        class_names: names by class id, background first; from the weights file or the data
            set, else by the class count (`classes.names_for`).
        category_ids: the data set's ids by class id, from there too, else the class ids.
        sleeve_head: of the weights file, if SLEEVE_REFINE asks for it, else None.
        epoch: epochs trained so far.
        log_dir, checkpoint_path: of the current run; `train` makes the folder, under a later
            minute's name if another run has this one.

    Args:
        mode: "training" or "inference".
        model_dir: folder that run folders are made in.
    """

    def __init__(self, mode: str, config: Config, model_dir: PathLike) -> None:
        if mode not in ("training", "inference"):
            raise ValueError(f"got mode {mode!r}; use 'training' or 'inference'")
        config.validate()
        self.mode, self.config, self.model_dir = mode, config, str(model_dir)
        self.class_names: Sequence[str] = classes.names_for(config.NUM_CLASSES)
        self.category_ids: Sequence[int] = classes.check_ids(None, config.NUM_CLASSES)
        # Before anything else of TensorFlow: several machines must join at the start.
        alone = Cluster(tf.distribute.get_strategy())
        self.cluster = find_cluster(config.GPU_COUNT) if mode == "training" else alone
        with self.cluster.strategy.scope():
            self.keras_model = self.build(mode, config)
        # Layers that no file has filled yet; none may be left for real detections.
        self.random_layers = list(weights.weighted_layers(self.keras_model))
        self._anchors: dict[tuple[int, ...], np.ndarray] = {}
        self.progress: loop.Progress | None = None
        self.sleeve_head: SiblingHead | None = None
        # Of the file's weights, where a `Predictor` has scaled them in place.
        self.digest: bytes | None = None
        if mode == "inference":
            describe = sleeves.describe if self._refines_sleeves else None
            self._detections = detection.DetectionGraph(self.keras_model, describe)
        self.set_log_dir()

    @property
    def _refines_sleeves(self) -> bool:
        # getattr: configurations written for matterport's package lack it.
        return self.mode == "inference" and getattr(self.config, "SLEEVE_REFINE", False)

    @property
    def traces(self) -> int:
        """How often the detection graph was traced: once an input shape."""
        return self._detections.traces

    def build(self, mode: str, config: Config) -> keras.Model:
        """The Keras model of a mode; see `mrcnn.network.build` for its inputs and outputs."""
        if mode == "training":
            return network.build_training_model(config)
        return network.build_inference_model(config)

    # --- Weights and run folders ----------------------------------------------------------

    def load_weights(
        self, filepath: PathLike, by_name: bool = False, exclude: Iterable[str] | None = None
    ) -> weights.LoadReport:
        """Loads a weights file; see `weights.load`.

        Class names come along where the file carries them and no class layer is excluded. A
        warning names the layers that the file has no weights for.
        """
        # Before the first weight changes, as all that can be wrong with the file.
        head = self._read_sleeve_head(filepath) if self._refines_sleeves else None
        report = weights.load(self.keras_model, filepath, by_name, exclude or ())
        self.random_layers = [n for n in self.random_layers if n not in report.loaded]
        left = [n for n in report.missing if n in self.random_layers]
        if left and self.mode == "inference":
            warnings.warn(
                f"{filepath} has no weights for {len(left)} layers, which stay random: "
                f"{', '.join(left)}; detections will differ from run to run",
                stacklevel=2,
            )
        if report.class_names:
            self.class_names = report.class_names
            self.category_ids = classes.check_ids(report.category_ids, len(self.class_names))
        self.sleeve_head = head or self.sleeve_head
        self.set_log_dir(filepath)
        return report

    def _read_sleeve_head(self, filepath: PathLike) -> SiblingHead:
        names = weights.inspect(filepath).class_names or self.class_names
        return sleeves.read_head(filepath, names, self.config.TOP_DOWN_PYRAMID_SIZE)

    def save_weights(self, filepath: PathLike, dtype: str = "float32") -> None:
        """Writes weights, classes, configuration and sleeve head; see `weights.save`.

        Raises a ValueError for class names with which the file could not be loaded again.
        """
        names = classes.check_names(self.class_names, self.config.NUM_CLASSES)
        # A file that says that its head is used must have one.
        config = self.config.to_dict() | {"SLEEVE_REFINE": False}
        weights.save(self.keras_model, filepath, True, names, config, dtype, self.category_ids)
        if self.sleeve_head is not None:
            sleeves.write_head(self.sleeve_head, filepath, filepath, refine=True)

    def get_imagenet_weights(self) -> str:
        """Path of ResNet-50's ImageNet weights, fetched at the first call."""
        path = Path(self.model_dir) / pretrained.IMAGENET_URL.rsplit("/", 1)[1]
        if not path.exists():
            pretrained.download(pretrained.IMAGENET_URL, path, layers=("conv1", "res5c_branch2c"))
        return str(path)

    def find_last(self) -> str:
        """Path of the last checkpoint of the last run of this configuration's NAME.

        Raises:
            FileNotFoundError: if there is none.
        """
        return run_folders.find_last(self.model_dir, self.run_name)

    def set_log_dir(self, model_path: PathLike | None = None) -> None:
        """Goes on with the run that a checkpoint belongs to, or plans a new one."""
        epoch = run_folders.parse_checkpoint(model_path) if model_path else None
        self.epoch, self._has_folder = epoch or 0, False
        self.resumed: checkpoints.Checkpoint | None = None  # by `resume`, for `train`
        folder = run_folders.run_folder(self.model_dir, self.run_name)
        if model_path and epoch is not None:
            path = Path(model_path).resolve()
            if path.name == run_folders.checkpoint_path("", self.run_name, epoch).name:
                folder, self._has_folder = path.parent, True
        self._run_at(folder)

    def _run_at(self, folder: Path) -> None:
        self.log_dir = str(folder)
        # The original's pattern, for code that formats it.
        name = f"mask_rcnn_{self.run_name.lower()}_{{epoch:04d}}.h5"
        self.checkpoint_path = str(Path(self.log_dir) / name)

    def make_log_dir(self) -> None:
        """Makes the run's folder, which a new run never shares with another."""
        if self._has_folder:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        else:
            self._run_at(run_folders.make_run_folder(self.log_dir))
        self._has_folder = True

    @property
    def run_name(self) -> str:
        """What run folders and checkpoints are named by."""
        return self.config.NAME or "mask_rcnn"

    # --- Training -------------------------------------------------------------------------

    def set_trainable(
        self,
        layer_regex: str,
        keras_model: keras.Model | None = None,
        indent: int = 0,
        verbose: int = 1,
    ) -> None:
        """Makes exactly the layers trainable whose whole name matches the expression."""
        names = step.set_trainable(keras_model or self.keras_model, layer_regex)
        if verbose:
            print("\n".join(" " * indent + name for name in names))

    def train(
        self,
        train_dataset: Dataset,
        val_dataset: Dataset | None,
        learning_rate: float,
        epochs: int,
        layers: str,
        augmentation: Any = None,
        custom_callbacks: Iterable[Any] | None = None,
        no_augmentation_sources: Iterable[str] | None = None,
        options: TrainingOptions | None = None,
        **changes: Any,
    ) -> list[Row]:
        """Trains, from `self.epoch` on, or from where `resume` found the run.

        Args:
            train_dataset, val_dataset: prepared.
            epochs: the epoch to end with, counted from the first ever: stages that follow
                each other give 20, 60, 100, not 20, 40, 40.
            layers: "heads", "3+", "4+", "5+", "all", or a regular expression of layer names.
            augmentation: imgaug augmenter, or `mrcnn.data.policy.Policy`.
            custom_callbacks: of Keras.
            no_augmentation_sources: sources of images that aren't augmented.
            options: `TrainingOptions`, which matterport's `train` lacks; None: the defaults.
            **changes: fields of it, such as schedule, seed and workers.

        Returns:
            the rows that were added to the log.

        Raises:
            FloatingPointError: as soon as a loss isn't finite; the last checkpoint stays.
            TrainingStopped: after SIGINT or SIGTERM: the step was finished and all is saved.
        """
        self._need("training", "train")
        preflight.check_datasets(train_dataset, val_dataset, self.config.NUM_CLASSES)
        self.class_names = classes.check_names(train_dataset.class_names, self.config.NUM_CLASSES)
        self.category_ids = classes.check_ids(source_ids(train_dataset), self.config.NUM_CLASSES)
        options = replace(
            options or TrainingOptions(),
            augmentation=augmentation,
            callbacks=tuple(custom_callbacks or ()),
            no_augmentation_sources=no_augmentation_sources,
            **changes,
        )
        rows = loop.train(self, train_dataset, val_dataset, learning_rate, epochs, layers, options)
        self.random_layers = []
        return rows

    def resume(self, folder: PathLike | None = None) -> Path:
        """Goes on with a run: loads its newest whole checkpoint, for `train` to continue.

        Args:
            folder: of the run; None takes the last run of this configuration's NAME.

        Returns:
            The weights file that was loaded.

        Raises:
            FileNotFoundError: if there is no run, or none with a checkpoint.
            CheckpointError: if no checkpoint of it is whole.
            RunInUse: if another training works in it.
        """
        self._need("training", "resume")
        folder = Path(folder or run_folders.find_last_run(self.model_dir, self.run_name))
        checkpoint = loop.newest_checkpoint(folder, self.run_name, self.cluster.is_chief)
        if checkpoint is None:
            raise FileNotFoundError(
                f"{folder} is not a run folder, as it has no {checkpoints.LIST}; give one that a "
                "training made"
            )
        self.load_weights(checkpoint.weights, by_name=True)
        self._run_at(folder)
        self.epoch, self.resumed, self._has_folder = checkpoint.info["epoch"], checkpoint, True
        return checkpoint.weights

    def compile(self, learning_rate: float, momentum: float) -> None:
        """Gives the Keras model the original's optimizer; `train` does so itself."""
        optimizer = step.make_optimizer(self.config, learning_rate, momentum)
        self.keras_model.compile(optimizer=optimizer)

    # --- Detection ------------------------------------------------------------------------

    def mold_inputs(
        self, images: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Resizes, pads and normalises images [H, W, channels] uint8; see `detection.as_image`.

        Returns:
            molded images [B, h, w, channels] float32, image metas [B, M] float64 and windows
            [B, (y1, x1, y2, x2)] int, pixels of the molded images.

        Raises:
            ValueError: if an image has another number of channels than the model's, or the
                molded shapes differ (only with IMAGE_RESIZE_MODE "pad64" or "none").
        """
        return detection.mold(images, self.config)

    def detect(self, images: Sequence[np.ndarray], verbose: int = 0) -> list[dict[str, np.ndarray]]:
        """Finds objects in BATCH_SIZE images [H, W, channels] uint8, of any sizes.

        Other numbers from 0 to 255 are taken, all else is refused with a ValueError, see
        `detection.as_image`. verbose=1 prints the shapes of the network's inputs.

        Returns:
            for each image: rois [N, (y1, x1, y2, x2)] int32 pixels of the image,
            class_ids [N] int32, scores [N] float32, masks [H, W, N] bool, some maybe empty.
        """
        self._need("inference", "detect")
        self._check_batch(len(images))
        molded, metas, windows = self.mold_inputs(images)
        if verbose:
            log(f"Processing {len(images)} images")
            for image in images:
                log("image", image)
            log("molded_images", molded)
            log("image_metas", metas)
        detections, masks = self._run(molded, metas)
        return [
            detection.unmold(detections[i], masks[i], np.shape(image), molded[i].shape, windows[i])
            for i, image in enumerate(images)
        ]

    def detect_molded(
        self, molded_images: np.ndarray, image_metas: np.ndarray, verbose: int = 0
    ) -> list[dict[str, np.ndarray]]:
        """`detect` on images that are molded already; boxes and masks are in their pixels."""
        self._need("inference", "detect_molded")
        self._check_batch(len(molded_images))
        detection.check_molded(molded_images)
        if verbose:
            log(f"Processing {len(molded_images)} images")
            log("molded_images", molded_images)
        detections, masks = self._run(molded_images, image_metas)
        shape = molded_images.shape[1:]
        pairs, window = zip(detections, masks, strict=True), (0, 0, *shape[:2])
        return [detection.unmold(found, own, shape, shape, window) for found, own in pairs]

    def unmold_detections(
        self,
        detections: np.ndarray,
        mrcnn_mask: np.ndarray,
        original_image_shape: Sequence[int],
        image_shape: Sequence[int],
        window: Sequence[int],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The network's output for one image -> boxes and masks of that image.

        Args:
            detections: [D, (y1, x1, y2, x2, class id, score)], normalised, zero-padded.
            mrcnn_mask: [D, h, w, C] probabilities.
            original_image_shape: (H, W, channels) of the image.
            image_shape: (h, w, channels) of the molded image.
            window: (y1, x1, y2, x2) of the image within the molded one, pixels.

        Returns:
            boxes [N, 4] int32 pixels of the image, class_ids [N] int32, scores [N] float32,
            masks [H, W, N] bool.
        """
        ids = np.asarray(detections)[:, 4].astype(np.int32)
        own = np.asarray(mrcnn_mask)[np.arange(len(ids)), :, :, ids]
        result = detection.unmold(detections, own, original_image_shape, image_shape, window)
        return result["rois"], result["class_ids"], result["scores"], result["masks"]

    def get_anchors(self, image_shape: Sequence[int]) -> np.ndarray:
        """Anchors of a molded image: [A, (y1, x1, y2, x2)] float32, normalised; cached."""
        key = tuple(int(s) for s in image_shape)
        if key not in self._anchors:
            # Kept in pixels too, as the original does for its notebooks.
            self.anchors = config_anchors(self.config, image_shape)
            self._anchors[key] = norm_boxes(self.anchors, key[:2]).astype(np.float32)
        return self._anchors[key]

    def _run(self, molded: np.ndarray, metas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        filled = getattr(self.keras_model, "filled", ())  # by keras_model.load_weights()
        left = [name for name in self.random_layers if name not in filled]
        if left:
            warnings.warn(
                f"{len(left)} layers hold random weights, such as {left[0]}; load weights first",
                stacklevel=3,
            )
        anchors = self.get_anchors(molded.shape[1:])
        detections, masks, *features = self._detections(molded, metas, anchors)
        if features:
            threshold = self.config.DETECTION_NMS_THRESHOLD
            sleeves.refine_batch(self.sleeve_head, detections, masks, features[0], threshold)
        return detections, masks

    def run_graph(
        self,
        images: Sequence[np.ndarray],
        outputs: Iterable[tuple[str, keras.KerasTensor]],
        image_metas: np.ndarray | None = None,
    ) -> OrderedDict[str, np.ndarray]:
        """Values of chosen tensors of the model, by name; for inspection.

        Args:
            images: as for `detect`; molded already if image_metas is given.
            outputs: names and tensors, such as keras_model.get_layer(n).output.
            image_metas: [B, M].
        """
        self._need("inference", "run_graph")
        wanted = OrderedDict(outputs)
        missing = [name for name, tensor in wanted.items() if tensor is None]
        if missing:
            raise ValueError(f"got no tensor for {missing}; pass get_layer(name).output")
        molded = np.asarray(images) if image_metas is not None else None
        if molded is None:
            molded, image_metas, _ = self.mold_inputs(images)
        anchors = self.get_anchors(molded.shape[1:])
        anchors = np.broadcast_to(anchors, (len(molded), *anchors.shape))
        model = keras.Model(self.keras_model.inputs, list(wanted.values()))
        inputs = [np.asarray(x, np.float32) for x in (molded, image_metas, anchors)]
        values = tf.function(model)([tf.convert_to_tensor(x) for x in inputs], training=False)
        arrays = OrderedDict(
            (name, tf.cast(v, tf.float32).numpy() if v.dtype == tf.bfloat16 else v.numpy())
            for name, v in zip(wanted, tf.nest.flatten(values), strict=True)
        )
        for name, array in arrays.items():
            log(name, array)
        return arrays

    # --- Inspection -----------------------------------------------------------------------

    def ancestor(
        self, tensor: keras.KerasTensor, name: str, checked: list[Any] | None = None
    ) -> keras.KerasTensor | None:
        """The output of a layer that a keras tensor was computed from; None without such a layer.

        Args:
            tensor: such as keras_model.get_layer(n).output.
            name: regular expression of the whole layer name. The original's names of TensorFlow
                operations, such as "ROI/rpn_non_max_suppression:0", belong to no layer here.
            checked: layers to leave out; those that were looked at are added.
        """
        checked = [] if checked is None else checked
        layer, node, _ = tensor._keras_history
        for parent in layer._inbound_nodes[node].input_tensors:
            other = parent._keras_history.operation
            if any(other is seen for seen in checked):
                continue
            if re.fullmatch(name, other.name):
                return parent
            checked.append(other)
            if (found := self.ancestor(parent, name, checked)) is not None:
                return found
        return None

    def find_trainable_layer(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """The layer itself, or the one it wraps."""
        return getattr(layer, "layer", layer)

    def get_trainable_layers(self) -> list[keras.layers.Layer]:
        """Layers with weights, nested models entered."""
        return [layer for layer in step.leaves(self.keras_model) if layer.get_weights()]

    def _need(self, mode: str, method: str) -> None:
        if self.mode != mode:
            raise RuntimeError(f"{method}() needs mode={mode!r}; this model's is {self.mode!r}")

    def _check_batch(self, count: int) -> None:
        if count != self.config.BATCH_SIZE:
            raise ValueError(
                f"got {count} images but the batch size is {self.config.BATCH_SIZE}; pass "
                f"{self.config.BATCH_SIZE} or set IMAGES_PER_GPU = {count}"
            )


def detection_targets_graph(
    proposals: tf.Tensor,
    gt_class_ids: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_masks: tf.Tensor,
    config: Config,
) -> list[tf.Tensor]:
    """`DetectionTargetLayer` for one image: [P, 4], [G], [G, 4], [h, w, G] -> its outputs."""
    inputs = [tf.convert_to_tensor(x)[None] for x in (proposals, gt_class_ids, gt_boxes, gt_masks)]
    return [x[0] for x in DetectionTargetLayer(config)(inputs)]


def log(text: str, array: Any = None) -> None:
    """Prints a text and, for an array, its shape, range and dtype."""
    if array is not None:
        array = np.asarray(array)
        span = f"min: {array.min():10.5f}  max: {array.max():10.5f}" if array.size else "empty"
        text = f"{text:25}shape: {array.shape!s:20}  {span}  {array.dtype}"
    print(text)
