"""Maps of trained networks over images."""
import os

import numpy as np
import pytest
from conftest import CPUS, TINY
from web_masks import write_base_model

from core.config import Config
from core.cosegmentation.feature_maps import CHANNELS, Describer, base_network, imagenet_network, network_view
from core.engines.network import Network
from core.errors import UserError

mx = pytest.importorskip("core.engines.mxnet.backend").mx


@pytest.fixture(params=["imagenet", "resnet"])
def network(request, tmp_path):
    config = Config(root=str(tmp_path), **{**TINY, "width": 8})
    if request.param == "imagenet":
        return imagenet_network()
    write_base_model(config)
    return base_network(config)


def described(network, config, images, devices=CPUS[:1]):
    return [finish() for finish in Describer(network, config, devices).start(images)]


def stages_of(network, view):
    """The stages' maps over the inner cells of what `network_view` gives."""
    whole = Network(lambda ops: sum(network.build(ops)[0], []), network.args, CPUS[0])
    return network.inner(whole.forward(network.prepare(view))())


def test_cells_see_the_pixels_that_they_cover(network, rng):
    """A change of one cell's pixels changes its map most; in the deepest stages neighbours change as much."""
    image = np.full((320, 384, 3), 100, np.uint8)
    other = image.copy()
    other[128:144, 192:208] = rng.integers(0, 256, (16, 16, 3))
    for before, after in list(zip(*(stages_of(network, network_view(picture, 384)) for picture in (image, other))))[:3]:
        change = np.abs(after - before).sum(0)
        assert change.shape == (20, 24) and np.unravel_index(change.argmax(), change.shape) == (8, 12)
    before, after = described(network, Config(web_side=192), [image, other])
    assert before["maps"].shape == (CHANNELS, 20, 24) and before["contrast"].shape == (20, 24)
    change = np.abs(after["maps"].astype(np.float32) - before["maps"]).sum(0)
    assert np.unravel_index(change.argmax(), change.shape) == (8, 12)


def test_the_projection_keeps_the_likeness_of_cells(rng):
    """Each stage is of unit length, so the cosine of two cells is the mean of the stages' cosines, up to the error of
    a random projection."""
    network, config = imagenet_network(), Config(web_side=96)
    image = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
    flat = [stage.reshape(len(stage), -1) for stage in stages_of(network, network_view(image, 192))]
    stages = [stage / np.linalg.norm(stage, axis=0) for stage in flat]
    exact = np.mean([stage.T @ stage for stage in stages], 0)
    maps = described(network, config, [image])[0]["maps"].reshape(CHANNELS, -1).astype(np.float32)
    maps /= np.linalg.norm(maps, axis=0)
    assert np.abs(maps.T @ maps - exact).mean() < 0.25 * exact.std()


def test_several_devices_describe_images_of_several_shapes_alike(network, rng):
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in [(64, 96), (96, 64), (64, 96), (64, 64)]]
    config = Config(web_side=64)
    together = described(network, config, images, CPUS[:2])
    for image, shared in zip(images, together):
        alone, = described(network, config, [image])
        for name, array in alone.items():
            np.testing.assert_allclose(shared[name], array, atol=1e-3 * np.abs(array).max())


@pytest.mark.parametrize("size", [(100, 130), (5, 9), (1, 1)])
def test_images_of_any_size_are_described(network, rng, size):
    made, = described(network, Config(web_side=64), [rng.integers(0, 256, (*size, 3)).astype(np.uint8)])
    cells = {(100, 130): (6, 8), (5, 9): (4, 8), (1, 1): (8, 8)}[size]
    assert made["maps"].shape == (CHANNELS, *cells) and made["contrast"].shape == cells
    assert np.isfinite(made["maps"]).all() and made["maps"].std() > 0


def test_a_base_model_of_another_network_is_refused(tmp_path):
    config = Config(root=str(tmp_path))
    os.makedirs(config.path("models"))
    mx.nd.save(config.path("models", "resnet50.params"), {"arg:conv1_weight": mx.nd.ones((2, 2))})
    with pytest.raises(UserError, match="conv1_weight has shape .*, the ResNet-50 base model wants"):
        base_network(config)
