"""The learning rate, the forecast, and the early end."""

import itertools
import time

import numpy as np
import pytest

from utils.training.schedule import Rates, Schedule, TimeLimit, has_stalled

RATES = Rates(peak=1e-3, final=3e-6, warmup_steps=10)


@pytest.mark.parametrize(("figures", "patience", "expected"), [
    ([5, 4, 3, 2], 2, False),
    ([5, 4, 4, 4], 2, True),
    ([5, 4, 6, 4], 3, False),
    ([5, 3, 4, 4], 2, True),
    ([5, 3, 4, 2.9], 2, False),
    ([5, 5], 2, False),
    ([], 1, False),
    ([3, 4], 1, True),
])
def test_it_has_stalled_when_nothing_lower_came_for_the_epochs_of_patience(
        figures, patience, expected):
    assert has_stalled(figures, patience) is expected


def test_learning_rate_warms_up_peaks_and_ends_low():
    schedule = Schedule(10, 1000, 0, Rates(1e-3, 3e-6, 100))
    rates = []
    while not schedule.is_over():
        rates.append(schedule.lr())
        schedule.advance(0.1)
    assert len(rates) == 10_000
    assert rates[0] <= 1e-5
    assert max(rates) == pytest.approx(1e-3, rel=0.01)
    assert rates[-1] == pytest.approx(3e-6, rel=0.1)
    assert np.argmax(rates) < 0.05 * len(rates)


def test_the_forecast_is_made_of_the_first_usual_steps():
    """Two slow steps at the start do not count; 100 steps of 0.2 s and 4 s besides are 24 s."""
    schedule = Schedule(60, 100, 0, RATES, TimeLimit(validation_s=4.0))
    lines = []
    for seconds in [9.0, 3.0] + [0.2] * 20:
        schedule.advance(seconds)
        lines.append(schedule.forecast())
    said = [line for line in lines if line]
    assert said == ["about 24 s an epoch on this machine; 60 epochs = 24.0 min"]
    assert schedule.minutes_left() == pytest.approx(24 * (1 - 22 / 6000), rel=1e-3)


def test_the_forecast_knows_what_is_done_and_the_minutes_allowed():
    schedule = Schedule(60, 100, 3000, RATES, TimeLimit(time.monotonic(), 5, validation_s=4.0))
    for _ in range(10):
        schedule.advance(0.2)
    assert schedule.forecast() == (
        "about 24 s an epoch on this machine; 30 epochs = 12.0 min, "
        "cut to 5.0 min by --max-minutes")
    assert schedule.minutes_left() == pytest.approx(5, abs=0.05)


def test_an_end_brought_nearer_brings_the_rate_down():
    schedule = Schedule(30, 10, 0, RATES)
    rates = []
    while not schedule.is_over():
        if schedule.step == 100:
            news = schedule.maybe_stop_early([5.0, 4.0] + [4.5] * 8, 10, 30, 30)
            assert "the last epoch is 13" in news
        rates.append(schedule.lr())
        schedule.advance(0.1)
    assert len(rates) == 130
    assert rates[99] > 7e-4
    assert rates[-1] < 4e-6
    falling = itertools.pairwise(rates[10:])
    assert all(a >= b for a, b in falling)


def test_near_its_end_or_while_it_falls_training_goes_on():
    schedule = Schedule(12, 10, 0, RATES)
    stalled = [5.0] + [6.0] * 9
    assert schedule.maybe_stop_early(stalled, 10, 30, 30) == ""
    schedule = Schedule(30, 10, 0, RATES)
    assert schedule.maybe_stop_early([5.0 - k / 10 for k in range(10)], 10, 30, 30) == ""
    assert schedule.epochs == 30
