"""Maps of trained networks over images."""
import os

import numpy as np
import pytest
from conftest import CPUS, TINY
from web_masks import write_base_model

from core.config import Config
from core.cosegmentation.feature_maps import CHANNELS, base_network, cache_maps, imagenet_network, network_view
from core.errors import UserError
from core.io.files import read_arrays
from core.io.images import write_image

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


def test_images_are_described_once_and_unreadable_ones_passed_over(network, tmp_path, rng):
    config = Config(root=str(tmp_path), web_side=64)
    images, folder = str(tmp_path / "images"), str(tmp_path / "maps")
    for name, size in (("1_a", (100, 130, 3)), ("1_b", (5, 9, 3))):
        write_image(os.path.join(images, name + ".jpg"), rng.integers(0, 256, size).astype(np.uint8))
    (tmp_path / "images" / "1_c.jpg").write_bytes(b"no picture")
    names = ["1_a", "1_b", "1_c"]
    cache_maps(network, config, names, images, folder)
    assert sorted(os.listdir(folder)) == ["1_a.npz", "1_b.npz"]
    stored = read_arrays(os.path.join(folder, "1_a.npz"))
    assert stored["maps"].shape == (CHANNELS, 6, 8) and stored["contrast"].shape == (6, 8)
    assert np.isfinite(stored["maps"]).all() and stored["maps"].std() > 0
    before = os.stat(os.path.join(folder, "1_a.npz")).st_mtime_ns
    os.remove(os.path.join(folder, "1_b.npz"))
    cache_maps(network, config, names, images, folder)
    assert os.stat(os.path.join(folder, "1_a.npz")).st_mtime_ns == before and len(os.listdir(folder)) == 2


def test_a_base_model_of_another_network_is_refused(tmp_path):
    config = Config(root=str(tmp_path))
    os.makedirs(config.path("models"))
    mx.nd.save(config.path("models", "resnet50.params"), {"arg:conv1_weight": mx.nd.ones((2, 2))})
    with pytest.raises(UserError, match="conv1_weight has shape .*, the ResNet-50 base model wants"):
        base_network(config, CPUS[0])
