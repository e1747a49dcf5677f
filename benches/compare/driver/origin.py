"""Writes to an origin that keep the old data for snapshots first."""

from .servers import LIMIT, OURS, RIVAL, Contender, Running
from .setup import GIB, filled, program, removed, run

COUNTS = (1, 4, 16)
DEPTHS = {1: (32_768, 12_288), 32: (65_536, 16_384)}

# What is slower than that much is measured for so long, in full and in quick runs.
SECONDS = (6, 3)


def writes(setup, results, wanted):
    folder = setup.dir
    origin = filled(folder / "origin", GIB)
    for snapshots in COUNTS:
        for depth, (full, quick) in DEPTHS.items():
            name = f"origin-{snapshots}-qd{depth}"
            if not wanted(name):
                continue
            plural = "s" if snapshots > 1 else ""
            title = f"4 KiB random origin writes, {snapshots} snapshot{plural}, {depth} in flight"
            # More than dmsnap keeps in memory (8192 blocks), and a flush in the end: nobody is
            # measured who only remembers.
            plan = dict(seed=7, count=setup.scaled(full, quick), depth=depth)
            contenders = everybody(folder, origin, snapshots)
            for turn, contender in results.turns(name, title, contenders):
                contender.prepare()
                with Running(contender, folder) as server:
                    told = server.load(kind="write", seconds=setup.scaled(*SECONDS), flush_last=True, **plan)
                    if turn == 0:
                        done = {**plan, "count": told["requests"], "depth": 4}
                        server.load(kind="verify", **done)
                results.add(name, contender, told)


def everybody(folder, origin, snapshots):
    cows = [folder / f"saved-{n}" for n in range(snapshots)]
    contenders = [dmsnap(origin, cows, way) for way in ("direct", "buffered")]
    bare = lambda sock, *more: [program("bare-server"), sock, "origin", origin, *cows, *more]
    fresh = lambda: removed(*cows)
    contenders.append(Contender("bare", LIMIT, fresh, bare, durable=False))
    durable = lambda sock: bare(sock, "--durable")
    contenders.append(Contender("bare, flush first", LIMIT, fresh, durable))
    for way in ("buffered", "direct"):
        contenders.append(copy_before_write(origin, cows, way))
    return contenders


def dmsnap(origin, cows, way):
    def prepare():
        removed(*cows)
        for cow in cows:
            run(program("dmsnap"), "create", cow, "--size", 3 * GIB, "--chunk-size", "4k")

    def argv(sock):
        snapshots = [arg for n, cow in enumerate(cows) for arg in ("--snapshot", f"s{n}={cow}")]
        serve = [program("dmsnap"), "serve", origin, *snapshots]
        return [*serve, "--nbd", f"unix:{sock}", "--io", way]

    return Contender(f"dmsnap {way}", OURS, prepare, argv, "origin")


def copy_before_write(origin, cows, way):
    """One filter above the other. What they save is not durable before the origin is written, and
    which blocks they have saved is known to the process alone."""
    direct = "on" if way == "direct" else "off"

    def prepare():
        removed(*cows)
        for cow in cows:
            run("truncate", "-s", origin.stat().st_size, cow)

    def argv(sock):
        file = lambda node, path: [
            "--blockdev",
            f"driver=file,node-name={node},filename={path},aio=io_uring,cache.direct={direct}",
        ]
        argv = ["qemu-storage-daemon", *file("o", origin)]
        below = "o"
        for n, cow in enumerate(cows):
            argv += file(f"t{n}", cow)
            filter = f"driver=copy-before-write,node-name=c{n},file={below},target=t{n}"
            argv += ["--blockdev", filter]
            below = f"c{n}"
        argv += ["--nbd-server", f"addr.type=unix,addr.path={sock}"]
        return [*argv, "--export", f"type=nbd,id=e,node-name={below},name=origin,writable=on"]

    name = f"qsd copy-before-write {way}"
    return Contender(name, RIVAL, prepare, argv, "origin", durable=False)
