#!/usr/bin/env python3
"""Collect and clean web images of each class in dataset/web_images, and leave out copies of evaluation images.

Your own folders and lists (--folder, --urls) are the most dependable sources. Flickr needs a key. Results of search
engines change from day to day, and reading them fails whenever an engine changes its pages.
"""
import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from core.cli import make_parser, parse_config, run
from core.errors import UserError

if TYPE_CHECKING:
    from core.config import Config
    from core.web.downloader import Downloader
    from core.web.sources import Source

SETTINGS = ("voc_dir", "web_images_per_class", "web_longest_side", "web_shortest_side", "web_hash_distance", "web_rate",
            "web_user_agent")


def main() -> None:
    from core.io.logs import start_log
    from core.web import sources as web_sources
    from core.web.collect import fetch_web_images
    from core.web.downloader import Downloader
    parser = make_parser(__doc__, SETTINGS)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", metavar="DIR", help="your own images: DIR/<class name>/*")
    source.add_argument("--urls", metavar="PATH", help="your own addresses: a folder of <class name>.txt, one address "
                        'a line, or a JSON lines file with "class" and "url", such as a web_manifest.jsonl')
    source.add_argument("--flickr", action="store_true", help="Flickr's API; needs a key")
    source.add_argument("--search", choices=sorted(web_sources.ENGINES), help="a search engine's image search")
    parser.add_argument("--queries", metavar="FILE", help="YAML file, class name: [query, ...], for --flickr and "
                        "--search (default: the class's name)")
    parser.add_argument("--licence", choices=web_sources.LICENCES, help="only images under a licence that permits "
                        "this use, for --flickr and --search bing (default: any)")
    parser.add_argument("--flickr-key", metavar="KEY", default=os.environ.get("FLICKR_API_KEY"),
                        help="default: the environment's FLICKR_API_KEY")
    parser.add_argument("--flickr-url", metavar="URL", default=web_sources.FLICKR, help="default: %(default)s")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed, for example by a timeout")
    parser.add_argument("--retry-rejected", action="store_true", help="decide again on rejected images, after "
                        "settings or files have changed")
    args = parser.parse_args()
    config = parse_config(args)
    if args.flickr_key:  # the log shows the command
        sys.argv = [argument.replace(args.flickr_key, "<key>") for argument in sys.argv]
        args.flickr_key = args.flickr_key.strip()  # an environment file of Windows ends in a carriage return
    start_log(config.layout.log("fetch_web_images"), config)
    with contextlib.closing(Downloader(config)) as downloader:
        retry = ["failed"] * args.retry_failed + ["rejected"] * args.retry_rejected
        if not fetch_web_images(config, make_source(args, config, downloader), downloader, retry=retry):
            raise UserError(f"no image was kept; {config.layout.web_manifest} gives the reason for each candidate. "
                            "--retry-failed and --retry-rejected try them again")


def make_source(args: argparse.Namespace, config: "Config", downloader: "Downloader") -> "Source":
    from core.web import sources as web_sources
    if args.folder or args.urls:
        for flag in ("licence", "queries"):
            if getattr(args, flag):
                raise UserError(f"--{flag} is for --flickr and --search; folders and lists are used as they are")
        return (web_sources.folder_source(config, args.folder) if args.folder
                else web_sources.url_source(config, args.urls))
    queries = web_sources.read_queries(args.queries, config)
    if args.search:
        return web_sources.search_source(queries, downloader.get, args.search, args.licence)
    if not args.flickr_key:
        raise UserError("--flickr needs a key, from https://www.flickr.com/services/api/keys: pass --flickr-key or "
                        "set FLICKR_API_KEY")
    if not args.flickr_key.isascii() or not args.flickr_key.isalnum():  # any other would be encoded, and not be hidden
        raise UserError("the Flickr key holds more than letters and digits: copy it again from "
                        "https://www.flickr.com/services/api/keys")
    return web_sources.flickr_source(config, queries, downloader.get, args.flickr_key, args.licence, args.flickr_url)


if __name__ == "__main__":
    run(main)
