"""How far training has come, and the learning rate there."""

import math
import time


class Schedule:
    """Where training stands between its start (0) and its end (1), and the learning rate there.

    Progress is the larger of the share of all steps and the share of this call's minutes, so either limit ends
    it with the rate brought down. With --epochs alone it depends on the step only.

    steps: in all. step: made so far. rates: (peak, end). warmup: steps up to the peak. minutes: allowed from `start`
    (s of time.monotonic), of which the last `reserve` seconds are not for training.
    """

    def __init__(self, steps, step, rates, warmup, start=0.0, minutes=None, reserve=0.0):
        self.steps, self.step, self.rates, self.warmup = steps, step, rates, warmup
        self.start, self.begun, self.deadline, self.reserve = start, step / steps, minutes and minutes * 60, reserve

    def progress(self):
        by_steps = self.step / self.steps
        if not self.deadline:
            return by_steps
        share = (time.monotonic() - self.start) / max(1.0, self.deadline - self.reserve)
        return max(by_steps, self.begun + (1 - self.begun) * share)

    def rate(self):
        """Warm up, then half a cosine from the peak to the end."""
        peak, end = self.rates
        fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.progress()))
        return (end + (peak - end) * fall) * min(1.0, (self.step + 1) / self.warmup)

    def over(self):
        return self.progress() >= 1
