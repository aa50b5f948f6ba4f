"""Fine-tuning: matches a pretrained network's classes to new ones, by name."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from divdet.engine.words import counted


def match_classes(names: Sequence[str], pretrained: Sequence[str], source: str) -> list[tuple[int, int]]:
    """Finds the classes that both networks have, and prints which weights are kept and which are new.

    A name that occurs twice in either list is ambiguous, so its classes count as new.

    Args:
        names: the new network's classes.
        pretrained: the checkpoint's classes.
        source: the checkpoint, for the message.

    Returns:
        A pair (new index, pretrained index) for each class that is kept.
    """
    twice = {name for known in (names, pretrained) for name, count in Counter(known).items() if count > 1}
    indices = {name: index for index, name in enumerate(pretrained) if name not in twice}
    kept, new = ([name for name in names if (name in indices) is known] for known in (True, False))
    line = f"{source}: weights kept for {_listed(kept)}; new weights for {_listed(new)}"
    ambiguous = [name for name in new if name in twice]
    print(line + (f"; a name that occurs twice cannot be matched: {_listed(ambiguous)}" if ambiguous else ""))
    return [(index, indices[name]) for index, name in enumerate(names) if name in indices]


def take_rows(own: Tensor, pretrained: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """A copy of ``own`` with rows of ``pretrained`` (dimension 0) as ``pairs`` of `match_classes` say."""
    rows = own.clone()
    for new, old in pairs:
        rows[new] = pretrained[old]
    return rows


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no class"
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{counted(len(names), 'class', 'classes')} ({shown})"
