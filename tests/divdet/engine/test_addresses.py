"""Images by address: what a server may do wrong ends in one line, in time."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from divdet.engine import addresses
from divdet.engine.errors import UserError

PICTURE = cv2.imencode(".png", np.full((4, 6, 3), 7, np.uint8))[1].tobytes()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.rpartition("/")[2]
        if path == "404.png":
            return self.send_error(404)
        moved = {"moved.png": "/a.png", "round.png": "/round.png", "file.png": "file:///etc/hostname"}
        self.send_response(302 if path in moved else 200)
        if path in moved:
            self.send_header("Location", moved[path])
        if path == "cut.png":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            if path in ("a.png", "cut.png"):
                self.wfile.write(PICTURE)
            while path in ("endless.png", "slow.png"):
                self.wfile.write(b"x" * (2**16 if path == "endless.png" else 1))
                time.sleep(0.0 if path == "endless.png" else 0.05)
            if path == "silent.png":
                time.sleep(1.5)
        except OSError:  # the client has left
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as served:
        served.daemon_threads, served.block_on_close = True, False
        threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_an_image_is_fetched_also_by_a_redirect(server: str) -> None:
    assert addresses.fetch(f"{server}/a.png") == addresses.fetch(f"{server}/moved.png") == PICTURE


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("404.png", "cannot be fetched .*Not Found"),
        ("round.png", "cannot be fetched"),
        ("file.png", "cannot be fetched"),
        ("endless.png", "has more than 1 MB"),
        ("slow.png", "took more than 0.5 s"),
        ("cut.png", "transfer was cut off"),
        ("silent.png", "cannot be fetched .*timed out"),
    ],
)
def test_what_a_server_may_do_wrong(server: str, name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, value in (("MAX_BYTES", 2**20), ("_SECONDS", 0.5), ("_SILENCE", 0.3)):
        monkeypatch.setattr(addresses, limit, value)
    began = time.monotonic()
    with pytest.raises(UserError, match=reason) as raised:
        addresses.fetch(f"{server}/{name}")
    assert f"{server}/{name}" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 3


def test_passwords_are_not_shown() -> None:
    with pytest.raises(UserError) as raised:
        addresses.fetch("http://me:secret@127.0.0.1:9/a.png")
    assert "secret" not in str(raised.value)
