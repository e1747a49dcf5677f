"""Servers that take part: how each is prepared and started."""

import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from .setup import program, removed, run

OURS, LIMIT, RIVAL = "ours", "limit", "rival"


@dataclass
class Contender:
    """One server in one configuration."""

    name: str
    kind: str
    # Makes its overlay anew.
    prepare: Callable = lambda: None
    # Arguments, from the socket's path.
    argv: Callable = None
    export: str = ""
    # Does a flush make everything durable that was acknowledged?
    durable: bool = True
    env: dict = field(default_factory=dict)


class Running:
    """A server from its first to its last moment."""

    def __init__(self, contender, folder):
        self.contender = contender
        self.socket = Path(folder) / f"{contender.name.replace(' ', '-').replace('/', '-')}.sock"
        removed(self.socket)
        argv = [str(arg) for arg in contender.argv(self.socket)]
        self.log = open(f"{self.socket}.log", "w+")
        env = {**os.environ, **contender.env}
        self.process = subprocess.Popen(argv, stdout=self.log, stderr=self.log, env=env)
        try:
            self.wait_until_it_listens()
        except BaseException:
            self.end()
            raise

    def wait_until_it_listens(self):
        for _ in range(3000):
            if self.process.poll() is not None:
                self.log.seek(0)
                raise SystemExit(f"{self.contender.name} has ended:\n{self.log.read()}")
            # A bind is visible before the listen: only a greeting proves it. Bare servers and
            # qemu-nbd take one client at a time, so it must be gone before the next comes.
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(self.socket))
                    client.settimeout(5)
                    if client.recv(18):
                        client.sendall(b"\0\0\0\3IHAVEOPT\0\0\0\2\0\0\0\0")
                        while client.recv(64):
                            pass
                        return
                except OSError:
                    pass
            time.sleep(0.01)
        raise SystemExit(f"{self.contender.name} does not listen")

    def load(self, **plan):
        """Puts load on it; returns what the load generator says."""
        argv = [program("nbd-load"), self.socket, "--export", self.contender.export]
        argv += ["--pid", self.process.pid]
        for name, value in plan.items():
            option = f"--{name.replace('_', '-')}"
            argv += [option] if value is True else [option, value]
        return json.loads(run(*argv))

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        removed(self.socket, self.log.name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def own_copy(origin, name):
    """dmsnap locks an origin: servers that run at the same time need one each."""
    copy = origin.with_name(f"{origin.name}-of-{name}")
    run("cp", "--reflink=auto", origin, copy)
    return copy


def overlays(folder, origin, cow_bytes, shared=True):
    """Every server of a writable overlay on `origin`, which none of them writes to."""
    ways = ("direct", "buffered")
    ours = {way: origin if shared else own_copy(origin, way) for way in ways}
    return [
        *(dmsnap_overlay(folder, ours[way], cow_bytes, way) for way in ways),
        bare_overlay(folder, origin),
        *(qemu_nbd(folder, origin, layout) for layout in QCOW2),
        *(storage_daemon(folder, origin, "ext", way) for way in ("buffered", "direct")),
        *(nbdkit(folder, origin, block) for block in ("64k", "4k")),
    ]


def dmsnap_overlay(folder, origin, cow_bytes, way):
    cow = folder / f"dmsnap-{way}.cow"

    def prepare():
        removed(cow)
        run(program("dmsnap"), "create", cow, "--size", cow_bytes, "--chunk-size", "4k")

    def argv(sock):
        serve = [program("dmsnap"), "serve", origin, "--snapshot", f"s={cow}"]
        return [*serve, "--nbd", f"unix:{sock}", "--io", way]

    return Contender(f"dmsnap {way}", OURS, prepare, argv, "s")


def dmsnap_raw(origin, way):
    """The same server without any snapshot."""
    origin = own_copy(origin, f"raw-{way}")
    argv = lambda sock: [program("dmsnap"), "serve", origin, "--nbd", f"unix:{sock}", "--io", way]
    return Contender(f"dmsnap {way} raw", LIMIT, argv=argv)


def bare_overlay(folder, origin):
    cow = folder / "bare.cow"
    argv = lambda sock: [program("bare-server"), sock, "overlay", origin, cow]
    return Contender("bare", LIMIT, lambda: removed(cow), argv, durable=False)


def bare_raw(origin):
    argv = lambda sock: [program("bare-server"), sock, "raw", origin]
    return Contender("bare raw", LIMIT, argv=argv)


# Name of a layout, options of `qemu-img create`. Extended L2 entries know 32 parts of a cluster:
# with clusters of 128 KiB a part has 4 KiB.
QCOW2 = {
    "64k": "cluster_size=64k",
    "4k": "cluster_size=4k",
    "ext": "cluster_size=128k,extended_l2=on",
}


def create_qcow2(path, origin, layout):
    removed(path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", QCOW2[layout], "-b", origin, "-F", "raw", path)


def qemu_nbd(folder, origin, layout, image=None):
    image = image or folder / f"qemu-nbd-{layout}.qcow2"
    argv = lambda sock: ["qemu-nbd", "-t", "-f", "qcow2", "-k", sock, image]
    prepare = lambda: create_qcow2(image, origin, layout)
    return Contender(f"qemu-nbd {layout}", RIVAL, prepare, argv)


def storage_daemon(folder, origin, layout, way):
    image = folder / f"qsd-{layout}-{way}.qcow2"
    direct = "on" if way == "direct" else "off"

    def argv(sock):
        file = f"driver=file,node-name=f,filename={image},aio=io_uring,cache.direct={direct}"
        return [
            "qemu-storage-daemon",
            *("--blockdev", file),
            *("--blockdev", f"driver=qcow2,node-name=q,file=f,cache.direct={direct}"),
            *("--nbd-server", f"addr.type=unix,addr.path={sock}"),
            *("--export", "type=nbd,id=e,node-name=q,name=q,writable=on"),
        ]

    prepare = lambda: create_qcow2(image, origin, layout)
    return Contender(f"qsd {layout} {way}", RIVAL, prepare, argv, "q")


def nbdkit(folder, origin, block):
    def argv(sock):
        return ["nbdkit", "-f", "-U", sock, "--filter=cow", "file", origin, f"cow-block-size={block}"]

    # Its overlay is a temporary file, and a flush of it does nothing.
    env = {"TMPDIR": str(folder)}
    return Contender(f"nbdkit cow {block}", RIVAL, argv=argv, durable=False, env=env)
