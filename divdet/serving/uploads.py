"""The image that a request brings: as its body, or as a file of a form."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from divdet.serving.refusals import Refused

_FORM = 2**14  # bytes of a form besides its file
_AT_ONCE = 50  # uploads of the largest size that are held at the same time
_BYTES = ("application/octet-stream", "binary/octet-stream")


class Uploads:
    """Receives images of limited size; all that is being received is limited, too.

    Args:
        max_bytes: of an image.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held = 0

    @contextmanager
    def room(self) -> Iterator["Room"]:
        """Counts what a request holds until it ends."""
        room = Room(self)
        try:
            yield room
        finally:
            self._held -= room.held


class Room:
    """What one request holds."""

    def __init__(self, uploads: Uploads) -> None:
        self.uploads, self.held = uploads, 0

    async def read(self, request: Request, seconds: float) -> bytes:
        """Receives the image.

        Raises:
            Refused: 408, 413, 415, 422 or 429; see docs/serving.md.
            ClientDisconnect: when the client went away.
        """
        kind, options = parse_options_header(request.headers.get("content-type") or _BYTES[0])
        kind = kind.decode("latin-1").lower()
        form = kind == "multipart/form-data"
        if encoding := request.headers.get("content-encoding"):
            raise Refused(415, f"the body is encoded as {encoding[:40]}: send the image as it is")
        if not form and not _is_image(kind):
            raise Refused(
                415,
                f"the body is {kind[:60]}: send an image as image/… or application/octet-stream, or as the file of a "
                "form (multipart/form-data)",
            )
        limit = self.uploads.max_bytes + _FORM * form
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > limit:
            raise self._too_large()
        if form and b"boundary" not in options:
            raise Refused(422, "multipart/form-data names no boundary: leave the header to your HTTP library")
        stream = self._stream(request, limit)
        try:
            return await asyncio.wait_for(self._file(request, stream) if form else _join(stream), seconds)
        except asyncio.TimeoutError:
            raise Refused(408, "the image did not come in time: use a faster connection, or raise --timeout") from None

    async def _stream(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        total = 0
        async for piece in request.stream():
            total += len(piece)
            if total > limit:
                raise self._too_large()
            self.uploads._held += len(piece)
            self.held += len(piece)
            if self.uploads._held > _AT_ONCE * self.uploads.max_bytes:
                raise Refused(429, "too many bytes are waiting already: try again later")
            yield piece

    async def _file(self, request: Request, stream: AsyncIterator[bytes]) -> bytes:
        parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=1, max_part_size=_FORM)
        parser.spool_max_size = self.uploads.max_bytes + _FORM  # in memory
        try:
            parts = (await parser.parse()).multi_items()
        except MultiPartException as error:
            message = error.message.rstrip(".")
            raise Refused(422, f"the form cannot be read ({message}): send one image as its part 'file'") from error
        if len(parts) != 1 or parts[0][0] != "file" or not isinstance(parts[0][1], UploadFile):
            names = ", ".join(f"{name[:40]}{'' if isinstance(part, UploadFile) else ' (text)'}" for name, part in parts)
            raise Refused(
                422,
                f"the form has {names or 'no parts'}: send one image as its part 'file', with a file name; parameters "
                "belong into the address",
            )
        upload = parts[0][1]
        try:
            kind = parse_options_header(upload.content_type or _BYTES[0])[0].decode("latin-1").lower()
            if not _is_image(kind):
                raise Refused(415, f"the file is {kind[:60]}: send an image (image/…)")
            if upload.size > self.uploads.max_bytes:
                raise self._too_large()
            return await upload.read()
        finally:
            await upload.close()

    def _too_large(self) -> Refused:
        return Refused(413, f"the image has more than {self.uploads.max_bytes} bytes: send a smaller one")


def _is_image(kind: str) -> bool:
    return kind.startswith("image/") or kind in _BYTES


async def _join(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


async def discard(request: Request, most: int, seconds: float) -> None:
    """Receives and drops what a refused request still sends: a client that is cut off may not see the answer."""

    async def read() -> None:
        total = 0
        async for piece in request.stream():
            total += len(piece)
            if total > most:
                return

    try:
        await asyncio.wait_for(read(), seconds)
    except (asyncio.TimeoutError, ClientDisconnect):
        return
