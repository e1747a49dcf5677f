"""Commands that run to their end, measured."""

import os
import subprocess
import sys
import tempfile
import time


def measured(*argv, statuses=(0,), **options):
    """Runs a command that must end with one of these: seconds by the clock, of CPU, and its most memory."""
    argv = [str(arg) for arg in argv]
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        begin = time.monotonic()
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=said, **options)
        # Into a pipe, as by a program that reads it.
        while piece := child.stdout.read1(1 << 20):
            printed.write(piece)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if child.returncode not in statuses:
            sys.stderr.buffer.write(said.read())
            raise SystemExit(f"{' '.join(argv)}: exit status {child.returncode}")
        printed.seek(0)
        told = {
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "resident_mib": usage.ru_maxrss / 1024,
        }
        # What is longer is not looked at, and would count as memory of the next child.
        return told, printed.read(1 << 20)


def process_cpu(pid):
    """Seconds of CPU that a process and all its threads have used so far, to the nanosecond."""
    # The number that clock_getcpuclockid(3) would give.
    return time.clock_gettime((~pid << 3) | 2)
