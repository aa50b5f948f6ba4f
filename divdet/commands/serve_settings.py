"""What the HTTP service takes. Nothing here imports torch."""

from dataclasses import dataclass, field

from detection.prediction_settings import PostprocessSettings, RuntimeSettings, ViewSettings
from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, check_range


@dataclass
class Serve(ViewSettings, RuntimeSettings, CommonSettings):
    """Answers images that are sent by HTTP with the objects in them; see docs/serving.md.

    Attributes:
        checkpoint: a train-det checkpoint, or what export made of one; several, separated by commas, are fused.
        host: address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 also others. There is no authentication.
        port: 0 takes a free one.
        score_threshold: lowest score that is answered, where a request names none.
        postprocess: how boxes are made from the outputs; default: the checkpoint's.
        max_batch: most images per forward pass.
        max_wait_ms: longest time in milliseconds that an image waits for others that are already on their way.
        queue: images taken in and not yet answered; more are refused with status 429.
        timeout: seconds from the start of a request to its answer; after it the request ends with 408 or 503.
        max_bytes: largest upload.
        max_pixels: largest image, width times height.
        workers: threads that decode images; default: one for each core, at most 4.
        access_log: print a line for each request.
        output: not used: nothing is written.
    """

    checkpoint: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    score_threshold: float = 0.3
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    max_batch: int = 8
    max_wait_ms: float = 5.0
    queue: int = 128
    timeout: float = 30.0
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    workers: int | None = None
    access_log: bool = False

    def __post_init__(self) -> None:
        for part in (CommonSettings, RuntimeSettings, ViewSettings):
            part.__post_init__(self)
        check_range("port", self.port, 0, 65535)
        check_range("score_threshold", self.score_threshold, 0, 1)
        check_range("max_batch", self.max_batch, 1, 1024)
        check_range("max_wait_ms", self.max_wait_ms, 0, 10_000)
        check_range("queue", self.queue, 1, 100_000)
        if self.queue < self.max_batch:
            raise UserError(f"queue is {self.queue}: it must be at least max_batch, which is {self.max_batch}")
        check_range("timeout", self.timeout, 0.1, 3600)
        check_range("max_bytes", self.max_bytes, 1, 2**31 - 1)
        check_range("max_pixels", self.max_pixels, 1, 2**31 - 1)
        check_range("workers", self.workers, 1, 256)
