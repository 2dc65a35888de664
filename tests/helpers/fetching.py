"""Runs of fetch_web_images on a local server, and what they leave."""
import contextlib
import json
import os

from core.config import Config
from core.io.images import write_image
from core.web.collect import fetch_web_images
from core.web.downloader import Downloader
from core.web.sources import Candidate

SETTINGS = {"classes": ("bk", "cat", "oak tree", "dog"), "web_rate": 1000.0}


def changed(config, **values):
    return Config(root=config.root, **{**SETTINGS, **values})


def fetch(config, urls=None, *, source=None, **flags):
    """Run with a dict from class index to addresses, or with another source; returns the manifest's rows."""
    def listed(class_index):
        return (Candidate(class_index, "urls", url) for url in (urls or {}).get(class_index, ()))
    with contextlib.closing(Downloader(config)) as downloader:
        fetch_web_images(config, source or listed, downloader, **flags)
    return rows_of(config)


def rows_of(config):
    with open(config.layout.web_manifest) as file:
        return [json.loads(line) for line in file]


def stored(config):
    """Dict from file name to content."""
    folder = config.layout.web_images
    return {name: open(os.path.join(folder, name), "rb").read() for name in sorted(os.listdir(folder))}


def put_voc(config, val=(), test=()):
    """VOC with the given pictures as its val and test images."""
    lists = config.path(config.voc_dir, "ImageSets", "Segmentation")
    os.makedirs(lists, exist_ok=True)
    for part, images in (("val", val), ("test", test)):
        names = [f"2007_{part}{number}" for number in range(len(images))]
        if names:
            with open(os.path.join(lists, part + ".txt"), "w") as file:
                file.write("\n".join(names))
        for name, image in zip(names, images):
            write_image(config.path(config.voc_dir, "JPEGImages", name + ".jpg"), image)
