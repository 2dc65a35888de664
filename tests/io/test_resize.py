import numpy as np
import pytest

from core.io.resize import resize_longest_side, shrink


@pytest.mark.parametrize("shape, side, expected", [
    ((40, 80, 3), 20, (10, 20, 3)), ((80, 40), 20, (20, 10)), ((10, 20, 3), 50, (25, 50, 3)),
    ((1, 90, 3), 30, (1, 30, 3))])
def test_the_longest_side_gets_the_length_asked_for(shape, side, expected):
    assert resize_longest_side(np.zeros(shape, np.uint8), side).shape == expected


def test_small_images_are_not_enlarged_by_shrink():
    image = np.zeros((10, 20, 3), np.uint8)
    assert shrink(image, 20) is image and shrink(image, 10).shape == (5, 10, 3)
