"""What a whole device is made of, as a backup program asks."""

from . import servers
from .command import measured, process_cpu
from .servers import OURS, RIVAL, Contender, Running
from .setup import GIB, filled


def statuses(setup, results, wanted):
    name = "status"
    if not wanted(name):
        return
    folder = setup.dir
    origin = filled(folder / "origin", GIB)
    writes = setup.scaled(65_536, 16_384)
    title = f"Block status of 1 GiB with {writes} scattered chunks, by nbdinfo"
    asked = [
        (servers.dmsnap_overlay(folder, origin, 3 * GIB, "direct"), "qemu:dirty-bitmap:s"),
        (servers.dmsnap_overlay(folder, origin, 3 * GIB, "direct"), "qemu:allocation-depth"),
        *((servers.qemu_nbd(folder, origin, it), "qemu:allocation-depth") for it in ("64k", "4k")),
    ]
    contenders = [named(contender, context) for contender, context in asked]
    contexts = {it.name: context for it, (_, context) in zip(contenders, asked)}
    turns = results.turns(name, title, contenders, "seconds", "s", more_is_better=False)
    for _, contender in turns:
        contender.prepare()
        with Running(contender, folder) as server:
            server.load(kind="write", count=writes, depth=32, flush_every=writes)
            uri = f"nbd+unix:///{contender.export}?socket={server.socket}"
            before = process_cpu(server.process.pid)
            told, printed = measured("nbdinfo", f"--map={contexts[contender.name]}", uri)
            # Of the server, not of the client.
            told["cpu_seconds"] = process_cpu(server.process.pid) - before
            told["extents"] = printed.count(b"\n")
        results.add(name, contender, told)


def named(contender, context):
    """Under a name that tells what is asked."""
    kind = OURS if contender.kind == OURS else RIVAL
    argv = contender.argv
    if kind == RIVAL:
        argv = lambda sock: [*contender.argv(sock), "-A"]
    name = f"{contender.name.removesuffix(' direct')} {context.split(':')[1]}"
    return Contender(name, kind, contender.prepare, argv, contender.export)
