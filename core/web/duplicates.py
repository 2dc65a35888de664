"""Near duplicates of images: found by their perceptual hashes, confirmed by comparing what the images show.

The hash holds low frequencies only, so two different objects cut out on white may have nearly the same one. A pair
that it finds is therefore compared by small grey pictures where much of them is plain background.
"""
import contextlib
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import imagehash
import numpy as np
from PIL import Image

from core.errors import UserError
from core.io.images import read_image

_SIDE = 16
HASH_BYTES = _SIDE * _SIDE // 8
_THUMBNAIL = 64  # pixels a side
_PLAIN = 0.5  # share of background above which the hash alone does not decide
_SAME = 0.65  # correlation of the insides of one object; of 271 pairs of different cut-outs, 2 are above it
_SAME_OUTLINE = 0.8  # that of outlines, which differ less between objects
_DETAIL = 4.0  # pixels; standard deviation of the Gaussian whose low-pass is taken off before correlating
_EVEN = 2.0  # grey levels; standard deviation below which an object has no structure inside
_TOLERANCE = 8  # grey levels from the border's median up to which a pixel is background


class Fingerprint(NamedTuple):
    """What is compared of an image.

    code: (32,) uint8, its perceptual hash.
    picture: its `thumbnail`, or the path of the image, which is decoded when the thumbnail is needed.
    """

    code: np.ndarray
    picture: Union[np.ndarray, str]


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Hash that hardly changes with size, compression, colour or a small crop of the image.

    The signs, about their median, of the 16 x 16 lowest frequencies of the cosine transform (imagehash.phash).

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        (32,) uint8, the bits of the hash.
    """
    return np.packbits(imagehash.phash(Image.fromarray(image), _SIDE).hash.ravel())


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB, scaled to 64 x 64 whatever its aspect ratio, grey: (64, 64) uint8."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)


def both_hashes(image: np.ndarray) -> Tuple[Fingerprint, Fingerprint]:
    """Fingerprints of an image and of its mirror image."""
    mirrored = np.ascontiguousarray(image[:, ::-1])
    return (Fingerprint(perceptual_hash(image), thumbnail(image)),
            Fingerprint(perceptual_hash(mirrored), thumbnail(mirrored)))


class HashIndex:
    """Names by fingerprint.

    A search compares with every hash, 32 bytes each, by OpenCV's vectorised Hamming distance: linear in their number,
    and still small beside the decoding of the image that asks.
    """

    def __init__(self) -> None:
        self._names: List[Any] = []
        self._pictures: List[Union[np.ndarray, str]] = []
        self._hashes = np.empty((1024, HASH_BYTES), np.uint8)

    def add(self, name: Any, fingerprint: Fingerprint) -> None:
        """Add an image under any name, which `matches` gives back."""
        if len(self._names) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[len(self._names)] = fingerprint.code
        self._names.append(name)
        self._pictures.append(fingerprint.picture)

    def matches(self, fingerprints: Sequence[Fingerprint], distance: int) -> Iterator[Any]:
        """Yield the names of the near duplicates of an image, nearest first; each is compared when it is asked for.

        Args:
            fingerprints: of the image and its mirror image; one of them has to match.
            distance: bits in which the hashes differ, at most. An image that can't be read any more is judged by its
                hash alone.
        """
        if not self._names:
            return
        codes = np.stack([fingerprint.code for fingerprint in fingerprints])
        known = self._hashes[:len(self._names)]
        differing, order = cv2.batchDistance(  # (known, codes), of each the nearest code first
            known, codes, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=len(codes))
        close = np.flatnonzero(differing[:, 0] <= distance)
        for place in close[np.argsort(differing[close, 0], kind="stable")]:
            theirs = _read(self._pictures[place])
            views = [fingerprints[view] for view, bits in zip(order[place], differing[place]) if bits <= distance]
            if theirs is None or any(same_content(_read(view.picture), theirs)  # type: ignore[arg-type]
                                     for view in views):
                yield self._names[place]


def _read(picture: Union[np.ndarray, str]) -> Optional[np.ndarray]:
    if isinstance(picture, np.ndarray):
        return picture
    with contextlib.suppress(UserError):
        return thumbnail(read_image(picture))
    return None


def same_content(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two images of similar hashes, given by their thumbnails, show the same.

    Where neither has much plain background, the hashes have decided. Else one is aligned to the other by an affine
    map (ECC; Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation coefficient
    maximization", TPAMI 2008), and the fine structure of their objects is correlated: silhouettes alone, which make
    the hashes of cut-outs alike, don't count.
    """
    one, other = one.astype(np.float32), other.astype(np.float32)
    if max(1 - _foreground(one).mean(), 1 - _foreground(other).mean()) <= _PLAIN:
        return True
    return any(_agree(one, aligned, valid) for aligned, valid in _alignments(one, other))


def _alignments(one, other):
    """Yield `other` as it is and aligned to `one`, each with the mask of its valid pixels."""
    yield other, np.ones(other.shape, bool)
    identity = np.eye(2, 3, dtype=np.float32)
    try:
        _, warp = cv2.findTransformECC(one, other, identity.copy(), cv2.MOTION_AFFINE,
                                       (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-3), None, 3)
    except cv2.error:  # it found none
        return
    if np.abs(warp - identity)[:, :2].max() > 0.25:  # no copy is distorted that much
        return
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    yield (cv2.warpAffine(other, warp, other.shape, flags=flags, borderMode=cv2.BORDER_REPLICATE),
           cv2.warpAffine(np.ones_like(other), warp, other.shape, flags=flags) > 0.99)


def _foreground(grey):
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return np.abs(grey - np.median(border)) > _TOLERANCE


def _agree(one, other, valid):
    """Whether the fine structure inside both objects correlates.

    Where they are too thin or too even for that, as line drawings and silhouettes are, that of their outlines.
    """
    first, second = _foreground(one) & valid, _foreground(other) & valid
    either = first | second
    inside = cv2.erode((first & second).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if inside.sum() > max(40, 0.3 * either.sum()):
        a, b = _detail(one, inside), _detail(other, inside)
        if min(a.std(), b.std()) >= _EVEN:
            return np.corrcoef(a, b)[0, 1] >= _SAME
    outlines = (cv2.dilate(either.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & valid
    a, b = _detail(one, outlines), _detail(other, outlines)
    if not len(a) or max(a.std(), b.std()) < _EVEN:
        return True  # two empty pictures
    return min(a.std(), b.std()) > 0 and np.corrcoef(a, b)[0, 1] >= _SAME_OUTLINE


def _detail(grey, counted):
    """The pixels `counted` of a grey image without its low frequencies."""
    weight = counted.astype(np.float32)
    low = cv2.GaussianBlur(grey * weight, (0, 0), _DETAIL)
    return (grey - low / np.maximum(cv2.GaussianBlur(weight, (0, 0), _DETAIL), 1e-3))[counted]
