"""One training step: losses, gradients, update; on one device, several, or several machines.

Losses, the L2 term, clipping and the optimizer are the original's. Its losses are means over what
takes part in the whole batch (anchors, RoIs), so where a batch is split, over devices or over
time, each part's mean counts by what took part in it: the update is that of the whole batch.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mrcnn.config import LOSS_NAMES, Config
from mrcnn.network.heads import mrcnn_edge_loss_graph
from mrcnn.network.layers import KeyedRandom, resolve_dtype
from mrcnn.training.devices import Cluster

Batch = list[np.ndarray]  # as `BatchLoader` yields them: this process's images
Losses = dict[str, tf.Tensor]  # name -> scalar
EDGE_LOSS = "mrcnn_edge_loss"
# What each loss is a mean over: its place in `_counts`.
_COUNT_OF = dict(zip(LOSS_NAMES, (0, 1, 2, 3, 3), strict=True)) | {EDGE_LOSS: 3}


def set_trainable(model: keras.Model, pattern: str) -> list[str]:
    """Makes exactly the layers with weights trainable whose whole name matches; returns them.

    Raises:
        ValueError: if no layer with weights matches.
    """
    names = []
    for layer in leaves(model):
        if layer.weights:
            layer.trainable = bool(re.fullmatch(pattern, layer.name))
            if layer.trainable:
                names.append(layer.name)
    if not names:
        raise ValueError(
            f"layers={pattern!r} matches no layer with weights; use heads, 3+, 4+, 5+, all or a "
            "regular expression of layer names"
        )
    return names


def leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers of a model, nested models entered."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def decayed_weights(model: keras.Model) -> list[keras.Variable]:
    """Trainable variables under weight decay: all but batch norm's gamma and beta."""
    return [v for v in model.trainable_variables if v.name not in ("gamma", "beta")]


def l2_term(decayed: Iterable[keras.Variable], weight_decay: float) -> tf.Tensor:
    """The original's L2 term: weight_decay * sum(w**2) / size(w), summed over the variables.

    A mean over each weight: far weaker than the optimizers' `weight_decay`.
    """
    total = tf.constant(0.0)
    for variable in decayed:
        value = tf.convert_to_tensor(variable.value)
        total += weight_decay * tf.reduce_sum(tf.square(value)) / tf.size(value, tf.float32)
    return total


def total_loss(losses: Losses, weights: Mapping[str, float], l2: tf.Tensor) -> tf.Tensor:
    """Sum of the losses by their weights (1 if not given), plus the L2 term."""
    return tf.add_n([value * weights.get(name, 1.0) for name, value in losses.items()]) + l2


def make_optimizer(
    config: Config, learning_rate: float, momentum: float | None = None, replicas: int = 1
) -> keras.optimizers.Optimizer:
    """SGD with momentum, gradients clipped by their global norm, as the original had it.

    In float16 the loss is scaled, so that small gradients don't vanish.

    Args:
        momentum: None takes config.LEARNING_MOMENTUM.
        replicas: devices in step. Keras adds up their gradients after clipping, so `Trainer`
            gives each an equal share of the whole gradient, and the limit is shared too.
    """
    optimizer = keras.optimizers.SGD(
        learning_rate,
        momentum=config.LEARNING_MOMENTUM if momentum is None else momentum,
        global_clipnorm=config.GRADIENT_CLIP_NORM / replicas,
    )
    if resolve_dtype(config.COMPUTE_DTYPE) == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


class Trainer:
    """Runs steps of one model, with the layers that are trainable when it is made.

    Args:
        model: the training `Network`, made in the scope of the cluster's strategy.
        config: read are LOSS_WEIGHTS, WEIGHT_DECAY, TRAIN_BN, HEAD_DROPOUT, EDGE_LOSS_WEIGHT and
            EMA_DECAY.
        cluster: None is one device.
        accumulate: parts that a batch is worked through in, one after another, to save memory.
        seed: of the choice of RoIs and of dropout, which then depend on it, the step and the
            image's place in the batch only; None draws from TensorFlow's global state.

    Attributes:
        variables: those that train.
        averages: their moving averages, in the same order; [] without EMA_DECAY.
        step: steps taken.
        traces: times that a step was traced.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        optimizer: keras.optimizers.Optimizer,
        *,
        cluster: Cluster | None = None,
        accumulate: int = 1,
        seed: int | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.cluster = cluster or Cluster(tf.distribute.get_strategy())
        self.accumulate, self.seed = int(accumulate), seed
        self.variables = list(model.trainable_variables)
        self.edge_weight, self.ema_decay = config.EDGE_LOSS_WEIGHT, config.EMA_DECAY
        self.loss_weights = {**config.LOSS_WEIGHTS, EDGE_LOSS: self.edge_weight}
        self.weight_decay = config.WEIGHT_DECAY
        # With TRAIN_BN = False and no dropout nothing in the model depends on the mode.
        self.training = config.TRAIN_BN is not False or config.HEAD_DROPOUT > 0
        with self.cluster.strategy.scope():
            optimizer.build(self.variables)
            self.averages = [_average_of(v) for v in self.variables] if self.ema_decay else []
        self._targets = model.get_layer("proposal_targets")
        self._random = [layer for layer in model.layers if isinstance(layer, KeyedRandom)]
        self._network = self._with_targets()
        self.step = self.traces = 0
        self._count = self._on_all_devices(self._count_one)
        self._validate = self._on_all_devices(self._validate_one)
        self._update = self._on_all_devices(self._update_one)
        # Computed there (+ 0), so that it lies on a device: a bare input can't be summed.
        self._add_flags = self._on_all_devices(lambda flag: self._sum(flag + 0.0))
        self._differentiate = tf.function(self._differentiate_all)

    def _with_targets(self) -> keras.Model:
        """A model of the losses and of what they were measured on."""
        few = self._targets.max_positive  # RoIs beyond these have no masks
        _, class_ids, _, masks = self._targets.output
        found = self.model.get_layer("mrcnn_mask_padded").input
        losses = self.model.outputs[-len(LOSS_NAMES) :]
        logits = self.model.outputs[3]
        return keras.Model(
            self.model.inputs, [*losses, class_ids, logits, masks[:, :few], found], name="losses"
        )

    # --- Steps ----------------------------------------------------------------------------

    def train(self, batch: Batch) -> Losses:
        """One step. Returns "loss" and the losses before it, means over the whole batch."""
        losses, gradients = self.gradients(batch)
        self._update(gradients)
        self.step += 1
        return losses

    def gradients(self, batch: Batch) -> tuple[Losses, list[Any]]:
        """What `train` computes before its update: the losses, and gradients before clipping.

        The gradients are in the order of `variables`; each is the whole sum on every device.
        """
        parts = self._parts(batch, self.step)
        if len(parts) == 1:
            return self._differentiate(*parts[0], None)
        # What takes part in the whole batch must be known before any gradient, and is after a
        # pass forward.
        counts = tf.add_n([self._count(*part) for part in parts])
        losses, gradients = self._differentiate(*parts[0], counts)
        for part in parts[1:]:
            found, more = self._differentiate(*part, counts)
            losses = {name: value + found[name] for name, value in losses.items()}
            gradients = self._add_up(gradients, more)
        return losses, gradients

    def validate(self, batch: Batch) -> Losses:
        """The losses of a batch, without a step.

        The same RoIs are chosen each time, so that epochs can be compared.
        """
        sums: Losses = {}
        counts, l2 = tf.zeros(4), tf.constant(0.0)
        for arrays, keys in self._parts(batch, 0):
            found, part_counts, l2 = self._validate(arrays, keys)
            counts += part_counts
            sums = {k: v + sums.get(k, 0.0) for k, v in found.items()}
        means = {k: tf.math.divide_no_nan(v, counts[_COUNT_OF[k]]) for k, v in sums.items()}
        return {"loss": total_loss(means, self.loss_weights, l2), **means}

    @tf.function
    def _add_up(self, ours: Any, more: Any) -> Any:
        return self._on_each_device(
            lambda a, b: [x + y for x, y in zip(a, b, strict=True)], ours, more
        )

    # --- State ------------------------------------------------------------------------------

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the model's weights are their moving averages, if there are any."""
        if not self.averages:
            yield
            return
        raw = [v.numpy() for v in self.variables]
        _assign(self.variables, [average.numpy() for average in self.averages])
        try:
            yield
        finally:
            _assign(self.variables, raw)

    def state(self) -> dict[str, np.ndarray]:
        """All that a step depends on besides the weights in a file.

        With moving averages a weights file holds those, so the weights are here.
        """
        arrays = {f"optimizer/{i}": v.numpy() for i, v in enumerate(self.optimizer.variables)}
        if self.averages:
            arrays |= {f"weights/{_key(v)}": v.numpy() for v in self.variables}
            arrays |= {f"averages/{i}": v.numpy() for i, v in enumerate(self.averages)}
        return arrays

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores a `state`.

        Raises:
            ValueError: if it is of a trainer of other layers.
        """
        groups = {"optimizer": self.optimizer.variables}
        if self.averages:
            groups["averages"] = self.averages
        for group, variables in groups.items():
            names = [f"{group}/{i}" for i in range(len(variables))]
            shapes = [arrays[name].shape if name in arrays else None for name in names]
            if shapes != [tuple(v.shape) for v in variables]:
                raise ValueError(
                    f"the checkpoint's {group} is of another training (other layers, optimizer or "
                    "EMA_DECAY); go on with the options it was made with, or start a new run "
                    "from its weights with --weights FILE"
                )
            _assign(variables, [arrays[name] for name in names])

    def load_weights(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores the weights in a `state`, whichever layers it was of; a file has averages."""
        for variable in self.model.variables:
            value = arrays.get(f"weights/{_key(variable)}")
            if value is not None:
                variable.assign(value)
        if self.averages:
            _assign(self.averages, [variable.numpy() for variable in self.variables])

    def in_any_process(self, flag: bool) -> bool:
        """Whether `flag` holds in any process of the cluster; all must ask at the same time."""
        if self.cluster.workers == 1:
            return flag
        flags = self._to_devices([tf.constant(float(flag))] * self.cluster.local_replicas)
        return float(self._add_flags(flags)) > 0

    # --- Batches ----------------------------------------------------------------------------

    def _parts(self, batch: Batch, step: int) -> list[tuple[list[Any], Any]]:
        """(arrays, keys) of each part of the batch, cut for the devices.

        Keys number the images of all steps and processes: however a batch is cut, an
        image's RoIs, and what dropout leaves out of them, are the same.
        """
        size, local = batch[0].shape[0], self.cluster.local_replicas
        if size % (local * self.accumulate):
            raise ValueError(
                f"a batch of {size} images can't be cut into {self.accumulate} parts for "
                f"{local} devices; make it a multiple of {local * self.accumulate}"
            )
        each = size // (local * self.accumulate)
        first = (step * self.cluster.workers + self.cluster.index) * size
        parts = []
        for part in range(self.accumulate):
            starts = [(device * self.accumulate + part) * each for device in range(local)]
            arrays = [
                self._to_devices([tf.convert_to_tensor(array[at : at + each]) for at in starts])
                for array in batch
            ]
            keys = self._to_devices([self._keys(first + at, each) for at in starts])
            parts.append((arrays, keys))
        return parts

    def _keys(self, first: int, count: int) -> tf.Tensor:
        if self.seed is None:
            return tf.zeros((0,), tf.int32)
        return tf.range(first, first + count, dtype=tf.int32)

    # --- On all devices ---------------------------------------------------------------------

    def _to_devices(self, values: list[tf.Tensor]) -> Any:
        """One value for each device of this process, as the strategy hands them out."""
        if self.cluster.replicas == 1:
            return values[0]
        rest = iter(values)
        return self.cluster.strategy.experimental_distribute_values_from_function(
            lambda _: next(rest)
        )

    def _on_each_device(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.cluster.replicas == 1:
            return function(*args)
        return self.cluster.strategy.run(function, args)

    def _first_of(self, values: Any) -> Any:
        """The first device's values, where all devices have the same."""
        if self.cluster.replicas == 1:
            return values
        local = self.cluster.strategy.experimental_local_results
        return tf.nest.map_structure(lambda value: local(value)[0], values)

    def _on_all_devices(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A tf.function that runs a function on each device; all must return the same."""

        def run(*args: Any) -> Any:
            return self._first_of(self._on_each_device(function, *args))

        return tf.function(run)

    def _sum(self, values: Any) -> Any:
        """Of all devices."""
        if self.cluster.replicas == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce("SUM", values)

    def _differentiate_all(self, arrays: Any, keys: Any, counts: Any) -> tuple[Losses, Any]:
        self.traces += 1  # counts traces, not steps: this line runs only while tracing
        losses, gradients = self._on_each_device(self._differentiate_one, arrays, keys, counts)
        return self._first_of(losses), gradients

    # --- On one device ----------------------------------------------------------------------

    def _forward(
        self, arrays: list[tf.Tensor], keys: tf.Tensor, training: bool
    ) -> tuple[Losses, tf.Tensor]:
        """Each loss's mean over these images, and the `_counts` that they are means over."""
        with ExitStack() as stack:
            if self.seed is not None:
                for layer in self._random:
                    stack.enter_context(layer.keyed(self.seed, keys))
            outputs = self._network(arrays, training=training)
        losses = dict(zip(LOSS_NAMES, outputs[: len(LOSS_NAMES)], strict=True))
        ids, logits, masks, found = outputs[len(LOSS_NAMES) :]
        if self.edge_weight:
            few = self._targets.max_positive
            losses[EDGE_LOSS] = mrcnn_edge_loss_graph(masks, ids[:, :few], found)
        return losses, _counts(arrays, ids, logits)

    def _count_one(self, arrays: list[tf.Tensor], keys: tf.Tensor) -> tf.Tensor:
        return self._sum(self._forward(arrays, keys, self.training)[1])

    def _differentiate_one(
        self, arrays: list[tf.Tensor], keys: tf.Tensor, whole: tf.Tensor | None
    ) -> tuple[Losses, list[tf.Tensor]]:
        """These images' share of the batch's losses, and their gradients, summed over devices.

        Args:
            whole: counts of the whole batch, where this is not all of it.
        """
        values = [v.value for v in self.variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses, counts = self._forward(arrays, keys, self.training)
            l2_share = 1.0
            if self.cluster.replicas > 1 or whole is not None:
                whole = self._sum(counts) if whole is None else whole
                shares = tf.math.divide_no_nan(counts, whole)
                losses = {k: v * shares[_COUNT_OF[k]] for k, v in losses.items()}
                l2_share = 1.0 / (self.cluster.replicas * self.accumulate)
            loss = total_loss(losses, self.loss_weights, l2_share * self._l2_term())
            scaled = loss
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, values, unconnected_gradients="zero")
        return self._sum({"loss": loss, **losses}), self._sum(gradients)

    def _l2_term(self) -> tf.Tensor:
        return l2_term(decayed_weights(self.model), self.weight_decay)

    def _update_one(self, gradients: list[tf.Tensor]) -> None:
        # Keras adds up what the devices bring, and each brings the whole sum.
        if self.cluster.replicas > 1:
            gradients = [g / self.cluster.replicas for g in gradients]
        self.optimizer.apply(gradients, self.variables)
        if self.averages:
            step = tf.cast(self.optimizer.iterations.value, tf.float32)
            # Grows to EMA_DECAY, so that the averages soon forget the random start.
            rest = 1.0 - tf.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
            for average, variable in zip(self.averages, self.variables, strict=True):
                value = tf.convert_to_tensor(variable.value)
                average.assign(average + rest * (value - average))

    def _validate_one(
        self, arrays: list[tf.Tensor], keys: tf.Tensor
    ) -> tuple[Losses, tf.Tensor, tf.Tensor]:
        means, counts = self._forward(arrays, keys, False)
        sums = {name: mean * counts[_COUNT_OF[name]] for name, mean in means.items()}
        return self._sum(sums), self._sum(counts), self._l2_term()


def _key(variable: keras.Variable) -> str:
    return variable.path.replace("/", ".")


def _assign(variables: Sequence[Any], values: Iterable[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _counts(arrays: list[tf.Tensor], ids: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """float32 [4]: anchors, object anchors, RoIs of active classes, object RoIs."""
    match = arrays[2]
    active = tf.cast(arrays[1][0, 12:], tf.float32)  # as in the loss, the first image decides
    counts = [
        tf.reduce_sum(tf.cast(tf.not_equal(match, 0), tf.float32)),
        tf.reduce_sum(tf.cast(tf.equal(match, 1), tf.float32)),
        tf.reduce_sum(tf.gather(active, tf.argmax(logits, axis=-1))),
        tf.reduce_sum(tf.cast(ids > 0, tf.float32)),
    ]
    return tf.stack(counts)


def _average_of(variable: keras.Variable) -> tf.Variable:
    # Each device computes the same average; tf.distribute must be told so.
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(variable.value, trainable=False, aggregation=first)
