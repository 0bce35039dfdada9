"""Measures the time, CPU time and memory of one process."""
import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple


class Measured(NamedTuple):
    """Wall time, CPU time of all threads, peak memory and output of one process."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    stdout: str
    stderr: str


def measure(command):
    """Runs `command`. Measures its wall time, CPU time and peak resident memory. Exits if the command fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        printed, said = out.read().decode(), err.read().decode()
    if status != 0:
        sys.exit(f"{command} failed:\n{printed}{said}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed, said)
