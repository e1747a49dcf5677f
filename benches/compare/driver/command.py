"""Commands that run to their end, measured."""

import os
import subprocess
import sys
import time


def measured(*argv, **options):
    """Runs a command that must succeed: seconds by the clock, and of CPU with its children."""
    argv = [str(arg) for arg in argv]
    before, begin = os.times(), time.monotonic()
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    seconds, after = time.monotonic() - begin, os.times()
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stderr)
        raise SystemExit(f"{' '.join(argv)}: exit status {done.returncode}")
    cpu = after.children_user - before.children_user
    cpu += after.children_system - before.children_system
    return {"seconds": seconds, "cpu_seconds": cpu}, done.stdout


def process_cpu(pid):
    """Seconds of CPU that a process and all its threads have used so far, to the nanosecond."""
    # The number that clock_getcpuclockid(3) would give.
    return time.clock_gettime((~pid << 3) | 2)
