"""Requests that are not answered with detections."""

RETRY_SECONDS = 1


class Refused(Exception):
    """A request is refused.

    Args:
        status: of HTTP; docs/serving.md says when which comes.
        message: a line for the user.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """Those of the answer: when to try again, where that helps."""
        return {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}
