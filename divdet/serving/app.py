"""The service's addresses."""

import asyncio
import difflib
import logging
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from divdet.engine.errors import UserError, printable
from divdet.engine.uploads import TooManyPixels
from divdet.serving.answers import answer_of
from divdet.serving.batching import Batcher, Job
from divdet.serving.guard import Guard
from divdet.serving.refusals import Refused
from divdet.serving.runner import Runner
from divdet.serving.uploads import Uploads, discard

log = logging.getLogger("divdet.serving")

_PARAMETERS = ("score_threshold", "classes", "members")
_IMAGE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"file": _IMAGE}, "required": ["file"]}
_BODY = {
    "multipart/form-data": {"schema": _FORM},
    "image/*": {"schema": _IMAGE},
    "application/octet-stream": {"schema": _IMAGE},
}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_OBJECTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "box": _NUMBERS | {"minItems": 4, "maxItems": 4, "description": "x1, y1, x2, y2 in pixels"},
            "score": {"type": "number"},
            "label": {"type": "integer"},
            "name": {"type": "string"},
            "category_id": {"type": "integer", "nullable": True},
        },
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "detections": _OBJECTS,
        "members": {"type": "array", "items": _OBJECTS},
        "model": {"type": "string"},
        "batch": {"type": "integer"},
        "timings": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}
_ERRORS = {
    408: "the image did not come in time",
    413: "too many bytes or pixels",
    415: "not sent as an image",
    422: "cannot be decoded, or a parameter cannot be used",
    429: "too many requests at the same time",
    503: "stopping, or not answered in time",
}
_LEFT_SECONDS = 2  # for the rest of a refused upload


def create_app(
    runner: Runner,
    batcher: Batcher,
    guard: Guard,
    info: dict[str, Any],
    max_bytes: int,
    score_threshold: float,
    timeout: float,
) -> FastAPI:
    """The application, which wants ``guard`` around it.

    Args:
        runner: what finds objects.
        batcher: runs it.
        guard: knows whether the service is stopping.
        info: what ``/info`` says; ``info["model"]`` is also part of each answer.
        max_bytes: of an upload.
        score_threshold: where a request names none.
        timeout: seconds from the start of a request to its answer.
    """
    # Pages of docs would load scripts from elsewhere; a redirect of /predict/ would be no JSON
    app = FastAPI(title="divdet", docs_url=None, redoc_url=None, redirect_slashes=False)
    uploads, metrics = Uploads(max_bytes), batcher.metrics
    problem = {"content": {"application/json": {"example": {"error": "a line"}}}}

    @app.post(
        "/predict",
        openapi_extra={"requestBody": {"required": True, "content": _BODY}},
        responses={200: {"content": {"application/json": {"schema": _ANSWER}}}}
        | {status: {"description": text} | problem for status, text in _ERRORS.items()},
        summary="The objects in one image, sent as the body or as the file of a form",
    )
    async def predict(
        request: Request,
        score_threshold: Annotated[float, Query(ge=0, le=1, description="lowest score")] = score_threshold,
        classes: Annotated[str | None, Query(description="names or category ids, separated by commas")] = None,
        members: Annotated[bool, Query(description="add each member's own boxes")] = False,
    ) -> Response:
        loop = asyncio.get_running_loop()
        began, times = loop.time(), {}
        if guard.draining:
            await discard(request, 4 * max_bytes, _LEFT_SECONDS)  # the connection closes behind the answer
            raise Refused(503, "the service is stopping: try another one")
        _check_parameters(request)
        try:
            wanted = runner.wanted(score_threshold, classes)
        except UserError as error:
            raise Refused(422, str(error).replace("postprocess.classes", "classes")) from error
        if batcher.full:
            raise Refused(429, f"{batcher.queue} images are waiting already: try again later")
        with uploads.room() as room:
            data = await room.read(request, timeout)
            times["upload"] = loop.time() - began
            job = batcher.submit(data, wanted)
            del data
            if not await _finished(request, job, began + timeout - loop.time()):
                return Response(status_code=499)  # the client is gone
        answer = answer_of(job.result.result(), members)
        times |= job.seconds | {"total": loop.time() - began}
        for stage, seconds in times.items():
            metrics.stages.labels(stage).observe(seconds)
        metrics.images.inc()
        metrics.objects.inc(len(answer["detections"]))
        milliseconds = {f"{stage}_ms": round(1000 * seconds, 3) for stage, seconds in times.items()}
        return JSONResponse(answer | {"model": info["model"], "batch": job.batch, "timings": milliseconds})

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="200 while requests are answered, else 503")
    async def health() -> JSONResponse:
        status = "draining" if guard.draining else "failing" if batcher.failing else "ready"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def counters() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info", summary="Model, classes and settings")
    async def about() -> JSONResponse:
        return JSONResponse(info)

    @app.get("/", include_in_schema=False)
    async def root() -> JSONResponse:
        routes = app.openapi()["paths"].items()
        said = {
            f"{method.upper()} {path}": what["summary"] for path, methods in routes for method, what in methods.items()
        }
        return JSONResponse(said | {"GET /openapi.json": "all of this for programs"})

    _answer_errors(app)
    return app


def _check_parameters(request: Request) -> None:
    """Refuses parameters that would be ignored."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise Refused(422, f"{name[:60]} is given more than once: give it once, with commas between classes")
        if name not in _PARAMETERS:
            close = difflib.get_close_matches(name, _PARAMETERS, n=1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(_PARAMETERS)}"
            raise Refused(422, f"{name[:60]}: no such parameter; {meant}")


async def _finished(request: Request, job: Job, seconds: float) -> bool:
    """Waits for a job; False where the client went away first. What has not begun is dropped then.

    Raises:
        Refused: 503 where it takes longer.
    """
    result = asyncio.wrap_future(job.result)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        done, _ = await asyncio.wait({result, gone}, timeout=max(0, seconds), return_when=asyncio.FIRST_COMPLETED)
        if result in done:
            result.exception()  # raised by the caller
            return True
        if gone in done:
            return False
        raise Refused(503, "the answer did not come in time: send fewer requests at once, or raise --timeout")
    finally:
        gone.cancel()
        job.result.cancel()  # before the answer goes out: by ``result`` alone it would be in the loop's next turn
        result.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer_errors(app: FastAPI) -> None:
    """Each error becomes ``{"error": "a line"}``."""

    def refuse(status: int, message: str, headers: Any = None) -> Response:
        return JSONResponse({"error": printable(message)}, status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return refuse(error.status, str(error), error.headers)

    @app.exception_handler(TooManyPixels)
    async def too_large(request: Request, error: TooManyPixels) -> Response:
        return refuse(413, str(error))

    @app.exception_handler(UserError)
    async def unusable(request: Request, error: UserError) -> Response:
        return refuse(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return refuse(422, f"{first['loc'][-1]} is {str(first['input'])[:60]!r}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return refuse(error.status_code, f"{request.url.path[:100]}: {error.detail}", error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"{type(error).__name__} in the service: its log says more"}, 500)
