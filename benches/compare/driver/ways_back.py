"""Merges that can be taken back, differences, repairs: beside the plain command that does the same I/O."""

import struct

from .command import measured
from .merge import Store
from .opening import MILLION, Files
from .servers import LIMIT, OURS, RIVAL, Contender
from .setup import GIB, KIB, MIB, filled, program, removed, run

CHUNK = 4 * KIB
SLOT = 16


def undoable(setup, results, wanted):
    """A merge with a way back, a plain one, and a bare program that reads what it writes over."""
    for name, pattern, chunk, order in (
        ("undo-4k", "random 4 KiB", 4 * KIB, "random"),
        ("undo-64k", "random 64 KiB", 64 * KIB, "random"),
    ):
        if wanted(name):
            one_pattern(setup, results, name, (pattern, chunk, order))


def one_pattern(setup, results, name, shape):
    pattern, chunk, order = shape
    folder = setup.dir
    data, size = setup.scaled(512 * MIB, 128 * MIB), setup.scaled(4 * GIB, GIB)
    origin = filled(folder / "origin-of-merge", size)
    store = Store(folder / "merge.cow", origin, chunk, order, data // chunk)
    undo = folder / "undo.cow"
    # Nothing is shared: what is measured is a copy of every old chunk.
    merge = [program("dmsnap"), "merge", store.cow, origin, "--json", "--no-share"]
    bare = [program("bare-merge"), store.cow, origin, "--keep", undo]
    contenders = [
        Contender("dmsnap --undo", OURS, argv=lambda _: [*merge, "--undo", undo]),
        Contender("dmsnap, plain", RIVAL, argv=lambda _: merge),
        Contender("bare, two passes", LIMIT, argv=lambda _: bare),
    ]
    title = f"Undoable merge of {data // MIB} MiB into {size // GIB} GiB, {pattern}"
    turns = results.turns(name, title, contenders, "seconds", "s", more_is_better=False)
    for turn, contender in turns:
        removed(undo, store.cow)
        store.task("full", store.cow)
        store.task("spoil", origin)
        told, _ = measured(*contender.argv(None))
        store.task("verify", origin)
        if contender.kind == OURS and turn == 0:
            run(program("dmsnap"), "undo", store.cow, origin, undo)
            run(program("dmsnap"), "check", store.cow, origin)
        results.add(name, contender, told)
    removed(store.cow, undo, origin)


def differences(setup, results, wanted):
    """`diff` of two stores, and `dump` of one."""
    for size, exceptions in {"1m": MILLION, "8m": 8 * MILLION}.items():
        name = f"diff-{size}"
        if not wanted(name):
            continue
        files = Files(setup.dir, exceptions)
        other = setup.dir / "other.cow"
        # As many exceptions, of chunks drawn from an origin half as large again.
        shape = ["--exceptions", exceptions, "--origin-bytes", 3 * exceptions * CHUNK]
        run(program("make-store"), "sparse", other, *shape)
        diff = [program("dmsnap"), "diff", files.cow, other, "--no-fence"]
        dump = [program("dmsnap"), "dump", files.cow]
        contenders = [
            Contender("dmsnap diff of two", OURS, argv=lambda _: diff),
            Contender("dmsnap dump of one", RIVAL, argv=lambda _: dump),
        ]
        title = f"`diff` of two stores of {exceptions} exceptions each"
        turns = results.turns(name, title, contenders, "seconds", "s", more_is_better=False)
        for _, contender in turns:
            # 1: they differ.
            told, _ = measured(*contender.argv(None), statuses=(0, 1))
            results.add(name, contender, told)
        files.remove()
        removed(other)


def repairs(setup, results, wanted):
    """`repair --output`, and a copy of the file; the list alone of eight million exceptions."""
    data = setup.scaled(512 * MIB, 128 * MIB)
    if wanted("repair-4k"):
        origin = setup.dir / "repair.origin"
        run("truncate", "-s", 4 * data, origin)
        store = Store(setup.dir / "repair.cow", origin, CHUNK, "random", data // CHUNK)
        one_repair(results, "repair-4k", store.cow, origin, f"{data // MIB} MiB of chunks")
        removed(store.cow, origin)
    if wanted("repair-8m"):
        files = Files(setup.dir, 8 * MILLION)
        title = "8388608 exceptions whose data are holes"
        one_repair(results, "repair-8m", files.cow, files.origin, title)
        files.remove()


def one_repair(results, name, cow, origin, what):
    spoil(cow)
    output = cow.with_suffix(".repaired")
    repair = [program("dmsnap"), "repair", cow, origin, "--output", output]
    copy = ["sh", "-c", 'cp --reflink=never "$0" "$1" && sync "$1"', cow, output]
    contenders = [
        Contender("dmsnap repair", OURS, argv=lambda _: repair),
        Contender("cp and sync", RIVAL, argv=lambda _: copy),
    ]
    title = f"`repair` of a store with {what}"
    turns = results.turns(name, title, contenders, "seconds", "s", more_is_better=False)
    for _, contender in turns:
        removed(output)
        told, _ = measured(*contender.argv(None))
        if contender.kind == OURS:
            run(program("dmsnap"), "check", output, origin)
        results.add(name, contender, told)
    removed(output)


def spoil(cow):
    """Two exceptions of the first area share a chunk: the second gets a copy of its own."""
    with open(cow, "r+b") as file:
        file.seek(CHUNK + 4 * SLOT + 8)
        shared = file.read(8)
        file.seek(CHUNK + 5 * SLOT + 8)
        assert struct.unpack("<Q", file.read(8)) != struct.unpack("<Q", shared)
        file.seek(CHUNK + 5 * SLOT + 8)
        file.write(shared)
