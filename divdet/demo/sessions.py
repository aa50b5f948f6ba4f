"""What is kept for each open page: the outputs for its image."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from divdet.demo.outputs import Outputs


class Sessions:
    """The outputs for each session's image; those unused for longest are dropped beyond ``most_bytes`` in all."""

    def __init__(self, most_bytes: int = 2**30) -> None:
        self._kept: OrderedDict[str, tuple[str, Outputs]] = OrderedDict()
        self._most_bytes, self._lock = most_bytes, Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Memory of all that is kept."""
        return sum(outputs.bytes for _, outputs in self._kept.values())

    def get(self, session: str, image: str) -> Outputs | None:
        """What is kept of a session if it is of this image."""
        with self._lock:
            known, outputs = self._kept.get(session, (None, None))
            if known != image:
                return None
            self._kept.move_to_end(session)
            return outputs

    def put(self, session: str, image: str, outputs: Outputs) -> None:
        """Keeps a session's outputs in place of earlier ones."""
        with self._lock:
            self._kept[session] = image, outputs
            self._kept.move_to_end(session)
            while len(self._kept) > 1 and self.bytes > self._most_bytes:
                self._kept.popitem(last=False)

    def drop(self, session: str) -> None:
        """Forgets a session."""
        with self._lock:
            self._kept.pop(session, None)
