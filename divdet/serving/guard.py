"""What every request passes: counting, the log, and the stop."""

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from divdet.engine.errors import printable
from divdet.serving.metrics import Metrics

log = logging.getLogger("divdet.serving")
PATHS = ("/", "/predict", "/health", "/metrics", "/info", "/openapi.json")


class Guard:
    """An ASGI layer around the application.

    Attributes:
        active: requests whose head has arrived and whose answer is not yet sent.
        answered: answers that were sent whole.
        draining: whether the service is stopping. Connections then close behind each answer.
    """

    def __init__(self, metrics: Metrics, access_log: bool = False) -> None:
        self.metrics, self.access_log = metrics, access_log
        self.active = self.answered = 0
        self.draining = False
        metrics.active.set_function(lambda: self.active)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application with this layer."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began, status = time.perf_counter(), 0

            async def sending(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    if self.draining:
                        message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
                await send(message)

            self.active += 1
            try:
                await app(scope, receive, sending)
            finally:
                self.active -= 1
                self.answered += status > 0
                self._note(scope, status, time.perf_counter() - began)

        return guarded

    def _note(self, scope: dict[str, Any], status: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in PATHS else "other"
        self.metrics.requests.labels(path, str(status or 499)).inc()  # 499: nginx's, the client went away
        if self.access_log:
            host = (scope.get("client") or ("-",))[0]
            asked = printable(scope.get("raw_path", b"").decode("latin-1")[:200])
            log.info("%s %s %s %s %.1f ms", host, scope["method"], asked, status or 499, 1000 * seconds)
