"""Near duplicates of images, by their perceptual hashes."""
import cv2
import imagehash
import numpy as np
from PIL import Image

_SIDE = 16
HASH_BYTES = _SIDE * _SIDE // 8


def perceptual_hash(image):
    """Hash that hardly changes with size, compression, colour or a small crop of the image.

    The signs, about their median, of the 16 x 16 lowest frequencies of the cosine transform (imagehash.phash).

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        (32,) uint8, the bits of the hash.
    """
    return np.packbits(imagehash.phash(Image.fromarray(image), _SIDE).hash.ravel())


def both_hashes(image):
    """Hashes of an image and of its mirror image: (2, 32) uint8."""
    return np.stack([perceptual_hash(image), perceptual_hash(np.ascontiguousarray(image[:, ::-1]))])


class HashIndex:
    """Names by perceptual hash.

    A search compares with every hash, 32 bytes each, by OpenCV's vectorised Hamming distance: linear in their number,
    and still small beside the decoding of the image that asks.
    """

    def __init__(self):
        self._names = []
        self._hashes = np.empty((1024, HASH_BYTES), np.uint8)

    def add(self, name, code):
        """Args:
            name: any value, given back by `near`.
            code: (32,) uint8.
        """
        if len(self._names) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[len(self._names)] = code
        self._names.append(name)

    def near(self, codes, distance):
        """Names whose hash differs from one of `codes`, (n, 32) uint8, in at most `distance` bits, nearest first."""
        if not self._names:
            return []
        known = self._hashes[:len(self._names)]
        found = cv2.batchDistance(known, codes, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=1)[0][:, 0]
        near = np.flatnonzero(found <= distance)
        return [self._names[place] for place in near[np.argsort(found[near], kind="stable")]]
