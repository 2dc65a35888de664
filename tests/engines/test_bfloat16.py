"""A network that the test trains gives the same mean IoU in bfloat16 as in float32."""
import dataclasses

import draw_kitchen
import numpy as np
import pytest
from conftest import CPUS, TINY
from make_sample import web_picture

from core.config import Config
from core.evaluation.evaluate import evaluate, evaluation_options
from core.io.files import write_lines
from core.io.images import write_image, write_mask
from core.paths import image_path, mask_path
from core.runtime.hardware import cpu_flags
from core.training.train import train


@pytest.fixture
def trained(tmp_path):
    """Config of a small init model that tells three classes apart, and a folder of images with masks."""
    config = Config(root=str(tmp_path), classes=draw_kitchen.CLASSES, **dict(
        TINY, width=8, head_channels=32, new_layer_deviation=0, crop_size=80, label_sampling="center", batch_size=8,
        learning_rate=0.03, learning_rate_decay="poly", init_epoch_size=120, max_epoch=2))
    layout = config.layout
    names = []
    for index, name in enumerate(draw_kitchen.FIGURES, 1):
        for number in range(40):
            names.append("%d_%06d" % (index, number))
            image, mask = web_picture(np.random.default_rng((index, number)), name, draw_kitchen.FIGURES)
            write_image(image_path(layout.web_images, names[-1]), image)
            write_mask(mask_path(layout.web_masks, names[-1]), index * mask)
    write_lines(layout.web_list, names)
    train(config, "init", devices=CPUS[:1])
    write_lines(layout.val_list, names[::2])
    return config, layout


@pytest.mark.skipif("avx512bw" not in cpu_flags(), reason="this CPU computes no bfloat16")
def test_bfloat16_moves_the_mean_iou_by_less_than_a_tenth_of_a_point(trained):
    config, layout = trained
    results = []
    for dtype in ("float32", "bfloat16"):
        options = evaluation_options(config, "init", epoch=1, images=layout.web_images, masks=layout.web_masks)
        changed = dataclasses.replace(config, dtype=dtype)
        results.append(evaluate(changed, "init", epoch=1, devices=CPUS[:1], options=options))
    full, low = (result["mean_iou"] for result in results)
    assert full > 0.45
    assert 0 < abs(full - low) < 0.001
