"""How OpenMP's threads wait for each other. Import nothing of torch here: it must be settled before torch is loaded."""

import os
import time
from pathlib import Path

_LOOKS, _SECONDS = 5, 0.005


def cores_are_taken(load: Path = Path("/proc/loadavg")) -> bool:
    """Whether other programs run on cores that this one may use, at five looks within 20 ms; False if unknown."""
    try:
        running = []
        for look in range(_LOOKS):
            time.sleep(_SECONDS * (look > 0))
            running.append(int(load.read_text().split()[3].partition("/")[0]) - 1)  # without this one
        usable = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # not Linux
        return False
    return min(running) + usable > (os.cpu_count() or usable)


def settle_waiting() -> None:
    """Has OpenMP's threads (libgomp's, those of torch on Linux) wait for a short time only where others want the cores.

    They wait by spinning, for longer than a time slice. Alone that is the fastest; beside another program they hold the
    core on which a thread they wait for would run. What the user's environment says is left as it is.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys() and cores_are_taken():
        os.environ["GOMP_SPINCOUNT"] = "10000"
