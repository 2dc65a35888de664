"""A local HTTP server that misbehaves in all the ways that the web does."""
import collections
import http.server
import json
import threading
import time
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
from picture_files import encoded

ENDLESS = 1 << 40


def picture(seed, width=160, height=120):
    """(height, width, 3) uint8 RGB, no near duplicate of another seed's; fine detail is weaker, as in photographs."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.uniform(-1, 1, (6 * scale, 8 * scale)).astype(np.float32), (width, height),
                         interpolation=cv2.INTER_CUBIC) * 60 / scale for scale in (1, 2, 4)]
    return np.clip(sum(layers)[..., None] + rng.uniform(90, 160, 3), 0, 255).astype(np.uint8)


def cut_out(seed, background=255, outline_seed=0, even=False):
    """(320, 320, 3) uint8 RGB: an object of the outline `outline_seed` and its seed's texture on a plain background."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rng = np.random.default_rng(outline_seed)
    radius = 110 * (1 + 0.25 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.2 * np.sin(3 * angle + rng.uniform(0, 6)))
    points = np.stack([160 + radius * np.cos(angle), 160 + 0.6 * radius * np.sin(angle)], 1).astype(np.int32)
    mask = cv2.fillPoly(np.zeros((320, 320), np.uint8), [points], 1)
    texture = cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 255, (320, 320, 3), np.uint8), (0, 0), 8)
    texture = np.clip((texture.astype(float) - 127) * 8 + 100, 0, 200).astype(np.uint8)
    texture = np.full_like(texture, 60) if even else texture
    return np.where(mask[..., None] > 0, texture, np.uint8(background))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        kind, _, rest = urlsplit(self.path).path[1:].partition("/")
        with server.lock:
            server.hits[self.path] += 1
            server.times.append(time.monotonic())
            server.agents.add(self.headers["User-Agent"])
            hit = server.hits[self.path]
        try:
            getattr(self, kind.replace("-", "_"))(rest, hit)
        except OSError:  # the client hung up
            self.close_connection = True

    def send(self, status=200, content=b"", **headers):
        headers = {"Content-Type": "image/jpeg", "Content-Length": len(content),
                   **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def ok(self, rest, hit):
        self.send(content=encoded(picture(int(rest))))

    def slow(self, rest, hit):
        """/slow/<seed>: a pause that differs from image to image"""
        time.sleep(0.02 + 0.05 * (int(rest) % 4))
        self.ok(rest, hit)

    def file(self, rest, hit):
        self.send(content=self.server.files[rest], Content_Type="application/octet-stream")

    def gzip(self, rest, hit):
        self.send(content=self.server.files[rest], Content_Encoding="gzip")

    def flaky(self, rest, hit):
        self.ok(rest, hit) if hit > 2 else self.send(500)

    def busy(self, rest, hit):
        self.ok(rest, hit) if hit > 1 else self.send(429, Retry_After=1)

    def status(self, rest, hit):
        self.send(int(rest), content=b"sorry")

    def later(self, rest, hit):
        self.send(503, Retry_After=86400)

    def html(self, rest, hit):
        self.send(content=b"<html><body>not here</body></html>", Content_Type="text/html")

    def as_text(self, rest, hit):
        self.send(content=encoded(picture(int(rest))), Content_Type="text/html")

    def cut(self, rest, hit):
        """/cut/<seed>: half of the body, twice"""
        content = encoded(picture(int(rest)))
        self.send(content=content if hit > 2 else content[:len(content) // 2], Content_Length=len(content))
        self.close_connection = hit <= 2

    def cut_always(self, rest, hit):
        self.send(content=b"\xff\xd8", Content_Length=5000)
        self.close_connection = True

    def to(self, rest, hit):
        self.send(302, Location=self.path.split("?", 1)[1])

    def loop(self, rest, hit):
        self.send(302, Location=self.path)

    def to_endless(self, rest, hit):
        """a redirect whose own body never ends"""
        self.send(302, Location="/ok/1", Content_Length=None)
        self.stream(b"x" * 65536)

    def declared(self, rest, hit):
        self.send(Content_Length=ENDLESS)
        self.stream(b"x" * 65536)

    def endless(self, rest, hit):
        self.send(Content_Length=None)
        self.stream(b"x" * 65536)

    def drip(self, rest, hit):
        self.send(Content_Length=None)
        self.stream(b"x", 0.05)

    def drip_headers(self, rest, hit):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.stream(b"x", 0.05)

    def mute(self, rest, hit):
        self.server.stop.wait(60)
        self.close_connection = True

    def stream(self, block, pause=0.0):
        self.close_connection = True
        end = time.monotonic() + 20
        while time.monotonic() < end and not self.server.stop.wait(pause):
            self.wfile.write(block)
            self.wfile.flush()
            self.server.streamed += len(block)

    def rest(self, rest, hit):
        """Flickr's API"""
        values = {name: value[0] for name, value in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append(values)
        if values["api_key"] != "secret":
            answer = {"stat": "fail", "code": 100, "message": "Invalid API Key"}
        elif values["method"] == "flickr.photos.licenses.getInfo":
            rows = (("0", "All Rights Reserved", ""),
                    ("1", "BY-NC-SA", "https://creativecommons.org/licenses/by-nc-sa/2.0/"),
                    ("4", "BY", "https://creativecommons.org/licenses/by/2.0/"),
                    ("6", "BY-ND", "https://creativecommons.org/licenses/by-nd/2.0/"),
                    ("9", "CC0", "https://creativecommons.org/publicdomain/zero/1.0/"))
            answer = {"stat": "ok", "licenses": {"license": [dict(zip(("id", "name", "url"), row)) for row in rows]}}
        else:
            start = 10 * len(values["text"]) + 2 * int(values["page"])
            photos = [{"id": str(seed), "owner": "me", "license": "4", "url_l": self.server.url("ok", seed),
                       "width_l": 1024, "height_l": "768", "url_m": self.server.url("status", 404), "width_m": "400",
                       "height_m": "300", "url_o": self.server.url("status", 404), "width_o": 5000, "height_o": 4000}
                      for seed in (start, start + 1)]
            photos.append({"id": "no size"})
            answer = {"stat": "ok", "photos": {"page": int(values["page"]), "pages": 2, "photo": photos}}
        self.send(content=json.dumps(answer).encode(), Content_Type="application/json")


    def images(self, rest, hit):
        """Bing's pages: 35 images each, of which 15 are on the next page too; 50 in all. Fails on page 2 of "short"."""
        values = {name: value[0] for name, value in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append(dict(values, agent=self.headers["User-Agent"], referer=self.headers["Referer"]))
        first = int(values["first"])
        if values["q"] == "short" and first:
            return self.send(403)
        shown = range(first, 0 if values["q"] == "nothing" else min(first + 35, 50))
        self.send(content="".join('<div class="imgpt"><a m="{&quot;murl&quot;:&quot;%s.jpg&quot;}"></a></div>'
                                  % self.server.url("ok", number) for number in shown).encode())

    def search(self, rest, hit):
        """Baidu's answer to those it takes for robots"""
        self.send(content=b'{"antiFlag":1,"message":"Forbid spider access"}')


class WebServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.hits, self.times, self.agents, self.files, self.asked = collections.Counter(), [], set(), {}, []
        self.streamed = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, *parts):
        return "http://127.0.0.1:%d/%s" % (self.server_port, "/".join(map(str, parts)))

    def handle_error(self, request, address):
        pass  # clients that hang up

    def end(self):
        self.stop.set()
        self.shutdown()
        self.server_close()
