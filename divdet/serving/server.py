"""Listens, serves, and stops in an orderly way."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from divdet.engine.stopping import SIGNALS
from divdet.serving.guard import Guard
from divdet.serving.protocol import Protocol
from divdet.serving.sockets import address_of, cannot_listen

_KEEP_ALIVE = 75  # seconds: longer than reverse proxies keep their connections (nginx: 60)
_SAME_SECONDS = 1  # in which a second signal is the same request: make and timeout send theirs twice
_LAST_SECONDS = 3  # for clients that do not read, when all requests are answered


def serve_until_stopped(app: ASGIApp, guard: Guard, bound: socket.socket, patience: float) -> int:
    """Serves until SIGINT or SIGTERM, then answers what was accepted; a second signal ends the process at once.

    Args:
        app: with ``guard`` around it.
        guard: knows the requests.
        bound: see ``bind``.
        patience: seconds for accepted requests after the signal.

    Returns:
        The number of requests that were not answered in this time.
    """
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    try:
        return asyncio.run(_serve(_Server(config), guard, bound, patience))
    except OSError as error:  # another process listens by now
        raise cannot_listen(*bound.getsockname()[:2], error) from error


class _Server(uvicorn.Server):
    """uvicorn's, whose handling of signals would end connections before their requests were answered."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"serving {address_of(sockets[0])}/predict (Ctrl-C or SIGTERM ends it)", flush=True)


async def _serve(server: _Server, guard: Guard, bound: socket.socket, patience: float) -> int:
    loop, stop, since = asyncio.get_running_loop(), asyncio.Event(), 0.0

    def signalled(number: int) -> None:
        nonlocal since
        if stop.is_set():
            if loop.time() < since + _SAME_SECONDS:
                return
            print("ended by a second signal", file=sys.stderr, flush=True)
            os._exit(128 + number)
        since, guard.draining = loop.time(), True
        stop.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, signalled, number)
    serving, stopping = asyncio.ensure_future(server.serve([bound])), asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():  # it could not listen
        stopping.cancel()
        await serving
    if guard.active:
        print(f"stopping: {guard.active} requests are being answered", flush=True)
    end = loop.time() + patience
    while guard.active and loop.time() < end:
        await asyncio.sleep(0.02)
    left = guard.active
    server.should_exit = True
    await serving
    return left
