"""Learning rates over a training, and its stages. Plain Python: all state is a dict of numbers."""

import math
import re
from dataclasses import dataclass

SCHEDULES = ("plateau", "constant", "step", "cosine")


class Schedule:
    """A constant rate, after `warmup` steps of linear growth to it.

    Args:
        peak: the rate.
        warmup: steps.
    """

    def __init__(self, peak, warmup=0):
        if not peak > 0 or not math.isfinite(peak):
            raise ValueError(f"got a learning rate of {peak}; give a positive number")
        if warmup < 0:
            raise ValueError(f"got {warmup} steps of warm-up; give 0 or more")
        self.peak, self.warmup = float(peak), int(warmup)

    def rate(self, step):
        """Learning rate of a step, counted from 0 over the whole training."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.peak * self.factor(step)

    def factor(self, step):
        """Share of `peak` at a step after the warm-up."""
        del step
        return 1.0

    def end_epoch(self, loss):
        """Takes the validation loss of an epoch. Returns what to tell the user, or None."""

    def state(self):
        """dict of what must be kept to go on as if never interrupted."""
        return {}

    def restore(self, state):
        """Takes up a `state`."""


class StepSchedule(Schedule):
    """Falls to a tenth at given steps (the Mask R-CNN paper, section 3.1).

    Args:
        milestones: steps, each the first at its lower rate.
        factor: of each fall, above 0 and below 1.
    """

    def __init__(self, peak, milestones, factor=0.1, warmup=0):
        super().__init__(peak, warmup)
        _check_fall(factor)
        self.milestones, self.fall = sorted(int(m) for m in milestones), float(factor)

    def factor(self, step):
        return self.fall ** sum(step >= milestone for milestone in self.milestones)


class CosineSchedule(Schedule):
    """Half a cosine down to 0 (arXiv:1608.03983).

    Args:
        steps: of the whole training, warm-up included.
    """

    def __init__(self, peak, steps, warmup=0):
        super().__init__(peak, warmup)
        if steps < 1:
            raise ValueError(f"got a cosine over {steps} steps; give 1 or more")
        self.steps = int(steps)

    def factor(self, step):
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class PlateauSchedule(Schedule):
    """Falls when the validation loss has not fallen for some epochs.

    Args:
        fall: factor of each fall, above 0 and below 1.
        patience: epochs, 1 or more.
        lowest: no rate below this one; at most `peak`.
        delta: the loss must fall by more than this to count.
    """

    def __init__(self, peak, fall=0.3, patience=5, lowest=0.0, delta=1e-4, warmup=0):
        super().__init__(peak, warmup)
        _check_fall(fall)
        if patience < 1 or not 0 <= lowest <= peak or not 0 <= delta < math.inf:
            raise ValueError(
                f"got patience={patience}, lowest={lowest} and delta={delta}; give a patience of "
                f"1 or more, a lowest rate of 0 to {peak} and a delta of 0 or more"
            )
        self.fall, self.patience = float(fall), int(patience)
        self.lowest, self.delta = lowest / peak, float(delta)
        # A share of `peak`, so that a run that goes on with another rate gets that one.
        self.share, self.best, self.waited = 1.0, math.inf, 0

    def factor(self, step):
        del step
        return self.share

    def end_epoch(self, loss):
        if loss < self.best - self.delta:
            self.best, self.waited = loss, 0
            return None
        self.waited += 1
        lower = max(self.share * self.fall, self.lowest)
        # Shares like 0.3 and 0.3 * 0.001 / 0.001 differ in their last bit.
        if self.waited < self.patience or math.isclose(lower, self.share):
            return None
        self.share, self.waited = lower, 0
        rate = self.peak * lower
        return f"no lower validation loss for {self.patience} epochs: learning rate {rate:.3g}"

    def state(self):
        # JSON has no infinity.
        best = None if math.isinf(self.best) else self.best
        return {"share": self.share, "best": best, "waited": self.waited}

    def restore(self, state):
        self.share, self.waited = state["share"], state["waited"]
        self.best = math.inf if state["best"] is None else state["best"]


def _check_fall(factor):
    if not 0 < factor < 1:
        raise ValueError(f"got a fall by the factor {factor}; give one above 0 and below 1")


def make_schedule(kind, peak, *, epochs, steps_per_epoch, warmup=0):
    """A schedule by its name on the command line.

    Args:
        kind: one of `SCHEDULES`. plateau: down to 0.3 of the rate, once, after 5 epochs
            without a lower validation loss. step: a tenth after 2/3 and again after 8/9 of
            the training, as in the paper.
        peak: the highest rate.
        epochs, steps_per_epoch: of the whole training.
        warmup: steps of linear growth.

    Raises:
        ValueError: for another name, or a number that makes no sense.
    """
    if epochs < 1 or steps_per_epoch < 1:
        raise ValueError(f"got {epochs} epochs of {steps_per_epoch} steps; give 1 or more of each")
    total = epochs * steps_per_epoch
    if kind == "plateau":
        return PlateauSchedule(peak, lowest=0.3 * peak, warmup=warmup)
    if kind == "step":
        return StepSchedule(peak, (round(total * 2 / 3), round(total * 8 / 9)), warmup=warmup)
    if kind == "cosine":
        return CosineSchedule(peak, total, warmup)
    if kind == "constant":
        return Schedule(peak, warmup)
    raise ValueError(f"got the schedule {kind!r}; use one of {', '.join(SCHEDULES)}")


@dataclass(frozen=True)
class Stage:
    """A part of a training: which layers train, up to which epoch, at which rate.

    Attributes:
        layers: "heads", "3+", "4+", "5+", "all" or a regular expression.
        until: the last epoch, counted from the first of all.
        divisor: of the learning rate.
    """

    layers: str
    until: int
    divisor: float = 1.0


def parse_stages(text):
    """'heads:40,4+:120,all:160/10' -> [Stage("heads", 40), Stage("4+", 120), Stage("all", 160, 10)].

    That is matterport's usual recipe: the heads for 40 epochs, then more layers to epoch
    120, then all of them at a tenth of the rate to epoch 160.

    Raises:
        ValueError: saying which part is wrong.
    """
    stages: list[Stage] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\S.*?)\s*:\s*([0-9]+)(?:/([0-9]+(?:\.[0-9]+)?))?\s*", part)
        if not found:
            raise ValueError(
                f"got the stage {part!r}; give layers:epoch or layers:epoch/divisor, such as "
                "heads:40,4+:120,all:160/10"
            )
        layers, until, divisor = found.group(1), int(found.group(2)), float(found.group(3) or 1)
        before = stages[-1].until if stages else 0
        if until <= before or divisor <= 0:
            raise ValueError(
                f"got the stage {part!r} after {before} epochs; stages must end at rising "
                "epochs, and divisors be positive"
            )
        try:
            re.compile(layers)
        except re.error as error:
            raise ValueError(
                f"got the stage {part!r}, whose layers are no regular expression ({error}); "
                "give heads, 3+, 4+, 5+, all or a regular expression without commas"
            ) from error
        stages.append(Stage(layers, until, divisor))
    return stages
