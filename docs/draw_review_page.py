#!/usr/bin/env python3
"""Take docs/review.jpg, a picture of the review page, from a finished run of demo/run.sh; needs Debian's chromium.

  python docs/draw_review_page.py --config demo/sample.yaml
"""
import logging
import os
import subprocess
import sys
import tempfile
import threading

from werkzeug.serving import make_server

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(FOLDER))
from core.annotation.review import make_app  # noqa: E402
from core.cli import make_parser, parse_config, run  # noqa: E402
from core.io.images import read_image, write_image  # noqa: E402

SIZE = "900,640"  # pixels


def main() -> None:
    config = parse_config(make_parser(__doc__).parse_args())
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, make_app(config, "figure"), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        shot = os.path.join(folder, "shot.png")
        subprocess.run(["chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE}",
                        "--virtual-time-budget=20000", f"--screenshot={shot}",
                        f"http://127.0.0.1:{server.server_port}/figure/"], check=True, stderr=subprocess.DEVNULL)
        write_image(os.path.join(FOLDER, "review.jpg"), read_image(shot), 80)
    server.shutdown()


if __name__ == "__main__":
    run(main)
