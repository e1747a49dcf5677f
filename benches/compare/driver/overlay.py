"""An overlay over NBD: random and sequential reads and writes."""

from contextlib import ExitStack, contextmanager

from . import servers
from .servers import Running
from .setup import GIB, MIB, filled

# Name, what it is, options of the load generator, requests in full and in quick runs.
WRITES = [
    ("write-qd1", "4 KiB random writes, 1 in flight", dict(depth=1), 30_000, 6_000),
    ("write-qd32", "4 KiB random writes, 32 in flight", dict(depth=32), 100_000, 20_000),
    (
        "flush-qd1",
        "4 KiB random writes, 1 in flight, a flush every 64",
        dict(depth=1, flush_every=64),
        12_800,
        3_200,
    ),
    (
        "flush-qd32",
        "4 KiB random writes, 32 in flight, a flush every 64",
        dict(depth=32, flush_every=64),
        25_600,
        6_400,
    ),
    (
        "write-seq",
        "1 MiB sequential writes, 4 in flight",
        dict(depth=4, block=MIB, order="sequential"),
        768,
        256,
    ),
]
READS = [
    ("read-qd1", "4 KiB random reads, 1 in flight", dict(depth=1), 30_000, 8_000),
    ("read-qd32", "4 KiB random reads, 32 in flight", dict(depth=32), 130_000, 30_000),
]
READ_SEQ = ("read-seq", "1 MiB sequential reads, 4 in flight")


def writes(setup, results, wanted):
    """A new overlay in every round."""
    folder = setup.dir
    origin = filled(folder / "origin", GIB)
    contenders = servers.overlays(folder, origin, 3 * GIB)
    for name, title, options, full, quick in WRITES:
        if not wanted(name):
            continue
        count = setup.scaled(full, quick)
        for turn, contender in results.turns(name, title, contenders):
            contender.prepare()
            with Running(contender, folder) as server:
                told = server.load(kind="write", count=count, **options)
                if turn == 0:
                    verify(server, count, options)
            results.add(name, contender, told)


def verify(server, count, options):
    """What is fast because it writes nothing is found out."""
    plan = {key: value for key, value in options.items() if key != "flush_every"}
    server.load(kind="verify", count=count, **{**plan, "depth": 4})


def reads(setup, results, wanted):
    """The overlays stay, all servers run at the same time; only one has something to do."""
    folder = setup.dir
    span = setup.scaled(512 * MIB, 256 * MIB)
    origin = filled(folder / "origin-of-reads", span)
    contenders = [
        *servers.overlays(folder, origin, 2 * GIB, shared=False),
        *(servers.dmsnap_raw(origin, way) for way in ("direct", "buffered")),
        servers.bare_raw(origin),
    ]
    if any(wanted(name) for name, *_ in READS):
        half = dict(count=span // 4096 // 2, depth=32)
        with all_running(contenders, folder, half) as running:
            for name, title, options, full, quick in READS:
                if wanted(name):
                    count = setup.scaled(full, quick)
                    for turn, contender in results.turns(name, title, contenders):
                        plan = dict(kind="read", seed=100 + turn, count=count, **options)
                        results.add(name, contender, running[contender.name].load(**plan))
    name, title = READ_SEQ
    if wanted(name):
        half = dict(count=span // MIB // 2, block=MIB, order="sequential", depth=4)
        with all_running(contenders, folder, half) as running:
            for _, contender in results.turns(name, title, contenders):
                plan = dict(kind="read", block=MIB, order="sequential", depth=4, count=span // MIB)
                results.add(name, contender, running[contender.name].load(**plan))


@contextmanager
def all_running(contenders, folder, half):
    """Servers, each with half of its overlay written; by name."""
    with ExitStack() as stack:
        running = {}
        for contender in contenders:
            contender.prepare()
            server = stack.enter_context(Running(contender, folder))
            running[contender.name] = server
            # A raw file is the same with or without.
            if "raw" not in contender.name:
                server.load(kind="write", **half)
                server.load(kind="verify", **{**half, "depth": 4})
        yield running
