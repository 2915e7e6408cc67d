"""Learning rates by hand, at each corner, and the words for stages."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcnn.training.schedules import (
    SCHEDULES,
    CosineSchedule,
    PlateauSchedule,
    Schedule,
    Stage,
    StepSchedule,
    make_schedule,
    parse_stages,
)


def rates(schedule, *steps):
    return [schedule.rate(step) for step in steps]


def test_constant_without_warm_up():
    assert rates(Schedule(0.01), 0, 1, 10**9) == [0.01] * 3
    assert Schedule(1).end_epoch(3.0) is None and Schedule(1).state() == {}


def test_warm_up_ends_at_the_peak():
    # A first step at rate 0 would be a step for nothing.
    assert rates(Schedule(0.8, warmup=4), 0, 1, 2, 3, 4, 5) == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    )
    assert rates(Schedule(0.8, warmup=1), 0, 1) == [0.8, 0.8]


def test_steps_fall_at_their_milestones():
    schedule = StepSchedule(1.0, (20, 10), warmup=5)
    assert rates(schedule, 0, 4, 5, 9) == pytest.approx([0.2, 1.0, 1.0, 1.0])
    assert rates(schedule, 10, 19) == pytest.approx([0.1] * 2)
    assert rates(schedule, 20, 10**6) == pytest.approx([0.01] * 2)
    assert rates(StepSchedule(1.0, (10, 10), factor=0.5), 9, 10) == [1.0, 0.25]
    assert rates(StepSchedule(1.0, ()), 0, 99) == [1.0, 1.0]


def test_cosine_from_peak_to_zero():
    schedule = CosineSchedule(0.1, 110, warmup=10)
    assert rates(schedule, 0, 9, 10) == pytest.approx([0.01, 0.1, 0.1])
    # a third, the half and two thirds of the way: 1 + cos of 60, 90 and 120 degrees
    assert rates(CosineSchedule(0.4, 90), 30, 45, 60) == pytest.approx([0.3, 0.2, 0.1])
    assert schedule.rate(60) == pytest.approx(0.05)
    assert 0 < schedule.rate(109) < 1e-4
    assert rates(schedule, 110, 111, 10**6) == [0.0] * 3


def test_cosine_of_nothing_but_warm_up():
    assert rates(CosineSchedule(0.1, 4, warmup=4), 0, 3, 4) == pytest.approx([0.025, 0.1, 0.1])


@given(
    st.integers(1, 500), st.integers(0, 100), st.integers(0, 600), st.sampled_from(SCHEDULES[1:])
)
def test_rates_lie_between_zero_and_the_peak(total, warmup, step, kind):
    schedule = make_schedule(kind, 0.5, epochs=1, steps_per_epoch=total, warmup=warmup)
    assert 0 <= schedule.rate(step) <= 0.5
    if step >= warmup:
        assert schedule.rate(step + 1) <= schedule.rate(step)
    else:
        assert schedule.rate(step) > 0


def plateau(losses, **values):
    """(rates after each of the losses, the epochs that had something to tell)."""
    schedule = PlateauSchedule(1.0, **values)
    after, told = [], []
    for epoch, loss in enumerate(losses):
        if schedule.end_epoch(loss):
            told.append(epoch)
        after.append(schedule.rate(0))
    return after, told


def test_plateau_waits_for_its_patience():
    after, told = plateau([5.0, 4.0, 4.0, 4.1, 4.0, 3.0, 3.0], fall=0.1, patience=3)
    assert after == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1]) and told == [4]
    # Counted anew from the fall on, and from each lower loss on.
    after, told = plateau([4.0, 4.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0], fall=0.1, patience=2)
    assert after == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001]) and told == [2, 4, 7]


def test_plateau_wants_more_than_delta():
    # From 4 to 3.5 is not more than 0.5; from 4 to 3.25 is.
    assert plateau([4.0, 3.5, 3.25, 3.25], delta=0.5, patience=1, fall=0.5)[1] == [1, 3]
    assert plateau([4.0, 3.5, 3.0, 2.5], delta=0.25, patience=1, fall=0.5)[1] == []
    assert plateau([4.0, math.nan, math.nan], patience=2)[1] == [2]


def test_plateau_stops_at_the_lowest_rate():
    after, told = plateau([1.0] * 5, fall=0.5, patience=1, lowest=0.3)
    assert after == pytest.approx([1.0, 0.5, 0.3, 0.3, 0.3]) and told == [1, 2]


def test_the_default_falls_once_to_three_tenths():
    """1e-3 -> 3e-4 is the original author's; at 1e-3 0.3 * peak / peak is not exactly 0.3."""
    for peak in (1e-3, 0.007, 0.1, 3.0):
        schedule = make_schedule("plateau", peak, epochs=90, steps_per_epoch=10, warmup=2)
        told = [schedule.end_epoch(2.0) for _ in range(40)]
        assert [i for i, note in enumerate(told) if note] == [5]
        assert told[5] == f"no lower validation loss for 5 epochs: learning rate {0.3 * peak:.3g}"
        assert rates(schedule, 0, 1, 2, 899) == pytest.approx(
            [peak / 2, peak, 0.3 * peak, 0.3 * peak]
        )


@given(
    st.lists(st.floats(0, 5, allow_nan=False), max_size=20), st.integers(0, 20), st.integers(1, 3)
)
def test_a_restored_plateau_goes_on_as_if_never_interrupted(losses, at, patience):
    straight, first, second = (PlateauSchedule(0.1, patience=patience) for _ in range(3))
    told = [straight.end_epoch(loss) for loss in losses]
    halves = [first.end_epoch(loss) for loss in losses[:at]]
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    halves += [second.end_epoch(loss) for loss in losses[at:]]
    assert halves == told
    assert second.rate(7) == straight.rate(7) and second.state() == straight.state()


def test_a_run_may_go_on_at_another_rate():
    before = PlateauSchedule(0.1, fall=0.5, patience=1)
    before.end_epoch(1.0)
    before.end_epoch(1.0)
    after = PlateauSchedule(0.02, fall=0.5, patience=1)
    after.restore(before.state())
    assert before.rate(0) == pytest.approx(0.05) and after.rate(0) == pytest.approx(0.01)


def test_schedules_by_name():
    values = {"epochs": 9, "steps_per_epoch": 10, "warmup": 3}
    steps = make_schedule("step", 1.0, **values)
    assert rates(steps, 2, 59, 60, 79, 80) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    cosine = make_schedule("cosine", 1.0, **values)
    assert rates(cosine, 0, 90) == pytest.approx([1 / 3, 0])
    assert rates(make_schedule("constant", 0.2, **values), 0, 90) == pytest.approx([0.2 / 3, 0.2])
    assert {type(make_schedule(kind, 1.0, **values)) for kind in SCHEDULES} == {
        Schedule,
        StepSchedule,
        CosineSchedule,
        PlateauSchedule,
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule(0), "learning rate of 0; give a positive number"),
        (lambda: Schedule(-1.0), "learning rate of -1.0"),
        (lambda: Schedule(math.nan), "learning rate of nan"),
        (lambda: Schedule(math.inf), "learning rate of inf"),
        (lambda: Schedule(1, warmup=-1), "-1 steps of warm-up; give 0 or more"),
        (lambda: StepSchedule(1, (5,), factor=1), "factor 1; give one above 0 and below 1"),
        (lambda: CosineSchedule(1, 0), "cosine over 0 steps"),
        (lambda: PlateauSchedule(1, fall=0), "fall by the factor 0"),
        (lambda: PlateauSchedule(1, patience=0), "patience=0"),
        (lambda: PlateauSchedule(1, lowest=2), "a lowest rate of 0 to 1"),
        (lambda: PlateauSchedule(1, delta=-1), "delta=-1"),
        (lambda: make_schedule("linear", 1, epochs=1, steps_per_epoch=1), "'linear'; use one of"),
        (lambda: make_schedule("step", 1, epochs=0, steps_per_epoch=9), "0 epochs of 9 steps"),
        (lambda: make_schedule("step", 1, epochs=9, steps_per_epoch=0), "9 epochs of 0 steps"),
    ],
)
def test_bad_numbers_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("heads:40", [Stage("heads", 40, 1.0)]),
        (
            "heads:40,4+:120,all:160/10",
            [Stage("heads", 40), Stage("4+", 120), Stage("all", 160, 10.0)],
        ),
        (" heads : 1 , all:2/0.5 ", [Stage("heads", 1), Stage("all", 2, 0.5)]),
        (r"(?:fpn|mrcnn)\_.*:007", [Stage(r"(?:fpn|mrcnn)\_.*", 7)]),
    ],
)
def test_stages_in_words(text, stages):
    assert parse_stages(text) == stages


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "stage ''; give layers:epoch or layers:epoch/divisor"),
        ("heads", "stage 'heads'; give"),
        ("heads:", "stage 'heads:'; give"),
        (":40", "stage ':40'; give"),
        ("heads:40,", "stage ''; give"),
        ("heads:x", "stage 'heads:x'; give"),
        ("heads:-3", "stage 'heads:-3'; give"),
        ("heads:4.5", "stage 'heads:4.5'; give"),
        ("heads:40/", "stage 'heads:40/'; give"),
        ("heads:40/1.2.3", "stage 'heads:40/1.2.3'; give"),
        ("heads:40/.", "stage 'heads:40/.'; give"),
        ("heads:0", "'heads:0' after 0 epochs; stages must end at rising"),
        ("heads:40,all:40", "'all:40' after 40 epochs"),
        ("heads:40,all:30", "'all:30' after 40 epochs"),
        ("heads:40/0", "divisors be positive"),
        ("(res:40", r"'\(res:40', whose layers are no regular expression \(missing \)"),
    ],
)
def test_stages_that_make_no_sense_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_stages(text)
