import csv

import pytest

from core.errors import UserError
from core.training.metrics_log import COLUMNS, MetricsLog


def add(log, epoch, batch, label_loss=None):
    log.add(epoch=epoch, batch=batch, loss=0.5, accuracy=0.75, label_loss=label_loss, lr=16e-4, images_per_second=3.25)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_hold_all_columns_and_a_missing_label_loss_is_empty(tmp_path):
    path = str(tmp_path / "log" / "final_metrics.csv")
    log = MetricsLog(path, 0)
    add(log, 1, 50)
    add(log, 1, 100, 0.125)
    assert rows(path) == [dict(zip(COLUMNS, ("1", "50", "0.5", "0.75", "", "0.0016", "3.25"))),
                          dict(zip(COLUMNS, ("1", "100", "0.5", "0.75", "0.125", "0.0016", "3.25")))]


def test_a_run_that_resumes_replaces_the_rows_of_the_epochs_it_repeats(tmp_path):
    path = str(tmp_path / "metrics.csv")
    log = MetricsLog(path, 0)
    for epoch in (1, 2, 3):
        add(log, epoch, 5)
    with open(path, "a") as file:
        file.write("1,9")  # a killed run's
    log = MetricsLog(path, 2)
    add(log, 3, 5)
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3"]
    assert rows(path)[2]["batch"] == "5"
    MetricsLog(path, 0)
    assert rows(path) == []


def test_a_file_that_can_not_be_written_is_named(tmp_path):
    log = MetricsLog(str(tmp_path / "metrics.csv"), 0)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(UserError, match="metrics.csv can't be written: Is a directory"):
        add(log, 1, 1)
