"""The images that are segmented together, and the names of their files in the cache."""
import os
from typing import NamedTuple, Tuple

from core.paths import Layout

ROUNDS = 4  # in which the classifiers of cells learn from the foreground that they found


class Item(NamedTuple):
    """An image to segment, once for each of some classes that it shows.

    Attributes:
        name: id of the image.
        image: path of the image.
        classes: their indices; a web image has one.
        folder: of its files in the cache.
        web: whether it is a web image, rather than a training image.
    """
    name: str
    image: str
    classes: Tuple[int, ...]
    folder: str
    web: bool = True

    @property
    def key(self) -> str:
        """Name of the image with its first class."""
        return self.name if self.web else f"{self.classes[0]}_{self.name}"

    def maps_file(self) -> str:
        return os.path.join(self.folder, "maps", self.name + ".npz")

    def foreground_file(self, rounds: int) -> str:
        """What the cells say of the foreground of its first class after some rounds."""
        return os.path.join(self.folder, f"labels{rounds}", self.key + ".npy")


def model_path(layout: Layout, number: int) -> str:
    """File of the regressions of a round, `cell_classifier.Models`."""
    return os.path.join(layout.web_cache, f"round{number}.npz")


def noise_filter_path(layout: Layout) -> str:
    """File of a `noise_filter.NoiseFilter`."""
    return os.path.join(layout.web_cache, "noise_filter.npz")
