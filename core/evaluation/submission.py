"""Archive of predictions for the PASCAL VOC evaluation server."""
import gzip
import io
import os
import tarfile
from typing import Iterable, Tuple

import numpy as np
from PIL import Image

from core.classes import VOC_CLASSES, voc_palette
from core.config import Config
from core.errors import UserError
from core.io.files import read_bytes, replacing
from core.io.images import read_image, read_mask
from core.io.logs import logger, progress
from core.paths import image_path, mask_path

# Competition 6: segmentation, trained on other data than VOC's own; here on web images.
_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
_ENDINGS = (".tar.gz", ".tgz")


def check_submission(path: str, config: Config) -> None:
    """Raise UserError if `pack_submission` could not write the archive `path`; called before hours of prediction."""
    if not path.endswith(_ENDINGS):
        raise UserError(f"{path}: the VOC server takes a .tar.gz file")
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; the name of the archive is expected")
    if config.classes != VOC_CLASSES:
        raise UserError(f"the VOC server knows the {len(VOC_CLASSES)} classes of VOC; setting classes has "
                        f"{config.num_classes} other ones")


def pack_submission(path: str, names: Iterable[str], masks: str, images: str) -> None:
    """Write results/VOC2012/Segmentation/comp6_test_cls/<id>.png for every id into a .tar.gz archive.

    The same masks give the same bytes.

    Args:
        path: of the archive.
        names: ids of the list.
        masks, images: folders of <id>.png and <id>.jpg.

    Raises:
        UserError: a mask is missing or damaged, is not a PNG with VOC's palette, has another size than its image or a
            label that is not a class. No archive is written then.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file, \
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        names = sorted(names)
        for name in progress(names, len(names), "submission"):
            mask = mask_path(masks, name)
            height, width = read_image(image_path(images, name)).shape[:2]
            _check(mask, (height, width))
            content = read_bytes(mask)
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}.png")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    logger.info("%s: %d predictions for the VOC server", path, len(names))


def _check(path: str, size: Tuple[int, ...]) -> None:
    """Raise UserError if a mask is not what the server accepts. size: (height, width) of its image."""
    mask = read_mask(path, len(VOC_CLASSES), size)
    if mask.max() >= len(VOC_CLASSES):
        raise UserError(f"{path} has label {mask.max()}; a prediction is one of the classes 0..{len(VOC_CLASSES) - 1}")
    with Image.open(path) as image:
        palette = np.array(image.getpalette() or ()).reshape(-1, 3)
        used = len(VOC_CLASSES)
        if image.format != "PNG" or len(palette) < used or (palette[:used] != voc_palette()[:used]).any():
            raise UserError(f"{path} is not a PNG with the palette of VOC")
