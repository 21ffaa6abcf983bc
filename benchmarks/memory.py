"""How much memory this process holds and has held."""

import resource
import sys
from contextlib import suppress
from pathlib import Path


def peak() -> int:
    """Bytes held at most so far. A process of Linux inherits ru_maxrss from the one that started it, VmHWM not."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident() -> int:
    """Bytes held now; where the system does not say, the peak so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return peak()
