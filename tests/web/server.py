"""The web page's server in a thread, for tests: real sockets, a real model or one that tests can hold."""
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from ovdense.web.engine import Engine
from ovdense.web.server import build_app
from tests.ranks import PATIENCE


@contextmanager
def serving(engine: Engine) -> Iterator[str]:
    """Yield the address of a server that runs until the block ends."""
    server = uvicorn.Server(uvicorn.Config(build_app(engine), host="127.0.0.1", port=0, log_config=None, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)


def post(url: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, dict]:
    """Return status and JSON of a POST; bytes are sent as they are, the rest as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _call(urllib.request.Request(url, data=data, headers={"X-Ovdense": "1"} if headers is None else headers, method="POST"))


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, dict | bytes]:
    """Return status and content of a GET, JSON read."""
    return _call(urllib.request.Request(url, headers=headers or {}))


def _call(request: urllib.request.Request) -> tuple[int, dict | bytes]:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            content, kind, status = response.read(), response.headers.get_content_type(), response.status
    except urllib.error.HTTPError as error:
        content, kind, status = error.read(), error.headers.get_content_type(), error.code
    return status, json.loads(content) if kind == "application/json" else content
