"""Serving the page: an address, a folder for uploads that is removed at the end, and an orderly stop."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from divdet.demo.page import Page

_STYLE = Path(__file__).with_name("page.css")
_STOP_SECONDS = 5
_UPLOADS = 50  # of the largest size, which are kept at the same time


@contextmanager
def uploads_folder() -> Iterator[Path]:
    """A folder that Gradio keeps uploads in; begins before Gradio is imported, and removes it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="divdet-demo-"))
    own = {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield folder
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(page: Page, bound: socket.socket, max_bytes: int) -> Iterator[Callable[[], bool]]:
    """Serves a page in a thread, inside ``uploads_folder``.

    Args:
        page: what is served.
        bound: a socket that listens; it is closed at the end.
        max_bytes: of an upload.

    Yields:
        A function that says whether the server still runs.
    """
    import fastapi
    import gradio
    import uvicorn

    from divdet.demo.theme import theme

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.routes[-1].app.stop_event.set()  # ends the streams by which open pages show that they live
            await super().shutdown(sockets)

    blocks = page.build()
    blocks.has_launched = True  # only then does Gradio refuse files that nobody uploaded, which mounting leaves out
    app = gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        blocks,
        path="/",
        theme=theme(),
        head=f"<style>{_STYLE.read_text(encoding='utf-8')}</style>",  # css= would put every rule below .contain
        max_file_size=max_bytes,
        allowed_paths=[str(example.path) for example in page.examples],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=True,
    )
    config = uvicorn.Config(
        bounded(app, _UPLOADS * max_bytes), log_level="warning", timeout_graceful_shutdown=1, access_log=False
    )
    server = Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), name="divdet demo", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        if not thread.is_alive():
            raise UserError("the page could not be served: see the messages above")
        yield thread.is_alive
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        bound.close()


def bounded(app: ASGIApp, most: int) -> ASGIApp:
    """The application, without uploads while their folder holds more than ``most`` bytes."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/upload") and await asyncio.to_thread(_held) > most:
            from fastapi.responses import JSONResponse

            refusal = JSONResponse({"error": "too many uploads are kept: try again in some minutes"}, 503)
            await refusal(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


def _held() -> int:
    """Bytes in the folder of uploads; small files count as 100 kB, so that there are not too many of them."""
    total = 0
    for folder, _, names in os.walk(os.environ["GRADIO_TEMP_DIR"]):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += max(os.path.getsize(os.path.join(folder, name)), 100_000)
    return total
