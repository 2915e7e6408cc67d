"""The step's parts by hand: losses, the L2 term, edges, which layers train."""

import numpy as np
import pytest

pytestmark = pytest.mark.tf


def test_total_loss_by_hand():
    import keras
    import tensorflow as tf

    from mrcnn.training.step import l2_term, total_loss

    losses = {"rpn_class_loss": tf.constant(2.0), "mrcnn_mask_loss": tf.constant(3.0)}
    decayed = [keras.Variable([[1.0, 2.0], [3.0, 4.0]]), keras.Variable([2.0])]
    # 0.1 * (30 / 4 + 4 / 1): a mean over each weight, not a sum
    total = total_loss(losses, {"mrcnn_mask_loss": 0.5}, l2_term(decayed, 0.1))
    assert float(total) == pytest.approx(2.0 + 1.5 + 0.1 * (7.5 + 4.0))


def edge_loss(target, found, class_ids=(1,), classes=3):
    """The loss of masks [N, h, w], those found as the probabilities of their own classes."""
    import tensorflow as tf

    from mrcnn.network.heads import mrcnn_edge_loss_graph

    masks = np.zeros((1, *np.shape(found), classes), np.float32)
    for i, class_id in enumerate(class_ids):
        masks[0, i, :, :, class_id] = found[i]
    return float(
        mrcnn_edge_loss_graph(
            tf.constant(target, tf.float32)[None], tf.constant([class_ids]), tf.constant(masks)
        )
    )


def test_edge_loss_by_hand():
    step = np.zeros((1, 5, 5))
    step[0, :, 3:] = 1.0  # an edge from top to bottom, between columns 2 and 3
    # Inner columns 1..3: Sobel across gives 0 at 1 and 4 at 2 and 3, down gives 0.
    expected = (0 + 16 + 16) * 3 / (9 * 2)
    assert edge_loss(step, np.zeros((1, 5, 5))) == pytest.approx(expected)
    assert edge_loss(step, step) == 0.0
    # Only edges count: the same everywhere is no edge, and half an edge counts a quarter.
    assert edge_loss(step, step * 0 + 0.7) == pytest.approx(expected)
    assert edge_loss(step, step / 2) == pytest.approx(expected / 4)
    turned = step.transpose(0, 2, 1)
    assert edge_loss(turned, np.zeros((1, 5, 5))) == pytest.approx(expected)


def test_edge_loss_is_a_mean_over_objects_and_reads_their_own_class():
    step = np.zeros((2, 5, 5))
    step[:, :, 3:] = 1.0
    one = edge_loss(step[:1], step[:1] * 0)
    assert edge_loss(step, step * 0, class_ids=(1, 0)) == pytest.approx(one)  # 0 is no object
    assert edge_loss(step, step * [[[1]], [[0]]], class_ids=(2, 1)) == pytest.approx(one / 2)
    assert edge_loss(step, step, class_ids=(0, 0)) == 0.0


def test_edge_loss_has_a_gradient():
    import tensorflow as tf

    from mrcnn.network.heads import mrcnn_edge_loss_graph

    target = np.zeros((1, 1, 6, 6), np.float32)
    target[..., 3:] = 1
    masks = tf.Variable(np.full((1, 1, 6, 6, 2), 0.5, np.float32))
    with tf.GradientTape() as tape:
        loss = mrcnn_edge_loss_graph(tf.constant(target), tf.constant([[1]]), masks)
    gradient = tape.gradient(loss, masks).numpy()
    # Going down the gradient makes what lies right of the edge surer, and left of it less.
    assert gradient[0, 0, 2, 3, 1] < 0 < gradient[0, 0, 2, 2, 1]
    assert not gradient[..., 0].any()


def trainer_and_batch(dataset, config, folder):
    """A trainer of a new model, and the data set's first two images."""
    from mrcnn.data.loader import BatchLoader
    from mrcnn.model import MaskRCNN
    from mrcnn.training.step import Trainer, make_optimizer

    model = MaskRCNN("training", config, str(folder))
    trainer = Trainer(model.keras_model, config, make_optimizer(config, 0.01), seed=1)
    loader = BatchLoader(dataset, config, batch_size=2, shuffle=False, workers=0)
    return trainer, next(loader.epoch(0, 1))


def test_images_without_objects_have_no_box_and_mask_loss(tmp_path):
    """They train as negatives: their box and mask losses are exactly zero."""
    from tests.helpers.shapes import SmallConfig, shapes

    class Config(SmallConfig):
        EDGE_LOSS_WEIGHT = 1.0

    empty = shapes(2)
    for info in empty.image_info:
        info["shapes"] = []
    empty.load_mask = lambda image_id: (np.zeros((128, 128, 0), bool), np.zeros(0, np.int32))
    trainer, batch = trainer_and_batch(empty, Config(), tmp_path)
    losses = {k: float(v) for k, v in trainer.train(batch).items()}
    zero = {"rpn_bbox_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss", "mrcnn_edge_loss"}
    assert {k for k, v in losses.items() if v == 0.0} >= zero
    assert losses["rpn_class_loss"] > 0 and np.isfinite(list(losses.values())).all()


@pytest.mark.slow
def test_gradients_of_the_compact_backbone_repeat_to_the_bit(tmp_path):
    """Of depthwise convolutions too: the tests of resuming take a smaller network."""
    from tests.helpers.shapes import ShapesConfig, shapes

    trainer, batch = trainer_and_batch(shapes(2), ShapesConfig(), tmp_path)
    first = [g.numpy() for g in trainer.gradients(batch)[1]]
    assert sum(g.any() for g in first) > 100
    for _ in range(3):
        for ours, theirs in zip(trainer.gradients(batch)[1], first, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs)
