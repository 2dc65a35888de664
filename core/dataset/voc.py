"""Images of PASCAL VOC 2012 and the Semantic Boundaries Dataset (SBD), in the layouts in which they are published."""
import os
from typing import List, Tuple

from core.dataset.own_images import Source
from core.errors import UserError
from core.io.files import read_list
from core.paths import Layout, check_files, image_path


def voc_sources(layout: Layout) -> Tuple[List[Source], List[Source]]:
    """Training images (SBD's that are not in VOC's segmentation lists, then VOC's) and val images."""
    for folder, what in ((layout.voc, "PASCAL VOC 2012"), (layout.sbd, "the Semantic Boundaries Dataset")):
        if not os.path.isdir(folder):
            raise UserError(f"{folder} is missing: unpack {what} there, see dataset/README.md")
    voc_train, voc_val = (read_list(layout.voc_list(which)) for which in ("train", "val"))
    in_voc = {*voc_train, *voc_val}
    if len(in_voc) < len(voc_train) + len(voc_val):
        both = min(set(voc_train) & set(voc_val))
        raise UserError(f"{both} is in both {layout.voc_list('train')} and {layout.voc_list('val')}")
    sbd = [name for which in ("train", "val") for name in read_list(os.path.join(layout.sbd, f"{which}.txt"))]
    sbd = [name for name in dict.fromkeys(sbd) if name not in in_voc]
    sbd_sources = _sources(sbd, os.path.join(layout.sbd, "img"), os.path.join(layout.sbd, "cls"), ".mat")
    return (sbd_sources + _sources(voc_train, layout.voc_images, layout.voc_masks, ".png"),
            _sources(voc_val, layout.voc_images, layout.voc_masks, ".png"))


def _sources(names: List[str], images: str, masks: str, ending: str) -> List[Source]:
    """Sources of ids whose images are <id>.jpg and masks <id><ending>."""
    for folder, end in ((images, ".jpg"), (masks, ending)):
        check_files(folder, end, names, "the download is incomplete, see dataset/README.md")
    return [Source(name, image_path(images, name), os.path.join(masks, name + ending)) for name in names]
