"""Figures of all rounds, and what they say."""

import json
import statistics
import sys
from dataclasses import dataclass, field

from .servers import LIMIT, OURS, RIVAL, Contender


@dataclass
class Workload:
    """One question, asked of every contender in every round."""

    name: str
    title: str
    # What decides: a key of the figures, its unit, and whether more is better.
    key: str
    unit: str
    more_is_better: bool
    contenders: dict = field(default_factory=dict)
    # Name of a contender: one dictionary of figures for each round.
    figures: dict = field(default_factory=dict)

    def values(self, contender, key):
        return [round[key] for round in self.figures[contender] if key in round]

    def of_kind(self, kind):
        return [name for name in self.figures if self.contenders[name].kind == kind]

    def best(self, kind, durable=False, key=None):
        """The contender of a kind with the best median."""
        names = [it for it in self.of_kind(kind) if self.contenders[it].durable or not durable]
        names = [it for it in names if self.values(it, key or self.key)]
        if not names:
            return None
        more = self.more_is_better if key is None else False
        choose = max if more else min
        return choose(names, key=lambda it: statistics.median(self.values(it, key or self.key)))

    def ratio(self, one, other, key=None):
        """Of each round: how many times the other's figure `one` has."""
        key = key or self.key
        pairs = zip(self.values(one, key), self.values(other, key))
        return [a / b for a, b in pairs if b > 0]


class Results:
    """Of a whole run."""

    def __init__(self, rounds, facts, takes_part, markdown=False):
        self.rounds, self.facts, self.takes_part = rounds, facts, takes_part
        self.markdown = markdown
        self.workloads = {}

    def turns(self, name, title, contenders, key="per_second", unit="/s", more_is_better=True):
        """Every contender once in every round, each time another one first."""
        workload = Workload(name, title, key, unit, more_is_better)
        self.workloads[name] = workload
        contenders = [it for it in contenders if self.takes_part(it)]
        for contender in contenders:
            workload.contenders[contender.name] = contender
            workload.figures[contender.name] = []
        for turn in range(self.rounds):
            first = turn % max(len(contenders), 1)
            for contender in contenders[first:] + contenders[:first]:
                print(f"{name}: round {turn + 1}, {contender.name}", file=sys.stderr)
                yield turn, contender
        print(self.table(workload), flush=True)

    def add(self, name, contender, told):
        """One round's figures; those of the load generator are completed."""
        if "requests" in told:
            told["per_second"] = told["requests"] / told["seconds"]
            told["cpu_us"] = told["server_cpu_seconds"] / told["requests"] * 1e6
        self.workloads[name].figures[contender.name].append(told)

    def table(self, workload):
        """A table for a terminal."""
        heads = ["", workload.unit, "(min, max)", "times best rival", "(min, max)"]
        columns = [it for it in COLUMNS if any(workload.values(n, it[0]) for n in workload.figures)]
        heads += [it[1] for it in columns]
        rival = workload.best(RIVAL)
        rows = [heads]
        for name, contender in workload.contenders.items():
            own = workload.values(name, workload.key)
            if not own:
                continue
            row = [label(contender), *spread(own)]
            row += spread(workload.ratio(name, rival)) if rival else ["", ""]
            row += [spread(workload.values(name, it[0]))[0] for it in columns]
            rows.append(row)
        if self.markdown:
            return f"\n### {workload.title}\n\n`{workload.name}`\n\n{ruled(rows)}"
        return f"\n{workload.title} [{workload.name}]\n{aligned(rows)}"

    def summary(self):
        """One line for each workload: the best of ours next to the best of the others."""
        rows = [["workload", "ours", "best rival", "ours / rival", "(min, max)"]]
        rows[0] += ["limit", "ours / limit", "(min, max)", "CPU ours / least rival", "(min, max)"]
        for workload in self.workloads.values():
            ours, rival, limit = (workload.best(kind) for kind in (OURS, RIVAL, LIMIT))
            # What does not make data durable proves nothing where flushes are the question.
            if workload.name.startswith("flush"):
                rival = workload.best(RIVAL, durable=True)
            if ours is None:
                continue
            row = [workload.name, ours, rival or "-"]
            row += spread(workload.ratio(ours, rival)) if rival else ["", ""]
            row += [limit or "-"]
            row += spread(workload.ratio(ours, limit)) if limit else ["", ""]
            row += self.cpu(workload)
            rows.append(row)
        return ruled(rows) if self.markdown else aligned(rows)

    @staticmethod
    def cpu(workload):
        durable = workload.name.startswith("flush")
        ours = workload.best(OURS, key="cpu_us")
        rival = workload.best(RIVAL, durable, key="cpu_us")
        if not ours or not rival:
            return ["", ""]
        return spread(workload.ratio(ours, rival, "cpu_us"))

    def load(self, text):
        """Takes over the figures of an earlier run."""
        told = json.loads(text)
        self.facts = self.facts or told["facts"]
        self.rounds = self.rounds or told["rounds"]
        for it in told["workloads"]:
            facts = (it[key] for key in ("name", "title", "key", "unit", "more_is_better"))
            workload = self.workloads.setdefault(it["name"], Workload(*facts))
            for contender in it["contenders"]:
                name, kind, durable = (contender[key] for key in ("name", "kind", "durable"))
                workload.contenders[name] = Contender(name, kind, durable=durable)
                workload.figures[name] = contender["rounds"]

    def to_json(self):
        """Everything, for other programs."""
        workloads = [
            {
                "name": it.name,
                "title": it.title,
                "key": it.key,
                "unit": it.unit,
                "more_is_better": it.more_is_better,
                "contenders": [
                    {
                        "name": name,
                        "kind": contender.kind,
                        "durable": contender.durable,
                        "rounds": it.figures[name],
                    }
                    for name, contender in it.contenders.items()
                ],
            }
            for it in self.workloads.values()
        ]
        told = {"facts": self.facts, "rounds": self.rounds, "workloads": workloads}
        return json.dumps(told, indent=1)


# Key of a figure, head of its column.
COLUMNS = [
    ("cpu_us", "CPU us"),
    ("p50", "p50 us"),
    ("p99", "p99 us"),
    ("p999", "p99.9 us"),
    ("resident_mib", "RSS MiB"),
    ("bytes_each", "bytes each"),
    ("cpu_seconds", "CPU s"),
]


def label(contender):
    marks = {OURS: "*", LIMIT: "-", RIVAL: " "}
    return f"{marks[contender.kind]} {contender.name}{'' if contender.durable else ' (not durable)'}"


def number(value):
    """Three figures are all that can be told apart here."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def spread(values):
    """Median, and least and most."""
    if not values:
        return ["", ""]
    return [number(statistics.median(values)), f"({number(min(values))}, {number(max(values))})"]


def aligned(rows):
    """Columns under each other; the first one to the left."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def ruled(rows):
    """The same in Markdown. A spread stands in the cell of its median."""
    heads = [head for head in rows[0] if head != "(min, max)"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for row in rows[1:]:
        cells = []
        for head, cell in zip(rows[0], row):
            if head == "(min, max)":
                cells[-1] = f"{cells[-1]} {cell}".strip()
            else:
                cells.append(cell)
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
