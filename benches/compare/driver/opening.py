"""Stores with many exceptions: opening, listing, checking, packing."""

import json

from .command import measured
from .servers import LIMIT, OURS, RIVAL, Contender
from .setup import MIB, program, removed, run

MILLION = 1 << 20
CHUNK = 4096


class Files:
    """A store and a qcow2 image of as many chunks; their data are holes."""

    def __init__(self, folder, exceptions):
        self.exceptions = exceptions
        self.cow, self.image = folder / f"{exceptions}.cow", folder / f"{exceptions}.qcow2"
        self.origin = folder / f"{exceptions}.origin"
        chunks = max(2 * exceptions, 256)
        run("truncate", "-s", chunks * CHUNK, self.origin)
        shape = ["--exceptions", exceptions, "--origin-bytes", chunks * CHUNK]
        run(program("make-store"), "sparse", self.cow, *shape)
        options = "cluster_size=4k,preallocation=metadata" if exceptions else "cluster_size=4k"
        length = max(exceptions * CHUNK, MIB)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, self.image, length)

    def remove(self):
        removed(self.cow, self.image, self.origin)


def openings(setup, results, wanted):
    folder = setup.dir
    sizes = {"small": 0, "1m": MILLION, "8m": 8 * MILLION}
    for size, exceptions in sizes.items():
        names = [f"{task}-{size}" for task in ("open", "dump", "check", "pack")]
        if not any(wanted(name) for name in names):
            continue
        files, empty = Files(folder, exceptions), Files(folder, 0) if exceptions else None
        if wanted(f"open-{size}"):
            first_reads(folder, results, f"open-{size}", files, empty)
        for task in ("dump", "check", "pack") if exceptions else ():
            if wanted(f"{task}-{size}"):
                tasks(results, f"{task}-{size}", task, files)
        files.remove()
        if empty:
            empty.remove()


def first_reads(folder, results, name, files, empty):
    sock = folder / "opening.sock"
    title = f"First read from a server of {files.exceptions} exceptions, from its start"
    contenders = [
        *(Contender(f"dmsnap {way}", OURS, argv=serve(way), export="s") for way in ("direct", "buffered")),
        Contender("qemu-nbd 4k", RIVAL, argv=lambda files, sock: qemu_nbd(files, sock)),
        Contender("only read", LIMIT, argv=lambda files, _: only_read(files)),
    ]
    turns = results.turns(name, title, contenders, "ms", "ms", more_is_better=False)
    for _, contender in turns:
        if contender.kind == LIMIT:
            told, _ = measured(*contender.argv(files, None))
            results.add(name, contender, {"ms": told["seconds"] * 1e3})
            continue
        first = lambda files: json.loads(
            run(
                *(program("first-read"), sock, "--export", contender.export, "--"),
                *contender.argv(files, sock),
            )
        )
        told = first(files)
        if empty:
            more = told["resident_mib"] - first(empty)["resident_mib"]
            told["bytes_each"] = more * MIB / files.exceptions
        results.add(name, contender, told)


def serve(way):
    def argv(files, sock):
        snapshot = ["--snapshot", f"s={files.cow}"]
        return [program("dmsnap"), "serve", files.origin, *snapshot, "--nbd", f"unix:{sock}", "--io", way]

    return argv


def qemu_nbd(files, sock):
    return ["qemu-nbd", "-t", "-f", "qcow2", "-k", sock, files.image]


def only_read(files):
    return [program("make-store"), "read", files.cow]


def tasks(results, name, task, files):
    """To the end of the command, which prints into a pipe."""
    title = f"`{task}` of {files.exceptions} exceptions"
    rivals = {"dump": ["qemu-img", "map", "--output=json"], "check": ["qemu-img", "check"]}
    output = ["-"] if task == "pack" else []
    contenders = [
        Contender("dmsnap", OURS, argv=lambda _: [program("dmsnap"), task, files.cow, *output]),
        Contender("only read", LIMIT, argv=lambda _: only_read(files)),
    ]
    if rival := rivals.get(task):
        contenders.append(Contender(" ".join(rival), RIVAL, argv=lambda _: [*rival, files.image]))
    turns = results.turns(name, title, contenders, "seconds", "s", more_is_better=False)
    for _, contender in turns:
        told, _ = measured(*contender.argv(None))
        results.add(name, contender, told)
