"""Images by their http(s) address."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from urllib.request import Request

MAX_BYTES = 100 * 2**20
_SECONDS = 30  # for the whole image
_SILENCE = 10  # seconds without a byte
_PIECE = 2**16


def is_address(source: str | Path) -> bool:
    """Whether a source is the address of something on the web."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def fetch(address: str) -> bytes:
    """Downloads an image of at most 100 MB, within 30 seconds.

    Raises:
        UserError: where that fails, or a stream comes, with the address and the reason.
    """
    return _in_time(address, _download)


def serves_stream(address: str) -> bool:
    """Whether a video or the endless pictures of a camera come from an address.

    Raises:
        UserError: where it cannot be asked.
    """
    return _in_time(address, lambda answer, shown: _is_stream(answer))


def _in_time(address: str, read: Callable[[HTTPResponse, str], Any]) -> Any:
    """What ``read`` makes of the answer from an address."""
    shown, outcome = hide_password(address), []

    def work() -> None:
        try:
            outcome.append(_ask(address, shown, read))
        except Exception as error:  # raised below, in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)  # a slow server is not waited for
    thread.start()
    thread.join(_SECONDS)
    if not outcome:
        raise _late(shown)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _late(shown: str) -> UserError:
    return UserError(f"{shown}: took more than {_SECONDS} s: download it, and give the file")


def _ask(address: str, shown: str, read: Callable[[HTTPResponse, str], Any]) -> Any:
    from http.client import HTTPException  # imported here, as they take time
    from urllib.request import urlopen

    try:
        with urlopen(_request(address), timeout=_SILENCE) as answer:
            if not is_address(answer.url):
                raise UserError(f"{shown}: leads to {hide_password(answer.url)}, which is no http(s) address")
            return read(answer, shown)
    except (OSError, HTTPException, ValueError) as error:  # HTTP's errors and time-outs are OSErrors
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise UserError(f"{shown}: cannot be fetched ({str(reason).partition(chr(10))[0]})") from error


def _download(answer: HTTPResponse, shown: str) -> bytes:
    end, data = time.monotonic() + _SECONDS, bytearray()
    if _is_stream(answer):
        raise UserError(f"{shown}: is a stream: give it alone to divdet detect, or to detector.stream(…)")
    while piece := answer.read1(_PIECE):
        data += piece
        if len(data) > MAX_BYTES:
            raise UserError(f"{shown}: has more than {MAX_BYTES >> 20} MB: download it, and give the file")
        if time.monotonic() > end:
            raise _late(shown)
    if answer.length:  # bytes that were announced and did not come
        raise UserError(f"{shown}: the transfer was cut off: try again, or download it and give the file")
    return bytes(data)


def _is_stream(answer: HTTPResponse) -> bool:
    return answer.headers.get_content_type().startswith(("multipart/x-mixed-replace", "video/"))


def _request(address: str) -> Request:
    """Asks for an address: user and password in a header, letters beyond ASCII and spaces encoded."""
    from base64 import b64encode
    from urllib.parse import quote, unquote
    from urllib.request import Request

    parts, headers = urlsplit(address), {"User-Agent": "divdet"}
    if "@" in parts.netloc:
        given = unquote(parts.netloc.rpartition("@")[0])
        headers["Authorization"] = f"Basic {b64encode(given.encode()).decode()}"
    return Request(quote(hide_password(address), safe="%:/?#[]@!$&'()*+,;=~"), headers=headers)


def path_of(address: str) -> str:
    """The path in an address; empty where it is malformed."""
    try:
        return urlsplit(address).path
    except ValueError:
        return ""


def hide_password(address: str) -> str:
    """An address without its user and password, for messages and results."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host).geturl() if "@" in parts.netloc else address
