"""What the files of the co-segmentation were made of: which settings, and which images."""
import os
import shutil
import stat

from core.config import network_settings
from core.errors import UserError
from core.io.files import file_digest, read_note, remove, settle_note, write_json
from core.paths import image_path, mask_path, stems

SETTINGS = ("web_side", "web_regions", "web_rounds", "web_sample_images", "web_threshold", "web_uncertain",
            "web_min_score", "web_min_likeness", "web_min_foreground", "web_max_foreground", "seed", "classes")
_FORMAT = 4  # of the files; those of another one are not gone on with


def claim(layout, config, kind, overwrite):
    """Take possession of cache and masks, or refuse where they are of other settings or of other origin.

    Args:
        kind: of the features, "hog" or "resnet".
        overwrite: empty the cache, unless the same was begun before and has not come to its end (`settle`).

    Raises:
        UserError: what is there was made otherwise, or can't be removed.
    """
    origin = {"settings": network_settings(config, SETTINGS), "features": kind, "format": _FORMAT}
    if kind == "resnet":
        origin["base_model_sha256"] = file_digest(layout.base_model)
    note = _note(layout)
    found = read_note(note, ["settings", "format"], settings=dict, format=int)
    if overwrite:
        origin["overwriting"] = True
        if found != origin:
            _empty(layout.web_cache)
            write_json(note, origin)
    elif found is not None:
        _compare(origin, found, layout.web_cache)
    elif stems(layout.web_masks, ".png"):
        raise UserError("%s holds masks that are not of %s: pass --overwrite to replace them, or move them away"
                        % (layout.web_masks, layout.web_cache))
    else:
        write_json(note, origin)


def settle(layout):
    """Note that all is made: --overwrite would make it anew."""
    settle_note(_note(layout))


def forget_changed(layout, names):
    """Remove what was made of images that have changed, so that it is made anew.

    An image is known by its size and time of change and, where these differ, by its content: copies of a data set are
    known again. Those that could not be read are looked at every time.

    Raises:
        UserError: an image is no regular file, or a file can't be removed.
    """
    path = os.path.join(layout.web_cache, "images.json")
    known = read_note(path) or {}
    if not all(isinstance(row, list) and len(row) == 3 for row in known.values()):
        raise UserError("%s is damaged: remove it" % path)
    now, changed = dict(known), []
    for name in names:
        size, when, digest = known.get(name, (None, None, ""))
        stamp = _stamp(image_path(layout.web_images, name))
        if digest and stamp == [size, when]:
            continue
        now[name] = stamp + [_digest(image_path(layout.web_images, name))]
        if name in known and now[name][2] != digest:
            changed.append(name)
    folders = [entry.path for entry in os.scandir(layout.web_cache) if entry.is_dir()]
    for name in changed:
        made = [os.path.join(folder, name + ending) for folder in folders for ending in (".npz", ".npy", ".json")]
        for file in made + [mask_path(layout.web_masks, name)]:
            remove(file, missing_ok=True)
    if now != known:
        write_json(path, now)


def _note(layout):
    return os.path.join(layout.web_cache, "origin.json")


def _compare(origin, found, cache):
    mend = "use that, or pass --overwrite to make the masks anew"
    if found.get("format") != _FORMAT:
        raise UserError("%s is of another version of this program: pass --overwrite to make the masks anew" % cache)
    for name, value in origin["settings"].items():
        if found["settings"].get(name) != value:
            raise UserError("%s is of other settings: %s was %s and is %s now; %s"
                            % (cache, name, found["settings"].get(name), value, mend))
    if found.get("features") != origin["features"]:
        raise UserError("%s is of other features, --features %s: %s" % (cache, found.get("features"), mend))
    if found.get("base_model_sha256") != origin.get("base_model_sha256"):
        raise UserError("%s is of another base model: %s" % (cache, mend))


def _empty(folder):
    try:
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.remove(entry.path)
    except OSError as error:
        raise UserError("%s can't be removed: %s" % (error.filename or folder, error.strerror)) from error


def _stamp(path):
    """[bytes, nanoseconds of the last change], of a file; both 0 where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return [0, 0]
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise UserError("%s is no regular file: remove it" % path)
    return [found.st_size, found.st_mtime_ns]


def _digest(path):
    try:
        return file_digest(path)
    except UserError:
        return ""
