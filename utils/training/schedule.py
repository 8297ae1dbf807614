"""How far training has come: the learning rate there, the time that is left, and when to stop."""

import math
import time
from dataclasses import dataclass

from utils.training import distributed

SKIPPED_STEPS = 2        # the first steps of a run are slower: they do not count
MEASURED_STEPS = 8       # that the forecast is made from
PACE_STEPS = 50          # over which the pace is averaged
RESERVE_S = 8.0          # at the end of a time limit, beside 1.5 validations: saving, plots
LEAST_EPOCHS = 3         # of patience and of cooldown, however few steps they are


@dataclass
class Rates:
    """Learning rates: from 0 up to `peak` in `warmup_steps`, then down to `final` by a cosine."""

    peak: float
    final: float
    warmup_steps: int


@dataclass
class TimeLimit:
    """Limit of one run. minutes: allowed from `start` (s of time.monotonic), None for no limit.
    validation_s: seconds that an epoch takes beside its steps; if it does, time for that and for
    saving is kept free at the end.
    """

    start: float = 0.0
    minutes: float | None = None
    validation_s: float = 0.0


class Schedule:
    """Where training stands between its start (progress 0) and its end (1), the learning rate
    there, and the time left.

    Progress is the larger of the share of all steps and the share of this run's minutes, so that
    either limit ends it with the learning rate brought down. With --epochs alone it depends on the
    step only.

    epochs: in all. steps_per_epoch. step: steps made so far, in all.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        step: int,
        rates: Rates,
        limit: TimeLimit | None = None,
    ):
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.step = step
        self.rates = rates
        self.limit = limit or TimeLimit()
        self.first_step = step
        self.first_progress = step / (epochs * steps_per_epoch)
        self.seconds_per_step = 0.0
        self.update()

    def update(self):
        """Look at the clock, all processes at the same one."""
        self.progress = self.step / (self.epochs * self.steps_per_epoch)
        if self.limit.minutes is None:
            return
        validation_s = self.limit.validation_s
        reserve = validation_s and 1.5 * validation_s + RESERVE_S
        usable = max(1.0, 60 * self.limit.minutes - reserve)
        share = self._elapsed() / usable
        by_time = self.first_progress + (1 - self.first_progress) * share
        self.progress = distributed.broadcast(max(self.progress, by_time))

    def advance(self, seconds: float):
        """Count a step that took this long."""
        self.step += 1
        measured = self.step - self.first_step - SKIPPED_STEPS
        if measured > 0:
            change = seconds - self.seconds_per_step
            self.seconds_per_step += change / min(measured, PACE_STEPS)
        self.update()

    def lr(self) -> float:
        """Learning rate of the next step."""
        warmup = min(1.0, (self.step + 1) / self.rates.warmup_steps)
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.progress))
        fall = self.rates.peak - self.rates.final
        return warmup * (self.rates.final + cosine * fall)

    def is_over(self) -> bool:
        """Whether a limit is reached."""
        return self.progress >= 1

    def minutes_left(self) -> float:
        """Minutes that are left, by the pace of the last steps."""
        epochs = self.epochs - self.step / self.steps_per_epoch
        seconds = epochs * self._seconds_per_epoch()
        if self.limit.minutes is not None:
            seconds = min(seconds, 60 * self.limit.minutes - self._elapsed())
        return max(0.0, seconds / 60)

    def forecast(self) -> str:
        """Line on how long training will take, once after the first steps; else nothing."""
        if self.step != self.first_step + SKIPPED_STEPS + MEASURED_STEPS:
            return ""
        epochs = self.epochs - self.first_step // self.steps_per_epoch
        each = self._seconds_per_epoch()
        minutes = epochs * each / 60
        line = f"about {each:.0f} s an epoch on this machine; {epochs} epochs = {minutes:.1f} min"
        if self.limit.minutes is not None and minutes > self.limit.minutes:
            line += f", cut to {self.limit.minutes:.1f} min by --max-minutes"
        return line

    def maybe_stop_early(
        self,
        figures: list[float],
        epochs_made: int,
        patience_steps: int,
        cooldown_steps: int,
    ) -> str:
        """Bring the end nearer if the held-out figures no longer fall. Returns what to say of it.

        To stop at once would keep a network of a high learning rate, whose lips are blurred: the
        cosine is cut short instead, and falls over the last epochs.
        """
        patience = self._epochs_of(patience_steps)
        cooldown = self._epochs_of(cooldown_steps)
        is_near_the_end = self.epochs - epochs_made <= cooldown
        if is_near_the_end or not has_stalled(figures, patience):
            return ""
        self.epochs = epochs_made + cooldown
        return (
            f"\nheld-out no lower for {patience} epochs: the rate is brought down now, "
            f"the last epoch is {self.epochs}")

    def _epochs_of(self, steps):
        return max(LEAST_EPOCHS, math.ceil(steps / self.steps_per_epoch))

    def _elapsed(self):
        return time.monotonic() - self.limit.start

    def _seconds_per_epoch(self):
        return self.steps_per_epoch * self.seconds_per_step + self.limit.validation_s


def has_stalled(figures: list[float], patience: int) -> bool:
    """Whether none of the last `patience` figures is lower than all before them."""
    if len(figures) <= patience:
        return False
    return min(figures[-patience:]) >= min(figures[:-patience])
