"""What becomes of a posterior, and which images are learned from."""
import numpy as np

from core.config import Config
from core.cosegmentation.results import decide, sample_names


def test_the_sample_is_bounded_and_stays_when_images_come():
    few = sample_names(["%d_%03d" % (index, number) for index in (1, 2) for number in range(50)], 10)
    assert len(few) == 20 and sum(name.startswith("1_") for name in few) == 10
    assert few == sample_names(sorted(few) + [name for name in few[::-1] if name not in few], 10)


def test_decision_between_foreground_uncertain_and_background():
    posterior = np.array([[0.9, 0.61], [0.52, 0.1]], np.float32)
    assert decide(posterior, Config()).tolist() == [[1, 1], [255, 0]]
