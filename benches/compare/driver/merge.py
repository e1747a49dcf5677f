"""Offline merges: the same data, from a store or from a qcow2 overlay, into the same origin."""

import json

from . import servers
from .command import measured
from .servers import LIMIT, OURS, QCOW2, RIVAL, Contender, Running
from .setup import GIB, KIB, MIB, filled, program, removed, run

# Name, what it is, bytes in a row, order.
PATTERNS = [
    ("merge-4k", "random 4 KiB", 4 * KIB, "random"),
    ("merge-64k", "random 64 KiB", 64 * KIB, "random"),
    ("merge-seq", "sequential", 4 * KIB, "sequential"),
]


def merges(setup, results, wanted):
    folder = setup.dir
    data, size = setup.scaled(512 * MIB, 128 * MIB), setup.scaled(4 * GIB, GIB)
    for name, pattern, chunk, order in PATTERNS:
        if not wanted(name):
            continue
        origin = filled(folder / "origin-of-merge", size)
        store = Store(folder / "merge.cow", origin, chunk, order, data // chunk)
        images = {layout: folder / f"merge-{layout}.qcow2" for layout in QCOW2}
        for layout, image in images.items():
            fill_qcow2(folder, image, origin, layout, chunk, order, data)
        title = f"Offline merge of {data // MIB} MiB into {size // GIB} GiB, {pattern}"
        contenders = everybody(store, images)
        turns = results.turns(name, title, contenders, "seconds", "s", more_is_better=False)
        for _, contender in turns:
            store.task("reset", store.cow)
            store.task("spoil", origin)
            told, printed = measured(*contender.argv(None))
            store.task("verify", origin)
            if contender.kind == OURS:
                merged = json.loads(printed)
                for key in ("origin_flushes", "cow_flushes", "metadata_writes", "exceptions"):
                    told[key] = merged[key]
            results.add(name, contender, told)
        removed(store.cow, *images.values())
    removed(folder / "origin-of-merge")


class Store:
    """A store that can be filled anew after every merge."""

    def __init__(self, cow, origin, chunk, order, exceptions):
        self.cow, self.origin = cow, origin
        self.shape = ["--chunk", chunk, "--order", order, "--exceptions", exceptions]
        self.shape += ["--origin-bytes", origin.stat().st_size]
        removed(cow)
        self.task("full", cow)

    def task(self, task, path):
        run(program("make-store"), task, path, *self.shape)


def fill_qcow2(folder, image, origin, layout, chunk, order, data):
    """The same writes as the store holds."""
    contender = servers.qemu_nbd(folder, origin, layout, image)
    contender.prepare()
    with Running(contender, folder) as server:
        server.load(kind="write", block=chunk, order=order, count=data // chunk, depth=16)


def everybody(store, images):
    merge = lambda way: [program("dmsnap"), "merge", store.cow, store.origin, "--json", "--io", way]
    bare = lambda way: [program("bare-merge"), store.cow, store.origin, "--io", way]
    # -d: the image is not emptied afterwards. That is work less for qemu-img.
    commit = lambda image, cache: ["qemu-img", "commit", "-q", "-d", "-t", cache, image]
    contenders = []
    for way in ("direct", "buffered"):
        contenders.append(Contender(f"dmsnap {way}", OURS, argv=lambda _, way=way: merge(way)))
        contenders.append(Contender(f"bare {way}", LIMIT, argv=lambda _, way=way: bare(way)))
    for layout, image in images.items():
        for cache in ("none", "writeback"):
            argv = lambda _, image=image, cache=cache: commit(image, cache)
            contenders.append(Contender(f"qemu-img commit {layout} {cache}", RIVAL, argv=argv))
    return contenders
