"""Learning curves as a table: log/<model>_metrics.csv."""
import csv
import os
from typing import Optional

from core.io.files import naming_errors, read_bytes, write_text

COLUMNS = ("epoch", "batch", "loss", "accuracy", "label_loss", "lr", "images_per_second")


class MetricsLog:
    """Appends a row, several times an epoch, to the CSV file of a model's training runs.

    Columns: epoch; batch of the epoch, from 1; mean loss and accuracy of the cells, mean label_loss of the images
    (empty for the init model) and images_per_second since the epoch began; lr, the learning rate of the last step.
    """

    def __init__(self, path: str, last_epoch: int):
        """Keep the rows of the epochs up to `last_epoch`, after which the run starts or resumes.

        Raises:
            UserError: the file can't be written.
        """
        self._path = path
        lines = read_bytes(path).decode("utf-8", "replace").splitlines(True) if os.path.exists(path) else []
        kept = [line for line in lines[1:] if _is_row(line) and int(line.split(",")[0]) <= last_epoch]
        write_text(path, ",".join(COLUMNS) + "\n" + "".join(kept))

    def add(self, **values: Optional[float]) -> None:
        """Append a row of all columns; None leaves one empty.

        Raises:
            UserError: the file can't be written.
        """
        row = ["" if values[name] is None else f"{values[name]:.6g}" for name in COLUMNS]
        with naming_errors(self._path, "can't be written"), open(self._path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


def _is_row(line: str) -> bool:
    """Whether a line is complete: a killed run, or a full disk, may leave a part of one."""
    values = line[:-1].split(",")
    return line.endswith("\n") and len(values) == len(COLUMNS) and values[0].isdigit()
