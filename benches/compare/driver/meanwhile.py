"""What clients notice of a merge: latency with and without one."""

import json
import socket

from .merge import Store, fill_qcow2
from .servers import LIMIT, OURS, RIVAL, Contender, Running
from .setup import GIB, MIB, filled, program, removed, run

CHUNK = 4096


def latencies(setup, results, wanted):
    folder = setup.dir
    kinds = [it for it in ("read", "write") if wanted(f"meanwhile-{it}")]
    if not kinds:
        return
    data, size = setup.scaled(512 * MIB, 256 * MIB), setup.scaled(4 * GIB, GIB)
    origin = filled(folder / "origin-of-merge", size)
    store = Store(folder / "meanwhile.cow", origin, CHUNK, "random", data // CHUNK)
    # Room for what clients write meanwhile.
    run("truncate", "-s", f"+{2 * GIB}", store.cow)
    image = folder / "meanwhile.qcow2"
    for kind in kinds:
        name = f"meanwhile-{kind}"
        title = f"4 KiB random {kind}s of a snapshot, 1 in flight, without and with a merge"
        contenders = [
            dmsnap(store, False),
            dmsnap(store, True),
            dmsnap(store, True, folder / "meanwhile-undo.cow"),
            storage_daemon(image, False),
            storage_daemon(image, True),
        ]
        turns = results.turns(name, title, contenders, "p99", "us", more_is_better=False)
        for _, contender in turns:
            removed(folder / "meanwhile-undo.cow")
            if contender.name.startswith("dmsnap"):
                store.task("reset", store.cow)
            else:
                fill_qcow2(folder, image, origin, "ext", CHUNK, "random", data)
            with Running(contender, folder) as server:
                told = measured_load(server, kind)
            results.add(name, contender, told)
    removed(store.cow, image, origin, folder / "meanwhile-undo.cow")


def measured_load(server, kind):
    """Many short loads, until the merge is over: each tells whether it was under way throughout."""
    merging = server.contender.name.endswith("merging")
    commit = None
    if merging and server.contender.kind == RIVAL:
        commit = Commit(server)
    told = server.load(kind=kind, seed=9, seconds=0.4)
    if merging:
        over = commit.is_over() if commit else "merged" in open(server.log.name).read()
        told["merge_ended_before"] = over
    if commit:
        commit.close()
    return told


def dmsnap(store, merging, undo=None):
    """`undo`: with a way back there, which keeps what windows and clients write over."""

    def argv(sock):
        serve = [program("dmsnap"), "serve", store.origin, "--snapshot", f"s={store.cow}"]
        merge = ["--merge", "s"] if merging else []
        keep = ["--undo", undo] if undo else []
        return [*serve, "--nbd", f"unix:{sock}", *merge, *keep]

    name = f"dmsnap{', undoable' if undo else ''}{' merging' if merging else ''}"
    return Contender(name, OURS, argv=argv, export="s")


def storage_daemon(image, merging):
    def argv(sock):
        return [
            "qemu-storage-daemon",
            *("--blockdev", f"driver=file,node-name=f,filename={image},aio=io_uring"),
            *("--blockdev", "driver=qcow2,node-name=q,file=f"),
            *("--nbd-server", f"addr.type=unix,addr.path={sock}"),
            *("--export", "type=nbd,id=e,node-name=q,name=q,writable=on"),
            *("--chardev", f"socket,id=m,path={sock}.qmp,server=on,wait=off"),
            *("--monitor", "chardev=m"),
        ]

    return Contender(f"qsd ext{' merging' if merging else ''}", RIVAL, argv=argv, export="q")


class Commit:
    """A commit of the active layer, over QMP."""

    def __init__(self, server):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{server.socket}.qmp")
        self.lines = self.socket.makefile("rw")
        self.lines.readline()
        self.ask("qmp_capabilities")
        self.ask("block-commit", **{"job-id": "c", "device": "q"})

    def ask(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise SystemExit(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def is_over(self):
        """All is copied: the job waits to be completed."""
        jobs = self.ask("query-block-jobs")
        return not jobs or any(job["ready"] for job in jobs)

    def close(self):
        self.socket.close()
