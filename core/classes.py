"""Class names and the colours that stand for them in mask files."""
import numpy as np

BACKGROUND = 0
IGNORE_LABEL = 255  # a mask's pixels of this value belong to no class: neither trained on nor evaluated

VOC_CLASSES = (
    "bk", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")


def voc_palette() -> np.ndarray:
    """Colour map of the PASCAL VOC mask files.

    The bits of the class index are dealt in turn to red, green and blue, from the highest bit of each channel down
    (VOC 2012 development kit, VOCcolormap.m).

    Returns:
        (256, 3) uint8 array of RGB colours.
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            if 3 * bit + channel < 8:
                palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette
