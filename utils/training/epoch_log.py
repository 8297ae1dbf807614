"""Numbers of an epoch: their means, the progress bar, and the line that is said at its end."""

import math
import time
from collections import defaultdict
from typing import Any

from tqdm import tqdm

from utils.cli import CheckpointError, say
from utils.training import distributed
from utils.training.schedule import Schedule


class EpochLog:
    """Collects the numbers of each step, shows progress and keeps the schedule going.

    pictures: of the epoch, for the bar. Whatever number is added at each step becomes a column of
    log.csv: its mean over the epoch.
    """

    def __init__(self, epoch: int, pictures: int, schedule: Schedule):
        self.schedule = schedule
        self.totals: dict[str, float] = defaultdict(float)
        self.pictures = 0
        self.begun = time.monotonic()
        self.step_begun = self.begun
        self.bar = tqdm(total=pictures, desc=f"epoch {epoch}", unit="picture", leave=False)

    def add(self, pictures: int, numbers: dict[str, float]):
        """Count a step with its numbers, each a mean over its pictures; the schedule moves on.

        Raises CheckpointError if a number is not finite: the checkpoints are from before it.
        """
        check_finite(numbers, self.schedule)
        for name, number in numbers.items():
            self.totals[name] += pictures * number
        self.pictures += pictures
        now = time.monotonic()
        self.schedule.advance(now - self.step_begun)
        self.step_begun = now
        forecast = self.schedule.forecast()
        if forecast:
            with self.bar.external_write_mode():
                say(forecast)
        minutes = self.schedule.minutes_left()
        self.bar.set_postfix_str(f"{minutes:.1f} min left in all", refresh=False)
        self.bar.update(pictures * distributed.world_size())

    def close(self) -> dict[str, float]:
        """Means over the epoch of all processes, and `pictures_per_s`."""
        self.bar.close()
        seconds = time.monotonic() - self.begun
        *totals, pictures = distributed.all_reduce_sum(*self.totals.values(), self.pictures)
        means = {}
        for name, total in zip(self.totals, totals, strict=True):
            means[name] = total / pictures
        means["pictures_per_s"] = round(pictures / seconds, 1)
        return means


def check_finite(numbers: dict[str, float], schedule: Schedule):
    """Raise CheckpointError if a number of the step under way is not finite."""
    if all(map(math.isfinite, numbers.values())):
        return
    said = ", ".join(f"{name} = {number}" for name, number in numbers.items())
    raise CheckpointError(
        f"the loss or its gradient is not finite at step {schedule.step} ({said}); the "
        "checkpoints are from before it",
        options=f"--resume --lr {schedule.rates.peak / 3:.1g}",
    )


def epoch_line(row: dict[str, Any], schedule: Schedule, is_best: bool) -> str:
    """What is said of an epoch: its numbers; a star marks one that is saved as best.pth."""
    of_all = "" if schedule.is_over() else f"/{schedule.epochs}"
    left = "done" if schedule.is_over() else f"{schedule.minutes_left():.1f} min left"
    star = "*" if is_best else " "
    return (
        f"epoch {row['epoch']:3d}{of_all}  train {row['train_loss']:.4f}  "
        f"held-out {row['val_loss']:.4f}{star} lr {row['lr']:.1e}  "
        f"{row['pictures_per_s']:.0f} pictures/s  {left}")
