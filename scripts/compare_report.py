#!/usr/bin/env python3
"""Works out what compare.sh measured: medians, spreads, ratios to Banter's of the same round; docs/comparison.md and its picture."""

import datetime
import json
import os
import platform
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import compare_picture

NAMES = {
    "banter": "Banter, `memory`", "banter-synced": "Banter, `synced`", "bun": "Bun", "node": "Node", "redis": "Redis",
    "nats": "NATS", "mosquitto": "mosquitto",
}
JOBS = {
    "fanout": "10 rooms of 100, one post a room under way",
    "fanout-16": "10 rooms of 100, 16 posts a room under way",
    "rate": "10 rooms of 100, 200,000 deliveries a second offered",
    "rooms": "1,000 rooms of 5 who all post, one post each under way",
    "giant": "one room of 10,000, 5 posts a second",
    "pingpong": "ping-pong: one room of two, one post under way",
    "idle": "joined connections that say nothing",
}
# Below this share of what the clock offered, a server does not keep up.
KEEPS_UP = 0.99


@dataclass
class Figure:
    """One line of the table. Less is better in all of them."""

    job: str
    title: str
    unit: str
    of: object
    # Digits behind the point.
    digits: int = 2

    def text(self, value):
        return f"{value:,.{0 if value >= 1000 else self.digits}f}"


def cpu_us(run):
    """CPU a delivery: the process's, and the kernel's softirq thread of its CPU, where what it sent was received in part."""
    return run["server_cpu_us_per_delivery"] + (run["server_softirq_cpu_us_per_delivery"] or 0)


def latency(which, share, divisor=1):
    return lambda run: run["latency_us"][which][share] / divisor


FIGURES = [
    Figure("fanout", "CPU a delivery", "µs", cpu_us),
    Figure("fanout-16", "CPU a delivery", "µs", cpu_us),
    Figure("rate", "CPU", "% of a core", lambda run: cpu_us(run) * run["deliveries_per_s"] / 1e4, 0),
    Figure("rate", "p99 of a delivery", "ms", latency("delivered", "p99", 1000), 1),
    Figure("rooms", "CPU a delivery", "µs", cpu_us),
    Figure("giant", "CPU a delivery", "µs", cpu_us),
    Figure("giant", "p50 of all readers", "ms", latency("delivered", "p50", 1000), 1),
    Figure("giant", "p50 of the last reader", "ms", latency("complete", "p50", 1000), 1),
    Figure("pingpong", "p50 of a round trip", "µs", latency("echoed", "p50"), 1),
    Figure("pingpong", "p99 of a round trip", "µs", latency("echoed", "p99"), 1),
    Figure("pingpong", "CPU a round trip", "µs", lambda run: cpu_us(run) * run["deliveries"] / run["posts"], 1),
    Figure("idle", "resident memory a connection", "bytes", lambda run: run["resident_bytes_per_connection"], 0),
]


class Run:
    """One run of a job with a server."""

    def __init__(self, prefix):
        report, fault = Path(f"{prefix}.json"), Path(f"{prefix}.fault")
        self.report = json.loads(report.read_text()) if report.exists() else None
        self.fault = fault.read_text().strip() if fault.exists() else None

    @property
    def is_measured(self):
        return self.report is not None and (self.report["job"] == "idle" or self.report["verification"]["verified"])

    def says(self, flag):
        return bool(self.report and self.report.get(flag))

    def keeps_up(self):
        """Whether it delivered what the clock offered, but for the posts at the two ends of the window."""
        rate = self.report.get("rate_posts_per_s") if self.report else None
        if not rate:
            return True
        posts = self.report["deliveries"] / self.report["members"] + 2
        return posts >= KEEPS_UP * rate * self.report["window_s"]

    def trouble(self):
        """Why it has no figures."""
        if self.report:
            return "not verified: " + "; ".join(self.report["verification"]["described"][:1])
        return self.fault or "not run"


@dataclass
class Cell:
    """A figure of a server, over the rounds."""

    median: float
    least: float
    greatest: float
    # To Banter's of the same round; None for Banter's own, and where it says nothing.
    ratio: object
    # In most of its runs it did not keep up with the clock: it did less than was asked of it.
    falls_behind: bool


class Comparison:
    def __init__(self, folder, rounds, jobs, servers):
        self.folder, self.rounds, self.jobs, self.servers = Path(folder), rounds, jobs, servers
        self.runs = {
            (job, server): [Run(self.folder / f"{number}.{job}.{server}") for number in range(1, rounds + 1)]
            for job in jobs for server in servers
        }

    def figures(self):
        return [figure for figure in FIGURES if figure.job in self.jobs]

    def cell(self, figure, server):
        """None where no run was verified."""
        runs = self.runs[figure.job, server]
        own = self.runs.get((figure.job, "banter"), [])
        values = [figure.of(run.report) for run in runs if run.is_measured]
        if not values:
            return None
        pairs = [(run, beside) for run, beside in zip(runs, own) if run.is_measured and beside.is_measured]
        ratios = [figure.of(run.report) / figure.of(beside.report) for run, beside in pairs if figure.of(beside.report) > 0]
        falls_behind = 2 * sum(not run.keeps_up() for run in runs if run.is_measured) > len(values)
        ratio = statistics.median(ratios) if ratios and server != "banter" and not falls_behind else None
        return Cell(statistics.median(values), min(values), max(values), ratio, falls_behind)

    def is_whole(self):
        return all(run.is_measured for runs in self.runs.values() for run in runs)

    def behind(self):
        """Where another server is better than Banter: a sentence each."""
        for figure in self.figures():
            for server in self.servers:
                found = self.cell(figure, server)
                if found and found.ratio is not None and found.ratio < 1 and not server.startswith("banter"):
                    mine = figure.text(self.cell(figure, "banter").median)
                    yield (f"{JOBS[figure.job]}, {figure.title}: {NAMES[server]} {figure.text(found.median)} {figure.unit}, "
                           f"Banter {mine} {figure.unit} ({1 / found.ratio:.2f} ×)")

    def cautions(self):
        """What must be known to believe a figure."""
        for (job, server), runs in self.runs.items():
            troubles = [run.trouble() for run in runs if not run.is_measured]
            if troubles:
                yield f"{NAMES[server]}, {JOBS[job]}: {len(troubles)} of {len(runs)} runs have no figure; {troubles[0]}"
        for holds, why in (
            (lambda run: run.is_measured and not run.keeps_up(),
             "the server did not keep up with the clock, so latencies are the length of a queue that grew"),
            (lambda run: run.says("was_own_bottleneck"),
             "the load's core was full, and fuller than the server's: CPU a delivery stands, latencies are the load's in part"),
            (lambda run: run.says("was_disturbed"), "other programs took more than 5 % of a CPU"),
        ):
            counts = {key: sum(map(holds, runs)) for key, runs in self.runs.items()}
            found = [f"`{job}` with {NAMES[server]} ({count} of {self.rounds})" for (job, server), count in counts.items() if count]
            if found:
                yield f"{why}: {', '.join(found)}"


def host():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    return (f"{os.cpu_count()} × {model[1] if model else platform.machine()}, {memory:.0f} GiB, Linux {platform.release()}, "
            f"{datetime.date.today():%Y-%m-%d}")


def table(comparison):
    servers = comparison.servers
    yield "| figure | " + " | ".join(NAMES[server] for server in servers) + " |"
    yield "|---|" + "---|" * len(servers)
    before = None
    for figure in comparison.figures():
        if figure.job != before:
            yield f"| **{JOBS[figure.job]}** |" + " |" * len(servers)
            before = figure.job
        cells = (cell_text(figure, server, comparison.cell(figure, server)) for server in servers)
        yield f"| {figure.title}, {figure.unit} | " + " | ".join(cells) + " |"


def cell_text(figure, server, cell):
    if cell is None:
        return "–"
    spread = f"{figure.text(cell.least)}–{figure.text(cell.greatest)}"
    if cell.falls_behind:
        return f"{figure.text(cell.median)}<br><sub>{spread}</sub><br>*falls behind*"
    if cell.ratio is None:
        ratio = ""
    elif cell.ratio < 1 and not server.startswith("banter"):
        ratio = f"<br>**{cell.ratio:.2f} ×**"
    else:
        ratio = f"<br>{cell.ratio:.2f} ×"
    return f"{figure.text(cell.median)}<br><sub>{spread}</sub>{ratio}"


def command_line(comparison, all_jobs, all_servers):
    words = [f"scripts/compare.sh --rounds {comparison.rounds}"]
    if comparison.jobs != all_jobs:
        words.append(f"--only {','.join(comparison.jobs)}")
    if comparison.servers != all_servers:
        words.append(f"--servers {','.join(comparison.servers)}")
    chosen = [f"{name}={os.environ[name]}" for name in ("SECONDS_MEASURED", "WARMUP_SECONDS", "IDLE_CONNECTIONS") if name in os.environ]
    return " ".join(chosen + words)


def read(folder, name):
    path = folder / name
    return path.read_text().rstrip() if path.exists() else ""


def document(comparison):
    folder = comparison.folder
    command = command_line(comparison, list(JOBS), list(NAMES))
    yield "# Banter beside its neighbours"
    yield ""
    yield "Written by `scripts/compare.sh`; change that, and not this."
    yield ""
    yield "![The figures below as bars](comparison.svg)"
    yield ""
    yield (f"Medians of {comparison.rounds} round{'s' if comparison.rounds > 1 else ''}, the least and the greatest below them. Less is better in every line. The "
           "last number of a cell is the median of its ratio to Banter's (`memory`) of the same round: above 1 the other server is "
           "dearer or slower, and **below 1, in bold, Banter is behind**. Who *falls behind* did less than the clock asked for, and has no ratio.")
    yield ""
    yield from table(comparison)
    yield ""
    yield "## Where Banter is behind"
    yield ""
    behind = list(comparison.behind())
    yield from (f"- {text}" for text in behind)
    if not behind:
        yield "In none of these figures, by the medians."
    yield ""
    yield "## What was measured"
    yield ""
    yield (f"`{command}` at {read(folder, 'commit')}; {host()}. In each round every job was run with every server, one behind the other; "
           "each run had a fresh server on a CPU of its own, and one load on another, over loopback. Every delivery of every run was "
           "verified: each member got each post of its room once; from Banter in the one order of the room, from the others in the order "
           "of each publisher. A run that was not verified has no figure.")
    yield ""
    yield ("- CPU is that of the server's process and of the kernel's softirq thread of its CPU: what a server sends in one long submit is "
           "received there in part, and charged to no process.")
    yield ("- A body has 128 bytes. Latency is from the time at which a post was meant to be sent. Under `fanout`, `fanout-16` and `rooms` a post "
           "is under way until every member has it; in ping-pong until its publisher has it back.")
    yield ("- They do not do the same work. Banter numbers every message, keeps it for those who come back (`memory`) or has it on the disk "
           "before anybody sees it (`synced`, the default), acknowledges each post, and sends JSON that says room, place, time and user. "
           "The others pass bytes on, and promise nothing.")
    yield "- Bun and Node run the servers of `benches/neighbours/`. Memory in the kernel, the same for all, is not counted."
    yield ""
    yield "| job | `banter-loadgen …` |"
    yield "|---|---|"
    yield from (f"| {job} | `{read(folder, f'{job}.arguments')}` |" for job in comparison.jobs)
    yield ""
    for server in comparison.servers:
        command, *settings = read(folder, f"{server}.command").splitlines() or [""]
        with_settings = ", with " + "; ".join(f"`{line.strip()}`" for line in settings) if settings else ""
        yield f"- {NAMES[server]} ({read(folder, f'{server}.version')}): `{command}`{with_settings}"
    cautions = list(comparison.cautions())
    if cautions:
        yield ""
        yield "## What must be known to believe it"
        yield ""
        yield from (f"- {text}" for text in cautions)


def bars(comparison):
    """What the picture shows: a panel a figure."""
    for figure in comparison.figures():
        cells = [(NAMES[server].replace("`", ""), comparison.cell(figure, server)) for server in comparison.servers]
        rows = [compare_picture.Bar(name, cell and (cell.least, cell.median, cell.greatest), cell and bar_text(figure, cell),
                                    name.startswith("Banter")) for name, cell in cells]
        yield compare_picture.Panel(f"{figure.title}, {figure.unit}", JOBS[figure.job], rows)


def bar_text(figure, cell):
    return figure.text(cell.median) + (" *" if cell.falls_behind else "")


def line(prefix, job):
    """A run in a few words, for who waits."""
    run = Run(prefix)
    if not run.is_measured:
        return run.trouble()
    return ", ".join(f"{figure.title} {figure.text(figure.of(run.report))} {figure.unit}" for figure in FIGURES if figure.job == job)


def main():
    what, *rest = sys.argv[1:]
    if what == "line":
        print(line(*rest))
        return 0
    results, folder, rounds, jobs, servers = rest
    comparison = Comparison(results, int(rounds), jobs.split(","), servers.split(","))
    folder = Path(folder)
    (folder / "comparison.md").write_text("\n".join(document(comparison)) + "\n")
    (folder / "comparison.svg").write_text(compare_picture.draw(list(bars(comparison))))
    print(f"written: {folder}/comparison.md and {folder}/comparison.svg")
    for text in [*comparison.behind(), *comparison.cautions()]:
        print(f"- {text}")
    return 0 if comparison.is_whole() else 1


if __name__ == "__main__":
    sys.exit(main())
