"""Stage 4: masks for the training images from a trained model, limited to their image-level labels."""
import collections
import contextlib
import functools
import os

from core.config import network_settings
from core.dataset.samples import read_labels
from core.errors import UserError
from core.inference.crf import crf_settings
from core.inference.options import InferenceOptions
from core.inference.postprocess import estimate, shown_labels
from core.inference.segmenter import Segmenter, scored_images
from core.io.files import cached_digest, read_list, read_note, remove, settle_note, write_json
from core.io.images import read_mask
from core.io.locks import locked
from core.io.logs import logger, progress
from core.network.snapshots import load_snapshot
from core.paths import Layout, check_no_true_mask, check_pairs, folder_lock, image_path, mask_path, stems
from core.runtime.mxnet_backend import resolve_dtype
from core.runtime.parallel import ordered_map, process_pool


def estimate_train_masks(config, epoch, *, devices, crf=False, overwrite=False, jobs=1, model="init", flip=False,
                         output=None):
    """Write cache/final_voc_masks/<id>.png for every image of the training list.

    The scores at `config.scales` are added up; classes that are not among the image's labels are left out, the
    background always stays. Masks that are there already are skipped.

    Args:
        epoch: snapshot of `model` to use.
        devices: list of mxnet.Context.
        crf: refine the scores with the dense CRF.
        overwrite: make all masks anew, unless the same was begun before and has not come to its end.
        jobs: processes that run the CRF.
        model: "init"; or "final", whose masks train it in another round.
        flip: add up the scores of the mirrored images too.
        output: another folder for the masks.

    Raises:
        UserError: list, labels, image or snapshot is missing or wrong; or masks of another snapshot or other settings
            are there and `overwrite` is not set, or other files.
    """
    layout = Layout(config)
    folder = os.path.abspath(output or layout.train_masks)
    if os.path.realpath(folder) == os.path.realpath(layout.val_masks):
        raise UserError("%s holds the true masks of the val images: choose another --output" % folder)
    names = read_list(layout.train_list, "run create_dataset.py")
    check_no_true_mask(folder, names, layout.val_masks)
    check_pairs(names, (image_path, layout.train_images, "run create_dataset.py"))
    snapshot = load_snapshot(config, model, epoch)
    config = snapshot.config
    options = InferenceOptions(config.scales, flip, crf, resolve_dtype(config.dtype, devices))
    labels = read_labels(layout.train_labels, names, config)
    origin = {"model": model, "epoch": epoch, "snapshot_sha256": snapshot.digest,
              "scales": list(config.scales), "network": network_settings(config),
              "crf": crf_settings(config) if crf else None}
    if options.dtype != "float32":
        origin["dtype"] = options.dtype
    if flip:
        origin["flip"] = True
    with locked(folder_lock(folder), "mask estimation into %s" % folder):
        images = {name: cached_digest(image_path(layout.train_images, name)) for name in names}
        done = _masks_there(folder, origin, labels, images, overwrite)
        rest = [name for name in names if name not in done]
        logger.info("%d masks to estimate, %d there already", len(rest), len(names) - len(rest))

        segmenter = Segmenter(snapshot, devices, options.dtype)
        work = functools.partial(estimate, config=config, crf=crf, labels=labels, folder=folder)
        with process_pool(jobs) if crf and jobs > 1 else contextlib.nullcontext() as pool:
            scored = scored_images(segmenter, rest, folder=layout.train_images, options=options)
            made = progress(ordered_map(work, scored, pool, 2 * jobs), len(rest), "mask estimation")
            shown = collections.Counter(label for _, found in made for label in found)
        for name in filter(done.__contains__, names):
            mask = read_mask(mask_path(folder, name), config.num_classes)
            shown.update(shown_labels(mask, labels[name]))
        settle_note(folder + ".json")
    logger.info("masks of %d training images are in %s", len(names), folder)
    _log_shown(shown, collections.Counter(label for values in labels.values() for label in values), config)


def _log_shown(shown, labelled, config):
    """Tell how many of the images labelled with a class have a mask that shows it: two Counters of class indices."""
    logger.info("masks that show a label of their image: %s", ", ".join(
        "%s %d of %d" % (config.classes[label], shown[label], labelled[label]) for label in sorted(labelled)) or "none")
    lost = [config.classes[label] for label in sorted(labelled) if not shown[label]]
    if lost:
        logger.warning("no mask shows %s, so nothing can be learned of it from them: look at the model's own "
                       "evaluation; longer training or better web images may help", ", ".join(lost))


def _masks_there(folder, origin, labels, images, overwrite):
    """Ids of the masks that are there and are of the same origin; notes down the origin of those to come.

    Masks of images that, or whose labels, have changed since are removed; with `overwrite`, all that are of training
    images or noted down. Other files stay.

    Args:
        labels, images: dicts from id to class indices, and to the image's SHA-256.

    Raises:
        UserError: masks of another origin are there, or files that are no masks of this script.
    """
    note = folder + ".json"
    there = stems(folder, ".png")
    foreign = there - set(labels)
    if foreign and not os.path.exists(note):
        raise UserError("%s is no mask of a training image: choose a folder of its own for the masks"
                        % mask_path(folder, min(foreign)))
    known = read_note(note, ["snapshot_sha256"], snapshot_sha256=str, labels=dict, images=dict)
    if known is None or not there:
        known = {}
    noted = [known.pop(key, {}) for key in ("labels", "images")]
    begun = known.pop("overwriting", False) and known == origin  # and killed: its masks need not be made again
    if there and not overwrite and known != origin:
        raise UserError("%s holds masks of another snapshot or of other settings: pass --overwrite to make them anew, "
                        "or move them away" % folder)
    if overwrite and not begun:
        outdated = there & {*labels, *noted[0]}
        noted = [{}, {}]
    else:
        outdated = {name for name in there & set(labels) for then, now in zip(noted, (labels, images))
                    if then.get(name, now[name]) != now[name]}
    for name in outdated:
        remove(mask_path(folder, name))
    # Also of images that left the list: they may come back.
    note_now = dict(origin, labels={**noted[0], **labels}, images={**noted[1], **images})
    write_json(note, dict(note_now, overwriting=True) if overwrite else note_now)
    return there - outdated
