"""HTTP/1.1 that waits for slow clients only so long."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Protocol(H11Protocol):
    """uvicorn's protocol, with time limits where uvicorn has none.

    uvicorn ends connections on which nothing comes after an answer. It waits forever for the rest of a request's head,
    for the rest of a body that was refused, and for a client that does not read. Limiting the body of a request that is
    being answered is left to the application.
    """

    patience = 20.0  # seconds
    _slow: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Waits for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # from the first byte on that the client does not take
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting, unless a request is there."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_request()
        else:
            self._slow = self._end(self._slow)

    def pause_writing(self) -> None:
        """Waits for the client to read."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        self._unread = self._end(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waiting."""
        super().connection_lost(exc)
        self._slow, self._unread = self._end(self._slow), self._end(self._unread)

    def _await_request(self) -> None:
        self._slow = self._slow or self.loop.call_later(self.patience, self.transport.abort)

    @staticmethod
    def _end(timer: Any) -> None:
        if timer is not None:
            timer.cancel()
