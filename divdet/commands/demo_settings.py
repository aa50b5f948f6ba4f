"""What the page to try a detector takes. Nothing here imports torch."""

from dataclasses import dataclass, field

from detection.prediction_settings import PostprocessSettings, RuntimeSettings
from divdet.engine.settings import CommonSettings, check_range


@dataclass
class Demo(RuntimeSettings, CommonSettings):
    """Serves a page on which a detector is tried: members and fusion side by side, thresholds that act at once.

    Attributes:
        checkpoint: a train-det checkpoint, or what export made of one.
        examples: folder of images to choose from; default: the checkpoint's validation images, if they are here.
        score_threshold: lowest score that is shown at first.
        postprocess: how boxes are made from the outputs at first; default: the checkpoint's.
        host: address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 also others in its network.
        port: 0 takes a free one.
        open: open the page in a browser.
        max_bytes: largest upload.
        max_pixels: largest image, width times height.
        output: not used: nothing is written.
    """

    checkpoint: str | None = None
    examples: str | None = None
    score_threshold: float = 0.3
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    host: str = "127.0.0.1"
    port: int = 7860
    open: bool = False
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        CommonSettings.__post_init__(self)
        RuntimeSettings.__post_init__(self)
        check_range("score_threshold", self.score_threshold, 0, 1)
        check_range("max_bytes", self.max_bytes, 1, 2**31 - 1)
        check_range("max_pixels", self.max_pixels, 1, 2**31 - 1)
        check_range("port", self.port, 0, 65535)
