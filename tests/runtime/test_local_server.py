"""The small server of the pages, as users start it."""
import http.client
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from core.io.images import write_image


@pytest.fixture
def page(tmp_path):
    """Process of review_web_masks.py in a folder with one web image, and the page's address."""
    write_image(str(tmp_path / "dataset" / "web_images" / "1_000001.jpg"), np.zeros((40, 50, 3), np.uint8))
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, "review_web_masks.py")], stdout=subprocess.PIPE,
                               universal_newlines=True, cwd=str(tmp_path),  # interrupts reach it in the background, too
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    address = next(filter(None, (re.search(r"127.0.0.1:(\d+)(/\S+/) ", line) for line in process.stdout)))
    yield process, int(address.group(1)), address.group(2)
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_a_page_of_the_working_folder_shows_its_pictures_and_keeps_its_address_out_of_the_log(page, tmp_path):
    process, port, base = page
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", base + "thumbnail/1_000001")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.headers["Content-Type"] == "image/jpeg"
    log = tmp_path / "log" / "review_web_masks.log"
    assert "command: " in log.read_text() and base.strip("/") not in log.read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0 and "decisions are in" in log.read_text()
