"""Images of PASCAL VOC 2012 and the Semantic Boundaries Dataset (SBD), in the layouts in which they are published."""
import os
from typing import Callable, List, Tuple

from core.dataset.own_images import Source
from core.errors import UserError
from core.io.files import read_list
from core.paths import Layout, check_pairs, image_path, mask_path

_Place = Tuple[Callable[[str, str], str], str]  # function from folder and id to path; folder


def voc_sources(layout: Layout) -> Tuple[List[Source], List[Source]]:
    """Training images (SBD's that are not in VOC's segmentation lists, then VOC's) and val images.

    Raises:
        UserError: a list, an image or a mask is missing.
    """
    for folder, what in ((layout.voc, "PASCAL VOC 2012"), (layout.sbd, "the Semantic Boundaries Dataset")):
        if not os.path.isdir(folder):
            raise UserError(f"{folder} is missing: unpack {what} there, see dataset/README.md")
    voc_train, voc_val = (read_list(layout.voc_list(part)) for part in ("train", "val"))
    in_voc = {*voc_train, *voc_val}
    if len(in_voc) < len(voc_train) + len(voc_val):
        both = min(set(voc_train) & set(voc_val))
        raise UserError(f"{both} is in both {layout.voc_list('train')} and {layout.voc_list('val')}")
    sbd_names = [name for part in ("train", "val") for name in read_list(os.path.join(layout.sbd, f"{part}.txt"))]
    sbd_names = [name for name in dict.fromkeys(sbd_names) if name not in in_voc]
    sbd = _sources(sbd_names, (image_path, os.path.join(layout.sbd, "img")),
                   (_mat_path, os.path.join(layout.sbd, "cls")))
    places = (image_path, layout.voc_images), (mask_path, layout.voc_masks)
    return sbd + _sources(voc_train, *places), _sources(voc_val, *places)


def _sources(names: List[str], image: _Place, mask: _Place) -> List[Source]:
    remedy = "the download is incomplete, see dataset/README.md"
    check_pairs(names, (*image, remedy), (*mask, remedy))
    return [Source(name, image[0](image[1], name), mask[0](mask[1], name)) for name in names]


def _mat_path(folder: str, name: str) -> str:
    return os.path.join(folder, f"{name}.mat")
