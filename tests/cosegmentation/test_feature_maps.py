"""Maps of trained networks over images."""
import os

import numpy as np
import pytest
from conftest import CPUS, TINY
from web_masks import write_base_model

from core.config import Config
from core.cosegmentation.feature_maps import CHANNELS, base_network, describer, imagenet_network, network_view
from core.errors import UserError

mx = pytest.importorskip("core.engines.mxnet.backend").mx


@pytest.fixture(params=["imagenet", "resnet"])
def network(request, tmp_path):
    config = Config(root=str(tmp_path), **{**TINY, "width": 8})
    if request.param == "imagenet":
        return imagenet_network(CPUS[0])
    write_base_model(config)
    return base_network(config, CPUS[0])


def test_cells_see_the_pixels_that_they_cover(network, rng):
    """A change of one cell's pixels changes its map most; in the deepest stages neighbours change as much."""
    image = np.full((320, 384, 3), 100, np.uint8)
    other = image.copy()
    other[128:144, 192:208] = rng.integers(0, 256, (16, 16, 3))
    before, after = (network.forward(network_view(picture, 384))[0] for picture in (image, other))
    assert before.shape == (sum(network.channels), 20, 24)
    for stage in np.split(np.abs(after - before), np.cumsum(network.channels[:-1]))[:3]:
        assert np.unravel_index(stage.sum(0).argmax(), stage.shape[1:]) == (8, 12)


@pytest.mark.parametrize("size", [(100, 130), (5, 9), (1, 1)])
def test_images_of_any_size_are_described(network, rng, size):
    described = describer(network, Config(web_side=64))(rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    cells = {(100, 130): (6, 8), (5, 9): (4, 8), (1, 1): (8, 8)}[size]
    assert described["maps"].shape == (CHANNELS, *cells) and described["contrast"].shape == cells
    assert np.isfinite(described["maps"]).all() and described["maps"].std() > 0


def test_a_base_model_of_another_network_is_refused(tmp_path):
    config = Config(root=str(tmp_path))
    os.makedirs(config.path("models"))
    mx.nd.save(config.path("models", "resnet50.params"), {"arg:conv1_weight": mx.nd.ones((2, 2))})
    with pytest.raises(UserError, match="conv1_weight has shape .*, the ResNet-50 base model wants"):
        base_network(config, CPUS[0])
