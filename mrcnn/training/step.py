"""One training step: losses, gradients, update; on one device, several, or several machines.

Losses, the L2 term, clipping and the optimizer are the original's (see `total_loss` and `l2_term`). The
original's losses are means over what takes part in the whole batch (anchors, RoIs), so where a
batch is split, over devices or over time, each part's mean counts by what took part in it:
the update is that of the whole batch.
"""

import re
from contextlib import ExitStack, contextmanager

import keras
import tensorflow as tf

from mrcnn.config import LOSS_NAMES
from mrcnn.network.heads import mrcnn_edge_loss_graph
from mrcnn.network.layers import KeyedRandom, resolve_dtype
from mrcnn.training.devices import Cluster

EDGE_LOSS = "mrcnn_edge_loss"
# What each loss is a mean over: its place in `_counts`.
_COUNT_OF = dict(zip(LOSS_NAMES, (0, 1, 2, 3, 3), strict=True)) | {EDGE_LOSS: 3}


def set_trainable(model, pattern):
    """Makes exactly the layers trainable whose whole name matches.

    Args:
        model: keras.Model; nested models are entered.
        pattern: regular expression.

    Returns:
        names of the layers with weights that train from now on.

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


def leaves(model):
    """All layers of a model, nested models entered."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def decayed_weights(model):
    """Trainable variables under weight decay: all but batch norm's gamma and beta."""
    return [v for v in model.trainable_variables if v.name not in ("gamma", "beta")]


def l2_term(decayed, weight_decay):
    """The original's L2 term: weight_decay * sum(w**2) / size(w), summed over the variables.

    A mean over each weight: far weaker than the optimizers' `weight_decay`.
    """
    total = tf.constant(0.0)
    for variable in decayed:
        value = tf.convert_to_tensor(variable.value)
        total += weight_decay * tf.reduce_sum(tf.square(value)) / tf.size(value, tf.float32)
    return total


def total_loss(losses, weights, l2):
    """Weighted sum of the losses, plus the L2 term.

    Args:
        losses: dict of name -> scalar tensor.
        weights: dict of name -> number; a loss that is missing counts once.
        l2: scalar tensor, see `l2_term`.

    Returns:
        scalar float32 tensor.
    """
    return tf.add_n([value * weights.get(name, 1.0) for name, value in losses.items()]) + l2


def make_optimizer(config, learning_rate, momentum=None, replicas=1):
    """SGD with momentum, gradients clipped by their global norm, as the original had it.

    In float16 the loss is scaled, so that small gradients don't vanish.

    Args:
        config: `Config`.
        learning_rate: number.
        momentum: number; None takes config.LEARNING_MOMENTUM.
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
        config: `Config`; reads LOSS_WEIGHTS, WEIGHT_DECAY, TRAIN_BN, HEAD_DROPOUT,
            EDGE_LOSS_WEIGHT and EMA_DECAY.
        optimizer: keras optimizer of `make_optimizer`.
        cluster: `Cluster`; None is one device.
        accumulate: parts that a batch is worked through in, one after another, to save memory.
        seed: of the choice of RoIs and of dropout, which then depend on it, the step and the
            image's place in the batch only; None draws from TensorFlow's global state.

    Attributes:
        variables: the keras.Variables that train.
        averages: their moving averages, tf.Variables in the same order; [] without EMA_DECAY.
        step: int, steps taken.
        traces: int, times that a step was traced.
    """

    def __init__(self, model, config, optimizer, *, cluster=None, accumulate=1, seed=None):
        self.model, self.optimizer = model, optimizer
        self.cluster = cluster or Cluster(tf.distribute.get_strategy())
        self.accumulate, self.seed = int(accumulate), seed
        self.variables = list(model.trainable_variables)
        self.loss_weights, self.weight_decay = dict(config.LOSS_WEIGHTS), config.WEIGHT_DECAY
        self.edge_weight, self.ema_decay = config.EDGE_LOSS_WEIGHT, config.EMA_DECAY
        self.loss_weights[EDGE_LOSS] = self.edge_weight
        # With TRAIN_BN = False and no dropout nothing in the model depends on the mode.
        self.training = config.TRAIN_BN is not False or config.HEAD_DROPOUT > 0
        with self.cluster.strategy.scope():
            optimizer.build(self.variables)
            self.averages = [_average_of(v) for v in self.variables] if self.ema_decay else []
        self._targets = model.get_layer("proposal_targets")
        self._random = [layer for layer in model.layers if isinstance(layer, KeyedRandom)]
        self._network = self._with_targets()
        self.step = self.traces = 0
        self._count = tf.function(self._count_replicas)
        self._differentiate = tf.function(self._differentiate_replicas)
        self._update = tf.function(self._update_replicas)
        self._validate = tf.function(self._validate_replicas)
        self._any = tf.function(self._any_replicas)

    def _with_targets(self):
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

    def train(self, batch):
        """One step.

        Args:
            batch: list of arrays as `BatchLoader` yields them: this process's images.

        Returns:
            dict of "loss" and the names of the losses -> scalar tensor: before the step, means
            over the whole batch.
        """
        losses, gradients = self._whole_batch(batch)
        self._update(gradients)
        self.step += 1
        return losses

    def try_out(self, batch):
        """The losses of a batch, by all that a step does but the update."""
        return self._whole_batch(batch)[0]

    def gradients(self, batch):
        """(losses, gradients before clipping, in the order of `variables`) on one device."""
        keys = self._keys(0, batch[0].shape[0])
        return self._differentiate_one([tf.convert_to_tensor(x) for x in batch], keys, None)

    def validate(self, batch):
        """The losses of a batch, without a step.

        The same RoIs are chosen each time, so that epochs can be compared.
        """
        sums: dict[str, tf.Tensor] = {}
        counts, l2 = tf.zeros(4), tf.constant(0.0)
        for arrays, keys in self._parts(batch, 0):
            found, part_counts, l2 = self._validate(arrays, keys)
            counts += part_counts
            sums = {k: v + sums.get(k, 0.0) for k, v in found.items()}
        means = {k: tf.math.divide_no_nan(v, counts[_COUNT_OF[k]]) for k, v in sums.items()}
        return {"loss": total_loss(means, self.loss_weights, l2), **means}

    def _whole_batch(self, batch):
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

    @tf.function
    def _add_up(self, ours, more):
        return self._on_each(lambda a, b: [x + y for x, y in zip(a, b, strict=True)], ours, more)

    # --- State ------------------------------------------------------------------------------

    @contextmanager
    def averaged(self):
        """Within it, the model has the moving averages for weights, where they are kept."""
        if not self.averages:
            yield
            return
        raw = [v.numpy() for v in self.variables]
        _assign(self.variables, [average.numpy() for average in self.averages])
        try:
            yield
        finally:
            _assign(self.variables, raw)

    def state(self):
        """dict of name -> array: all that a step depends on besides the weights in a file.

        With moving averages a weights file holds those, so the weights are here.
        """
        arrays = {f"optimizer/{i}": v.numpy() for i, v in enumerate(self.optimizer.variables)}
        if self.averages:
            arrays |= {f"weights/{_key(v)}": v.numpy() for v in self.variables}
            arrays |= {f"averages/{i}": v.numpy() for i, v in enumerate(self.averages)}
        return arrays

    def load_state(self, arrays):
        """Takes up a `state`, of a trainer of the same layers.

        Raises:
            ValueError: if it is of another one.
        """
        groups = {"optimizer": self.optimizer.variables}
        if self.averages:
            groups["averages"] = self.averages
        for group, variables in groups.items():
            values = [arrays.get(f"{group}/{i}") for i in range(len(variables))]
            shapes = [None if v is None else v.shape for v in values]
            if shapes != [tuple(v.shape) for v in variables]:
                raise ValueError(
                    f"the checkpoint's {group} is of another training (other layers, optimizer or "
                    "EMA_DECAY); go on with the options it was made with, or start a new run "
                    "from its weights with --weights FILE"
                )
            _assign(variables, values)

    def load_weights(self, arrays):
        """Takes up the weights in a `state`, whichever layers it was of; a file has averages."""
        for variable in self.model.variables:
            value = arrays.get(f"weights/{_key(variable)}")
            if value is not None:
                variable.assign(value)
        if self.averages:
            _assign(self.averages, [variable.numpy() for variable in self.variables])

    def any(self, flag):
        """Whether `flag` holds in any process of the cluster; all must ask at the same time."""
        if self.cluster.replicas == 1:
            return bool(flag)
        flags = self._spread([tf.constant(float(flag))] * self.cluster.local_replicas)
        return float(self._any(flags)) > 0

    # --- Batches ---------------------------------------------------------------------------

    def _parts(self, batch, step):
        """[(arrays, keys)]: the batch in parts for one after another, each cut for the devices.

        Keys number the images of all steps and processes: however a batch is cut, a
        image's RoIs, and what dropout leaves out of them, are the same.
        """
        size, local = len(batch[0]), self.cluster.local_replicas
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
                self._spread([tf.convert_to_tensor(array[at : at + each]) for at in starts])
                for array in batch
            ]
            parts.append((arrays, self._spread([self._keys(first + at, each) for at in starts])))
        return parts

    def _keys(self, first, count):
        if self.seed is None:
            return tf.zeros((0,), tf.int32)
        return tf.range(first, first + count, dtype=tf.int32)

    def _spread(self, values):
        """A list of one value a local device -> what the strategy hands to each."""
        if self.cluster.replicas == 1:
            return values[0]
        rest = iter(values)
        return self.cluster.strategy.experimental_distribute_values_from_function(
            lambda _: next(rest)
        )

    # --- On all devices ---------------------------------------------------------------------

    def _on_each(self, function, *args):
        if self.cluster.replicas == 1:
            return function(*args)
        return self.cluster.strategy.run(function, args)

    def _one_of(self, values):
        """The first device's values, where all devices have the same."""
        if self.cluster.replicas == 1:
            return values
        local = self.cluster.strategy.experimental_local_results
        return tf.nest.map_structure(lambda value: local(value)[0], values)

    def _sum(self, values):
        if self.cluster.replicas == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce("SUM", values)

    def _differentiate_replicas(self, arrays, keys, counts):
        self.traces += 1  # counts traces, not steps: this line runs only while tracing
        losses, gradients = self._on_each(self._differentiate_one, arrays, keys, counts)
        return {name: self._one_of(value) for name, value in losses.items()}, gradients

    def _count_replicas(self, arrays, keys):
        def count(arrays, keys):
            return self._sum(self._forward(arrays, keys, self.training)[1])

        return self._one_of(self._on_each(count, arrays, keys))

    def _validate_replicas(self, arrays, keys):
        sums, counts, l2 = self._on_each(self._validate_one, arrays, keys)
        sums = {name: self._one_of(value) for name, value in sums.items()}
        return sums, self._one_of(counts), self._one_of(l2)

    def _any_replicas(self, flags):
        # Computed here, so that it lies on a device: a bare input does not, and can't be summed.
        return self._one_of(self._on_each(lambda flag: self._sum(flag + 0.0), flags))

    def _update_replicas(self, gradients):
        self._on_each(self._update_one, gradients)

    # --- On one device ----------------------------------------------------------------------

    def _forward(self, arrays, keys, training):
        """(dict of loss -> its mean over these images, [4] what each is a mean over)."""
        with ExitStack() as stack:
            for layer in self._random if self.seed is not None else ():
                stack.enter_context(layer.keyed(self.seed, keys))
            outputs = self._network(arrays, training=training)
        losses = dict(zip(LOSS_NAMES, outputs[: len(LOSS_NAMES)], strict=True))
        ids, logits, masks, found = outputs[len(LOSS_NAMES) :]
        if self.edge_weight:
            few = self._targets.max_positive
            losses[EDGE_LOSS] = mrcnn_edge_loss_graph(masks, ids[:, :few], found)
        return losses, _counts(arrays, ids, logits)

    def _differentiate_one(self, arrays, keys, whole):
        """(these images' share of the batch's losses, their gradients), summed over devices.

        Args:
            whole: counts of the whole batch, where these aren't all of its parts, or None.
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

    def _l2_term(self):
        return l2_term(decayed_weights(self.model), self.weight_decay)

    def _update_one(self, gradients):
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

    def _validate_one(self, arrays, keys):
        means, counts = self._forward(arrays, keys, False)
        sums = {name: mean * counts[_COUNT_OF[name]] for name, mean in means.items()}
        return self._sum(sums), self._sum(counts), self._l2_term()


def _key(variable):
    return variable.path.replace("/", ".")


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _counts(arrays, ids, logits):
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


def _average_of(variable):
    # Each device computes the same average; without a word on it tf.distribute refuses.
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(variable.value, trainable=False, aggregation=first)
