"""Web pages for a browser on this machine: on the loopback address, below a token that is new in every run."""
import logging
import secrets
from typing import Callable

from flask import Flask, Response, abort, request
from werkzeug.serving import make_server

from core.errors import UserError
from core.io.logs import logger

_HOSTS = ("127.0.0.1", "localhost")


def local_app(module: str, token: str, page: str, longest_body: int) -> Flask:
    """A web application with its page at /<token>/, which answers requests for this machine only.

    Args:
        module: `__name__` of the caller, whose folder static/ holds the page and its files.
        page: name of the page in static/.
        longest_body: bytes that a request may carry; longer ones are refused.
    """
    app = Flask(module, static_url_path=f"/{token}/static")
    app.add_url_rule(f"/{token}/", view_func=lambda: app.send_static_file(page), endpoint="page")
    app.config["MAX_CONTENT_LENGTH"] = longest_body

    @app.before_request
    def check_host() -> None:  # a page of another site may have its name lead here (DNS rebinding)
        if request.host.split(":")[0] not in _HOSTS:
            abort(403)

    @app.after_request
    def keep_token(response: Response) -> Response:
        response.headers["Referrer-Policy"] = "no-referrer"  # the address holds the token
        response.headers["Cache-Control"] = "no-cache"
        return response

    return app


def serve(make_app: Callable[[str], Flask], port: int, ending: str) -> None:
    """Serve the application that a token gives until Ctrl-C, then log the ending. Its address is printed, and not
    logged, as others may read the log. Port 0 takes a free one."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: a number from 0 to 65535 is expected")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line for each picture
    token = secrets.token_urlsafe(16)
    app = make_app(token)
    try:
        server = make_server("127.0.0.1", port, app, threaded=True)
    except (OSError, SystemExit) as error:
        raise UserError(f"--port {port} can't be used: {getattr(error, 'strerror', None) or 'it is taken'}") from error
    print(f"open http://127.0.0.1:{server.server_port}/{token}/ in a browser on this machine; Ctrl-C ends", flush=True)
    server.serve_forever()  # returns at Ctrl-C
    logger.info(ending)
