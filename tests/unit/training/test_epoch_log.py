"""The numbers of an epoch, log.csv and loss.png."""

import csv
import math

import pytest

from utils.cli import CheckpointError
from utils.training.epoch_log import EpochLog, epoch_line
from utils.training.plots import write_log
from utils.training.schedule import Rates, Schedule


@pytest.fixture
def schedule():
    return Schedule(2, 10, 0, Rates(1e-3, 3e-6, 10))


def test_every_number_that_is_added_is_averaged_over_the_pictures(schedule):
    log = EpochLog(1, 12, schedule)
    log.add(8, {"train_loss": 1.0, "my_number": 10.0})
    log.add(4, {"train_loss": 4.0, "my_number": 40.0})
    means = log.close()
    assert means["train_loss"] == pytest.approx(2.0)
    assert means["my_number"] == pytest.approx(20.0)
    assert means["pictures_per_s"] > 0
    assert schedule.step == 2


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_names_step_and_command(schedule, number):
    log = EpochLog(1, 12, schedule)
    log.add(4, {"train_loss": 1.0, "gradient_norm": 1.0})
    message = r"step 1 .*gradient_norm = (nan|inf).*train\.py --resume --lr 0\.0003"
    with pytest.raises(CheckpointError, match=message):
        log.add(4, {"train_loss": 1.0, "gradient_norm": number})


def test_the_line_of_an_epoch_has_its_numbers(schedule):
    row = {
        "epoch": 1, "train_loss": 0.04, "val_loss": 0.03, "lr": 1e-3, "pictures_per_s": 30.2,
        "seconds": 9.0}
    line = epoch_line(row, schedule, is_best=True)
    for part in ("epoch   1/2", "0.0400", "0.0300*", "30 pictures/s", "min left"):
        assert part in line


def test_log_csv_has_a_column_that_only_later_epochs_have(tmp_path):
    rows = [
        {"epoch": 1, "train_loss": 0.04, "val_loss": 0.03},
        {"epoch": 2, "train_loss": 0.03, "val_loss": 0.02, "my_number": 7.0}]
    write_log(tmp_path, rows)
    with open(tmp_path / "log.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["my_number"] for row in found] == ["", "7.0"]
    assert (tmp_path / "loss.png").stat().st_size > 1000
