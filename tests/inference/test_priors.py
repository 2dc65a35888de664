"""How much the init model's scores are raised for images that it finds too little of."""
import numpy as np
import pytest

from core.config import Config
from core.dataset.train_posteriors import Posteriors, write_posteriors
from core.errors import UserError
from core.inference.postprocess import Scored
from core.inference.priors import lower_to_cosegmentation

CONFIG = Config(classes=("bk", "portrait", "cat", "unseen"))
PRIOR = np.array([1.0, 0.5, 0.25, 0.1])


def image(rng, folder, name, labels, found, wanted):
    """Image of 64 x 64 pixels: the model gives each label a share of `found`, the co-segmentation one of `wanted`."""
    scores = rng.uniform(0.0, 0.02, (4, 64, 64))
    scores[0] += 1 - found
    scores[labels] += found / len(labels)
    odds = wanted / (1 - wanted)
    write_posteriors(str(folder), name, Posteriors(tuple(labels), np.full((len(labels), 8, 8), odds / (1 + odds))))
    return Scored(name, np.zeros((64, 64, 3), np.uint8), scores.astype(np.float32))


def test_a_class_that_the_model_misses_takes_a_share_between_the_models_and_the_cosegmentations(rng, tmp_path, caplog):
    images = [image(rng, tmp_path, "a", [1], 0.02, 0.4), image(rng, tmp_path, "b", [1], 0.05, 0.2),
              image(rng, tmp_path, "c", [2], 0.6, 0.3)]
    with caplog.at_level("INFO"):
        lowered = lower_to_cosegmentation(PRIOR, images, {"a": [1], "b": [1], "c": [2]}, str(tmp_path), CONFIG)
    assert (lowered[[0, 2, 3]] == PRIOR[[0, 2, 3]]).all(), "cats are found, and nothing is known of the last class"

    def share(prior):
        divided = [scored.scores[:2, ::8, ::8] / prior[:2, None, None] for scored in images[:2]]
        return np.mean([(scores[1] / scores.sum(0)).mean() for scores in divided])

    assert share(lowered) ** 2 == pytest.approx(share(PRIOR) * 0.3, rel=0.01)
    assert [message.split(":")[0] for message in caplog.messages] == ["portrait"]


def test_labels_of_the_cosegmentation_have_to_be_the_images(rng, tmp_path):
    images = [image(rng, tmp_path, "a", [1], 0.02, 0.4)]
    with pytest.raises(UserError, match="a was co-segmented with other labels"):
        lower_to_cosegmentation(PRIOR, images, {"a": [2]}, str(tmp_path), CONFIG)
