"""Archive of predictions for the PASCAL VOC evaluation server."""
import gzip
import io
import os
import tarfile

import numpy as np
from PIL import Image

from core.classes import VOC_CLASSES, voc_palette
from core.errors import UserError
from core.io.files import read_bytes, replacing
from core.io.images import read_image, read_mask
from core.io.logs import logger, progress
from core.paths import image_path, mask_path

# Competition 6: segmentation, trained on other data than VOC's own; here on web images.
_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
_ENDINGS = (".tar.gz", ".tgz")


def check_submission(path, config):
    """Raise UserError if `pack_submission` could not write `path`: told before hours of prediction.

    Args:
        path: of the archive.
    """
    if not path.endswith(_ENDINGS):
        raise UserError("%s: the VOC server takes a .tar.gz file" % path)
    if os.path.isdir(path):
        raise UserError("%s is a folder; the name of the archive is expected" % path)
    if config.classes != VOC_CLASSES:
        raise UserError("the VOC server knows the %d classes of VOC; setting classes has %d other ones"
                        % (len(VOC_CLASSES), config.num_classes))


def pack_submission(path, names, masks, images):
    """Write results/VOC2012/Segmentation/comp6_test_cls/<id>.png for every id into a .tar.gz archive.

    The same masks give the same bytes.

    Args:
        path: of the archive.
        names: ids of the list.
        masks, images: folders of <id>.png and <id>.jpg.

    Raises:
        UserError: a mask is missing or damaged, is no PNG with VOC's palette, has another size than its image or a
            label that is no class. No archive is written then.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file, \
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in progress(sorted(names), len(names), "submission"):
            mask = mask_path(masks, name)
            _check(mask, read_image(image_path(images, name)).shape[:2])
            content = read_bytes(mask)
            entry = tarfile.TarInfo("%s/%s.png" % (_FOLDER, name))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    logger.info("%s: %d predictions for the VOC server", path, len(names))


def _check(path, size):
    mask = read_mask(path, len(VOC_CLASSES), size)
    if mask.max() >= len(VOC_CLASSES):
        raise UserError("%s has label %d; a prediction is one of the classes 0..%d"
                        % (path, mask.max(), len(VOC_CLASSES) - 1))
    with Image.open(path) as image:
        palette = np.array(image.getpalette() or ()).reshape(-1, 3)
        used = len(VOC_CLASSES)
        if image.format != "PNG" or len(palette) < used or (palette[:used] != voc_palette()[:used]).any():
            raise UserError("%s is no PNG with the palette of VOC" % path)
