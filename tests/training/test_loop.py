"""The training loop with a made-up trainer, and with a small network that is stopped and resumed."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from mrcnn import utils
from tests.helpers.shapes import SmallConfig, shapes

pytestmark = pytest.mark.tf


class Loader:
    """Gives the same plain numbers as batches in each epoch."""

    wait_seconds = 0.0

    def __init__(self, batches, kind="train"):
        self.batches = batches
        infos = [{"path": f"{kind}_{int(batch)}.jpg"} for batch in batches]
        self.dataset = SimpleNamespace(image_info=infos)

    def epoch(self, number, steps=None, start=0):
        for i, batch in enumerate(self.batches[start:steps], start):
            yield [np.array([batch]), [[i]]]


class OneWeight:
    """A trainer of loss = (w - batch)^2 with plain numbers: the loop needs no network."""

    def __init__(self):
        import keras

        from mrcnn.training.devices import Cluster

        self.cluster = Cluster(None)
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.model.compile(optimizer=self.optimizer)
        self.weight, self.rates, self.step = 0.0, [], 0

    def in_any_process(self, flag):
        return flag

    def averaged(self):
        from contextlib import nullcontext

        return nullcontext()

    def state(self):
        return {"weight": np.array(self.weight)}

    def load_weights(self, arrays):
        """Its only weight is part of the state."""

    def load_state(self, arrays):
        self.weight = float(arrays["weight"])

    def train(self, batch):
        target = float(batch[0][0])
        self.rates.append(float(self.optimizer.learning_rate.numpy()))
        loss = (self.weight - target) ** 2
        self.weight -= self.rates[-1] * 2 * (self.weight - target)
        self.step += 1
        return {"loss": loss, "rpn_class_loss": loss}

    def validate(self, batch):
        return {"loss": (self.weight - float(batch[0][0])) ** 2, "rpn_class_loss": 0.0}


def loop_of(trainer, batches, folder, **values):
    """A `Loop` of two epochs; values are its fields, or those of its options."""
    from mrcnn.training.checkpoints import Checkpoints
    from mrcnn.training.log import RunLog
    from mrcnn.training.loop import Loop
    from mrcnn.training.options import TrainingOptions

    own = {"epochs": 2, "validation_steps": 1, "stage": "all", "save_weights": None}
    own["save_weights"] = lambda path: path.write_text(f"after {trainer.step} steps")
    own |= {name: values.pop(name) for name in [*own, "progress"] if name in values}
    options = TrainingOptions(show_progress=False, **values)
    loop = Loop(
        trainer, Loader(batches), Loader([1.0], "val"), options, steps_per_epoch=len(batches), **own
    )
    loop.checkpoints, loop.log = Checkpoints(folder, "made_up"), RunLog(folder)
    return loop


def run(trainer, batches, folder, **values):
    return loop_of(trainer, batches, folder, **values).run()


def resumed(trainer, batches, folder, **values):
    """A loop that goes on from the folder's newest checkpoint."""
    loop = loop_of(trainer, batches, folder, **values)
    loop.restore(loop.checkpoints.restore())
    return loop


def epochs_on_disk(folder):
    return [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_rows_are_means_by_hand(tmp_path):
    rows = run(OneWeight(), [1.0, 1.0], tmp_path)
    # w: 0 -> 0.2 -> 0.36 -> 0.488 -> 0.5904
    assert rows[0]["loss"] == pytest.approx((1 + 0.64) / 2)
    assert rows[0]["val_loss"] == pytest.approx(0.64**2)
    assert rows[1]["val_loss"] == pytest.approx((1 - 0.5904) ** 2)
    assert rows[0]["epoch"] == 1 and 0 <= rows[0]["data_wait_share"] <= 1
    assert epochs_on_disk(tmp_path) == [1, 2]
    assert (tmp_path / "log.csv").read_text().count("\n") == 3
    names = {p.name for p in tmp_path.iterdir()}
    assert {"mask_rcnn_made_up_0001.h5", "mask_rcnn_made_up_0002.h5", "best.h5"} <= names
    assert {"curves.png", "checkpoints.json", "log.csv"} <= names


def test_the_schedule_sees_the_step_of_the_whole_training(tmp_path):
    from mrcnn.training.loop import Progress
    from mrcnn.training.schedules import CosineSchedule

    schedule = CosineSchedule(0.1, 8)
    trainer = OneWeight()
    start = Progress(epoch=2)
    run(trainer, [1.0, 1.0], tmp_path, progress=start, epochs=4, schedule=schedule)
    assert trainer.rates == pytest.approx([schedule.rate(step) for step in (4, 5, 6, 7)])


def test_callbacks_get_the_original_names_and_may_end_the_run(tmp_path):
    import keras

    class Watch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append((epoch, set(logs)))
            self.model.stop_training = epoch == 1

    watch = Watch()
    rows = run(OneWeight(), [1.0], tmp_path, epochs=9, callbacks=(watch,))
    assert len(rows) == 2
    names = {"loss", "rpn_class_loss", "val_loss", "val_rpn_class_loss", "learning_rate"}
    assert watch.seen == [(0, names), (1, names)]


def test_keras_own_plateau_and_early_stopping(tmp_path):
    import keras

    class Flat(OneWeight):
        def train(self, batch):
            return {"loss": 1.0}

    stop = keras.callbacks.EarlyStopping(monitor="loss", patience=6, min_delta=0)
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.3, patience=2, min_lr=0.03, min_delta=0
    )
    rows = run(Flat(), [1.0], tmp_path, epochs=20, callbacks=(plateau, stop))
    rates = [row["learning_rate"] for row in rows]
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0.03)
    assert len(rows) < 20


def test_early_stopping_keeps_the_best(tmp_path):
    class Worse(OneWeight):
        def validate(self, batch):
            return {"loss": float(abs(self.step - 2))}  # best after epoch 2

    assert len(run(Worse(), [1.0], tmp_path, epochs=20, early_stopping=3)) == 5
    assert (tmp_path / "best.h5").read_text() == "after 2 steps"


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path):
    class Worse(OneWeight):
        def validate(self, batch):
            return {"loss": float(self.step)}

    rows = run(Worse(), [1.0], tmp_path, epochs=9, early_stopping=2)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for patience, epochs in ((2, []), (3, [4])):
        again = resumed(Worse(), [1.0], tmp_path, epochs=9, early_stopping=patience)
        assert [row["epoch"] for row in again.run()] == epochs


def test_early_stopping_counts_from_the_start_of_a_stage(tmp_path):
    from mrcnn.training.loop import Progress

    # The best epoch was the first of the stage before, 5 epochs ago.
    before = Progress(6, best=0.0, best_epoch=1, since=6)
    rows = run(OneWeight(), [1.0], tmp_path, progress=before, epochs=20, early_stopping=3)
    assert [row["epoch"] for row in rows] == [7, 8, 9]
    assert resumed(OneWeight(), [1.0], tmp_path).progress.since == 6
    assert resumed(OneWeight(), [1.0], tmp_path, stage="another").progress.since == 9


def test_a_score_judges_epochs(tmp_path):
    scores = iter([0.2, 0.5, 0.1])
    options = {"score": lambda: next(scores), "score_name": "mask_ap", "epochs": 3}
    rows = run(OneWeight(), [1.0], tmp_path, **options)
    assert [row["mask_ap"] for row in rows] == [0.2, 0.5, 0.1]
    best = (tmp_path / "best.h5").stat().st_ino
    assert best == (tmp_path / "mask_rcnn_made_up_0002.h5").stat().st_ino


def test_a_loss_that_is_not_finite_names_images_and_keeps_checkpoints(tmp_path):
    class Breaks(OneWeight):
        def train(self, batch):
            losses = super().train(batch)
            broken = float("nan") if self.step == 4 else 0.5
            return {**losses, "loss": broken, "mrcnn_mask_loss": broken}

    with pytest.raises(FloatingPointError) as caught:
        run(Breaks(), [5.0, 7.0], tmp_path)
    text = str(caught.value)
    assert f"the checkpoints in {tmp_path} stay" in text
    assert "loss, mrcnn_mask_loss not finite in epoch 2, step 2" in text
    assert (
        "images of this step: train_7.jpg" in text
        and "lower the learning rate" in text
        and str(tmp_path) in text
    )
    assert (tmp_path / "mask_rcnn_made_up_0001.h5").exists()
    assert not (tmp_path / "mask_rcnn_made_up_0002.h5").exists()


def test_a_validation_that_is_not_finite_names_its_own_images(tmp_path):
    class Breaks(OneWeight):
        def validate(self, batch):
            return {"loss": float("inf")}

    with pytest.raises(FloatingPointError, match="the validation after epoch 1, step 1") as caught:
        run(Breaks(), [5.0, 7.0], tmp_path)
    assert "val_1.jpg" in str(caught.value) and "train_" not in str(caught.value)
    assert f"no checkpoint was written to {tmp_path}" in str(caught.value)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """Without validation nothing else would show them before good checkpoints made room."""

    class Breaks(OneWeight):
        def train(self, batch):
            losses = super().train(batch)
            if self.step == 4:
                kernel = self.model.layers[0].kernel
                kernel.assign(np.full(kernel.shape, np.nan, np.float32))
            return losses

    with pytest.raises(FloatingPointError, match="kernel, are not finite.*\n.*stay"):
        run(Breaks(), [1.0, 2.0], tmp_path, validation_steps=0)
    assert (tmp_path / "mask_rcnn_made_up_0001.h5").exists()
    assert not (tmp_path / "mask_rcnn_made_up_0002.h5").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_goes_on_from_there(tmp_path, number):
    from mrcnn.training.stopping import TrainingStopped

    class Signalled(OneWeight):
        def train(self, batch):
            if self.step == 3:
                os.kill(os.getpid(), number)
            return super().train(batch)

    straight = OneWeight()
    (tmp_path / "straight").mkdir()
    rows = run(straight, [1.0, 2.0, 3.0], tmp_path / "straight")

    before = signal.getsignal(number)
    with pytest.raises(TrainingStopped, match="epoch 2, step 1.*--weights last"):
        run(Signalled(), [1.0, 2.0, 3.0], tmp_path)
    assert signal.getsignal(number) is before
    assert (tmp_path / "interrupted.h5").exists()

    trainer = OneWeight()
    again = resumed(trainer, [1.0, 2.0, 3.0], tmp_path)
    assert (again.progress.epoch, again.progress.step) == (1, 1)
    (row,) = again.run()
    assert trainer.weight == straight.weight and trainer.step == 6
    assert row["loss"] == rows[1]["loss"] and row["val_loss"] == rows[1]["val_loss"]
    assert not (tmp_path / "interrupted.h5").exists()


def test_a_signal_during_validation_keeps_the_steps_of_the_epoch(tmp_path):
    """Validation can take longer than a scheduler waits between its SIGTERM and its SIGKILL."""
    from mrcnn.training.stopping import TrainingStopped

    class Signalled(OneWeight):
        def validate(self, batch):
            if self.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().validate(batch)

    straight = OneWeight()
    (tmp_path / "straight").mkdir()
    rows = run(straight, [1.0, 2.0], tmp_path / "straight")
    with pytest.raises(TrainingStopped, match="in the validation after epoch 2; saved in"):
        run(Signalled(), [1.0, 2.0], tmp_path)
    trainer = OneWeight()
    again = resumed(trainer, [1.0, 2.0], tmp_path)
    assert (again.progress.epoch, again.progress.step) == (1, 2)
    (row,) = again.run()
    assert trainer.weight == straight.weight and trainer.step == 4
    assert row["loss"] == rows[1]["loss"] and row["val_loss"] == rows[1]["val_loss"]


def test_a_signal_after_an_epoch_does_not_begin_another(tmp_path):
    from mrcnn.training.stopping import TrainingStopped

    trainer = OneWeight()

    def score():  # the last that happens in an epoch
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.5

    with pytest.raises(TrainingStopped, match="after epoch 1; saved in"):
        run(trainer, [1.0, 2.0], tmp_path, score=score)
    assert trainer.step == 2 and epochs_on_disk(tmp_path) == [1]
    assert (tmp_path / "mask_rcnn_made_up_0001.h5").exists()


def test_a_signal_is_noticed_though_the_terminal_is_gone(monkeypatch):
    from mrcnn.training.stopping import stop_signals

    def broken(*args, **options):
        raise BrokenPipeError

    with stop_signals() as signals:
        monkeypatch.setattr("builtins.print", broken)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.name == "SIGTERM"


def test_float16_scales_the_loss():
    import keras

    from mrcnn.config import Config
    from mrcnn.training.step import make_optimizer

    half = make_optimizer(Config.from_dict({"COMPUTE_DTYPE": "float16"}), 0.1)
    assert isinstance(half, keras.optimizers.LossScaleOptimizer)
    full = make_optimizer(Config.from_dict({"COMPUTE_DTYPE": "float32"}), 0.1)
    assert full.global_clipnorm == 5.0 and np.isclose(full.momentum, 0.9)


# --- A real network -----------------------------------------------------------------------------


class Steady(SmallConfig):
    STEPS_PER_EPOCH = 2
    EMA_DECAY = 0.9
    EDGE_LOSS_WEIGHT = 0.5
    LABEL_SMOOTHING = 0.1
    HEAD_DROPOUT = 0.2


def start(folder, seed=3):
    import keras

    from mrcnn.model import MaskRCNN

    keras.utils.clear_session()  # unnamed layers are counted, and the file holds their names
    keras.utils.set_random_seed(seed)
    return MaskRCNN("training", Steady(), str(folder))


def train(model, epochs, **options):
    from mrcnn.training.schedules import PlateauSchedule

    schedule = PlateauSchedule(0.02, patience=1, delta=10.0)  # falls each epoch but the first
    data = shapes(6), shapes(2)
    options = {"schedule": schedule, "seed": 4, "workers": 2, "show_progress": False, **options}
    return model.train(*data, 0.02, epochs, "all", **options)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of three epochs at a stretch."""
    model = start(tmp_path_factory.mktemp("straight"))
    return model, train(model, 3)


def state(model):
    """The last checkpoint: bytes of the weights file, arrays, and info."""
    from mrcnn.training.checkpoints import Checkpoints

    checkpoint = Checkpoints(model.log_dir, model.run_name).restore()
    return checkpoint.weights.read_bytes(), checkpoint.arrays, checkpoint.info


def check_same(ours, theirs):
    assert ours[0] == theirs[0]  # the weights file, byte by byte
    assert set(ours[1]) == set(theirs[1]) and len(ours[1]) > 100
    for name, array in ours[1].items():
        assert array.tobytes() == theirs[1][name].tobytes(), name
    for info in (ours[2], theirs[2]):
        info.pop("seconds"), info.pop("waited")
    assert ours[2] == theirs[2]


def copy_as_after(epoch, source, folder):
    """A copy of a run as it was after an epoch, as far as going on from it needs."""
    shutil.copytree(source, folder)
    listing = folder / "checkpoints.json"
    entries = [e for e in json.loads(listing.read_text()) if e["epoch"] <= epoch]
    listing.write_text(json.dumps(entries))


def test_a_run_that_is_resumed_and_interrupted_equals_one_that_is_not(straight, tmp_path):
    """To the bit: from the end of an epoch, and from the middle of one."""
    import keras

    from mrcnn.training.stopping import TrainingStopped

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations.numpy() == 5:  # epoch 3, step 1
                os.kill(os.getpid(), signal.SIGTERM)

    expected, rows = straight
    folder = tmp_path / os.path.basename(expected.log_dir)
    copy_as_after(2, expected.log_dir, folder)
    first = start(tmp_path, seed=99)  # its random start is overwritten
    first.resume()
    assert first.epoch == 2 and first.log_dir == str(folder)
    with pytest.raises(TrainingStopped, match="epoch 3, step 1"):
        train(first, 3, custom_callbacks=[Stop()])
    second = start(tmp_path, seed=98)
    assert second.resume().name == "interrupted.h5"
    (row,) = train(second, 3)
    check_same(state(second), state(expected))
    timings = ("seconds", "data_wait_share")
    assert {k: v for k, v in row.items() if k not in timings} == {
        k: v for k, v in rows[2].items() if k not in timings
    }
    assert epochs_on_disk(folder) == [1, 2, 3]
    run_json = json.loads((folder / "run.json").read_text())
    assert len(run_json["resumed"]) == 2 and run_json["seed"] == 4
    assert run_json["pictures"] == {"train": 6, "validation": 2}


def test_a_wrong_newest_checkpoint_is_passed_over(straight, tmp_path):
    from tests.helpers.hostile_runs import STATES, rewrite

    folder = tmp_path / os.path.basename(straight[0].log_dir)
    shutil.copytree(straight[0].log_dir, folder)
    model = start(tmp_path)
    for name in ("info: a list", "stage: missing", "array: the first is missing", "file: empty"):
        shutil.copytree(straight[0].log_dir, folder, dirs_exist_ok=True)
        rewrite(folder, STATES[name])
        with pytest.warns(UserWarning, match=r"0003.state.h5 .*; the checkpoint before it is used"):
            assert model.resume(folder).name.endswith("_0002.h5")
        assert model.epoch == 2


def test_a_run_folder_in_use_is_left_alone(straight, tmp_path):
    from mrcnn.training.run_folders import RunInUse, held

    folder = tmp_path / os.path.basename(straight[0].log_dir)
    shutil.copytree(straight[0].log_dir, folder)
    model = start(tmp_path)
    with held(folder), pytest.raises(RunInUse, match=f"process {os.getpid()} on .*start a new run"):
        model.resume(folder)
    model.resume(folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with held(folder), pytest.raises(RunInUse):
        train(model, 4)
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    assert before | {"run.lock": after["run.lock"]} == after
    train(model, 3)  # nothing more to do, and nobody else is there


def test_averages_are_what_is_saved(straight):
    """The file holds the moving averages; the model keeps the weights themselves."""
    model, _ = straight
    assert model.keras_model.get_layer("mrcnn_class_loss").options == {"label_smoothing": 0.1}
    assert model.keras_model.get_layer("mrcnn_class_dropout2").rate == 0.2
    content = state(model)[1]
    kernel = model.keras_model.get_layer("mrcnn_class_logits").kernel.numpy()
    import h5py

    with h5py.File(model.checkpoint_path.format(epoch=3)) as file:
        saved = file["mrcnn_class_logits/mrcnn_class_logits/kernel:0"][()]
    assert not np.array_equal(saved, kernel)
    np.testing.assert_array_equal(content["weights/mrcnn_class_logits.kernel"], kernel)
    assert any(np.array_equal(saved, v) for k, v in content.items() if k.startswith("averages/"))


def test_a_checkpoint_of_other_options_is_refused(straight, tmp_path):
    from mrcnn.model import MaskRCNN

    class NoAverages(Steady):
        EMA_DECAY = 0.0

    other = MaskRCNN("training", NoAverages(), str(tmp_path))
    other.resume(straight[0].log_dir)
    other.log_dir = str(tmp_path / "elsewhere")
    # One weight less to average is fine, another set of layers is not.
    other.resumed.info["stage"] = "heads"
    with pytest.raises(ValueError, match="other layers, optimizer or EMA_DECAY"):
        other.train(shapes(6), None, 0.02, 9, "heads", seed=4, show_progress=False)


def test_dry_run_trains_nothing_and_finds_missing_images(tmp_path, capsys):
    from mrcnn.training.preflight import PreflightError

    model = start(tmp_path / "logs")
    before = [v.numpy() for v in model.keras_model.variables]
    options = {"dry_run": True, "seed": 4}
    assert model.train(shapes(6), shapes(2), 0.02, 2, "heads", **options) == []
    assert "a step takes about" in capsys.readouterr().out
    for old, variable in zip(before, model.keras_model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert not (tmp_path / "logs").exists()

    broken = shapes(6)
    broken.image_info[2]["path"] = str(tmp_path / "gone.jpg")
    broken.load_image = lambda image_id: utils.Dataset.load_image(broken, image_id)
    with pytest.raises(PreflightError, match="gone.jpg does not exist"):
        model.train(broken, None, 0.02, 1, "heads", check=True, show_progress=False)


def test_options_that_do_not_exist_are_refused(straight):
    with pytest.raises(TypeError, match="early_stoping"):
        train(straight[0], 3, early_stoping=1)


@pytest.mark.slow
def test_a_stage_that_is_resumed_at_its_border_equals_one_that_is_not(straight, tmp_path):
    """A new stage begins with a new optimizer, but with the weights and not their averages."""

    def train_heads(model):
        options = {"stage_name": "1:heads", "seed": 4, "show_progress": False}
        model.train(shapes(4), None, 0.02, 4, "heads", **options)

    first, _ = straight  # the last test that needs it
    folder = tmp_path / os.path.basename(first.log_dir)
    shutil.copytree(first.log_dir, folder)
    train_heads(first)
    second = start(tmp_path, seed=97)
    second.resume()
    train_heads(second)
    assert second.epoch == 4 and second.log_dir == str(folder)
    check_same(state(second), state(first))
