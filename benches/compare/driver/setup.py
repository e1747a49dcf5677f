"""What the whole run needs: programs, folders, options."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# Command that must be there, Debian package that brings it.
NEEDS = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "nbdkit": "nbdkit",
    "nbdinfo": "libnbd-bin",
    "fio": "fio",
}

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass
class Setup:
    """Chosen once, for all workloads."""

    dir: Path
    rounds: int
    quick: bool

    def scaled(self, full, quick):
        """How much of something there is."""
        return quick if self.quick else full


def run(*argv, **options):
    """Runs a command that must succeed, and returns what it prints."""
    argv = [str(arg) for arg in argv]
    done = subprocess.run(argv, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout


def install():
    """Installs the rivals that are missing."""
    missing = sorted({package for command, package in NEEDS.items() if not shutil.which(command)})
    if missing:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise SystemExit(f"missing: {' '.join(missing)}")
        # Where the daemon has a package of its own.
        known = run("apt-cache", "pkgnames")
        own = "qemu-storage-daemon"
        missing = [own if it == "qemu-system-common" and own in known.split() else it for it in missing]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", env=quiet)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=quiet)


def build():
    """Builds dmsnap and the bare programs."""
    packages = ["-p", "dmsnap-cli", "-p", "dmsnap-compare"]
    subprocess.run(["cargo", "build", "--release", "--locked", *packages], cwd=ROOT, check=True)


def program(name):
    """Path of a program that `build` has built."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return ROOT / target / "release" / name


def versions():
    """What is compared, as it calls itself."""
    first = lambda *argv: run(*argv).splitlines()[0]
    return {
        "dmsnap": first(program("dmsnap"), "--version"),
        "qemu": first("qemu-img", "--version"),
        "nbdkit": first("nbdkit", "--version"),
        "fio": first("fio", "--version"),
        "kernel": os.uname().release,
        "cores": os.cpu_count(),
    }


def filled(path, len_bytes):
    """A file of that length whose every byte is stored."""
    if path.exists() and path.stat().st_size == len_bytes:
        return path
    piece = b"\x5a" * MIB
    with open(path, "wb") as file:
        for _ in range(len_bytes // MIB):
            file.write(piece)
        os.fsync(file.fileno())
    return path


def removed(*paths):
    """Makes sure that these files are not there."""
    for path in paths:
        Path(path).unlink(missing_ok=True)
