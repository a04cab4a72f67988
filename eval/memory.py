"""The most memory that a process has had."""

import resource
from pathlib import Path


def resident_peak() -> int:
    """Bytes. On Linux from /proc, for the peak that `getrusage` tells there may be that of the process that started this one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    (peak,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024
