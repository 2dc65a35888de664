"""Archive of predictions for the PASCAL VOC evaluation server."""
import gzip
import io
import os
import tarfile
from typing import Iterable

from core.classes import VOC_CLASSES
from core.config import Config
from core.errors import UserError
from core.io.files import read_bytes, replacing
from core.io.images import read_mask, read_size
from core.io.logs import logger, progress
from core.paths import image_path, mask_path

# Competition 6: segmentation, trained on other data than VOC's; here on web images.
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
    """Write results/VOC2012/Segmentation/comp6_test_cls/<id>.png for every id into a .tar.gz archive, from the folder
    of an evaluation's masks.

    The same masks give the same bytes.

    Raises:
        UserError: a mask is missing or damaged, or has another size than its image. No archive is written then.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file, \
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        names = sorted(names)
        for name in progress(names, len(names), "submission"):
            read_mask(mask_path(masks, name), len(VOC_CLASSES), read_size(image_path(images, name)))
            content = read_bytes(mask_path(masks, name))
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}.png")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    logger.info("%s: %d predictions for the VOC server", path, len(names))
