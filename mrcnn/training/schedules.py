"""Learning-rate schedules, and the stages of a training. Plain Python, without TensorFlow."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

SCHEDULES = ("plateau", "constant", "step", "cosine")


class Schedule:
    """The constant rate `peak`, after `warmup` steps of linear growth to it."""

    def __init__(self, peak: float, warmup: int = 0) -> None:
        if not peak > 0 or not math.isfinite(peak):
            raise ValueError(f"got a learning rate of {peak}; give a positive number")
        if warmup < 0:
            raise ValueError(f"got {warmup} steps of warm-up; give 0 or more")
        self.peak, self.warmup = float(peak), int(warmup)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0 over the whole training."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.peak * self.factor(step)

    def factor(self, step: int) -> float:
        """The rate at a step after the warm-up, as a share of `peak`."""
        return 1.0

    def end_epoch(self, loss: float) -> str | None:
        """Takes an epoch's validation loss; returns a message for the user if the rate falls."""
        return None

    def state(self) -> dict[str, Any]:
        """State that a checkpoint must store, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a `state`; ValueError if it is of another kind of schedule."""


class StepSchedule(Schedule):
    """Multiplies the rate by `factor` at each milestone (the Mask R-CNN paper, section 3.1).

    Args:
        milestones: steps, each the first at its lower rate.
        factor: above 0 and below 1.
    """

    def __init__(
        self, peak: float, milestones: Iterable[int], factor: float = 0.1, warmup: int = 0
    ) -> None:
        super().__init__(peak, warmup)
        _check_fall(factor)
        self.milestones, self.fall = sorted(int(m) for m in milestones), float(factor)

    def factor(self, step: int) -> float:
        return self.fall ** sum(step >= milestone for milestone in self.milestones)


class CosineSchedule(Schedule):
    """Half a cosine down to 0 at `steps`, warm-up included (arXiv:1608.03983)."""

    def __init__(self, peak: float, steps: int, warmup: int = 0) -> None:
        super().__init__(peak, warmup)
        if steps < 1:
            raise ValueError(f"got a cosine over {steps} steps; give 1 or more")
        self.steps = int(steps)

    def factor(self, step: int) -> float:
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class PlateauState(msgspec.Struct):
    """What a `PlateauSchedule` needs to go on: `state` as JSON."""

    share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    best: float | None  # JSON has no infinity
    waited: Annotated[int, msgspec.Meta(ge=0)]


class PlateauSchedule(Schedule):
    """Lowers the rate when the validation loss has not improved for some epochs.

    Args:
        fall: factor of each fall, above 0 and below 1.
        patience: epochs, 1 or more.
        lowest: no rate below this one; at most `peak`.
        delta: the loss must fall by more than this to count.
    """

    def __init__(
        self,
        peak: float,
        fall: float = 0.3,
        patience: int = 5,
        lowest: float = 0.0,
        delta: float = 1e-4,
        warmup: int = 0,
    ) -> None:
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

    def factor(self, step: int) -> float:
        return self.share

    def end_epoch(self, loss: float) -> str | None:
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

    def state(self) -> dict[str, Any]:
        best = None if math.isinf(self.best) else self.best
        return {"share": self.share, "best": best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        saved = msgspec.convert(state, PlateauState)
        self.share, self.waited = saved.share, saved.waited
        self.best = math.inf if saved.best is None else saved.best


def _check_fall(factor: float) -> None:
    if not 0 < factor < 1:
        raise ValueError(f"got a fall by the factor {factor}; give one above 0 and below 1")


def make_schedule(
    kind: str, peak: float, *, epochs: int, steps_per_epoch: int, warmup: int = 0
) -> Schedule:
    """A schedule by its name on the command line, over the whole training.

    plateau: 0.3 of the rate, once, after 5 epochs without a lower validation loss. step: a tenth
    after 2/3 and again after 8/9 of all steps, as in the paper.

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
    """A part of a training: its layers, its last epoch, and a divisor of the learning rate.

    `layers` is "heads", "3+", "4+", "5+", "all" or a regular expression; epochs are counted from
    the first of the whole training.
    """

    layers: str
    until: int
    divisor: float = 1.0


def parse_stages(text: str) -> list[Stage]:
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
