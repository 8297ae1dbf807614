"""How far training has come: the learning rate there, the time that is left, and whether more of it would help."""

import math
import time

from utils import together

SKIPPED, MEASURED = 2, 8  # first steps of a call, which are slower; those that the forecast is made from
REMEMBERED = 50           # steps over which the pace is averaged


class Schedule:
    """Where training stands between its start (0) and its end (1), the learning rate there, and the time left.

    Progress is the larger of the share of all steps and the share of this call's minutes, so either limit ends
    it with the rate brought down. With --epochs alone it depends on the step only.

    epochs: in all. steps: of an epoch. step: made so far, in all. rates: (peak, end). warmup: steps up to the peak.
    minutes: allowed from `start` (s of time.monotonic). look: s that an epoch takes besides its steps.
    """

    def __init__(self, epochs, steps, step, rates, warmup, start=0.0, minutes=None, look=0.0):
        self.epochs, self.steps, self.step, self.rates, self.warmup = epochs, steps, step, rates, warmup
        self.start, self.deadline, self.look = start, minutes and minutes * 60, look
        self.begun, self.first, self.pace = step / (epochs * steps), step, 0.0
        self.update()

    def update(self):
        """Look at the clock, all processes at the same one."""
        self.progress = self.step / (self.epochs * self.steps)
        if self.deadline:
            reserve = 1.5 * self.look + 8  # s: imports, saving, plot
            share = (time.monotonic() - self.start) / max(1.0, self.deadline - reserve)
            self.progress = together.agreed(max(self.progress, self.begun + (1 - self.begun) * share))

    def advance(self, seconds):
        """Count a step that took so long."""
        self.step += 1
        known = self.step - self.first - SKIPPED
        if known > 0:
            self.pace += (seconds - self.pace) / min(known, REMEMBERED)
        self.update()

    def rate(self):
        """Warm up, then half a cosine from the peak to the end."""
        peak, end = self.rates
        fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.progress))
        return (end + (peak - end) * fall) * min(1.0, (self.step + 1) / self.warmup)

    def over(self):
        return self.progress >= 1

    def left(self):
        """Return the minutes that are left, by the pace of the last steps."""
        part = self.epochs - self.step / self.steps
        seconds = part * (self.steps * self.pace + self.look)
        if self.deadline:
            seconds = min(seconds, self.deadline - (time.monotonic() - self.start))
        return max(0.0, seconds / 60)

    def forecast(self):
        """Return a line on how long it will take, once the first steps are known; else nothing."""
        if self.step != self.first + SKIPPED + MEASURED:
            return ""
        epochs, each = self.epochs - self.first // self.steps, self.steps * self.pace + self.look
        line = f"about {each:.0f} s an epoch on this machine; {epochs} epochs = {epochs * each / 60:.1f} min"
        if self.deadline and epochs * each > self.deadline:
            line += f", cut to {self.deadline / 60:g} min by --max-minutes"
        return line


def stalled(history, patience):
    """True if none of the last `patience` epochs of a history has brought the held-out figure to a new low."""
    figures = [row["held_out"] for row in history]
    return len(figures) > patience and min(figures[-patience:]) >= min(figures[:-patience])
