#!/usr/bin/env python3
"""Works out what bench.sh measured: medians over rounds, ratios to the floor of the same round, targets."""

import json
import os
import platform
import re
import statistics
import sys
import urllib.request
from pathlib import Path

import bench_access
import bench_disk
import bench_hostile
import bench_log
import bench_programs

# As bench.sh names them, in the order of the table.
JOBS = ["fanout-1", "fanout-16", "fanout-256", "fanout-1024", "fanout-10x100", "rooms-1000", "idle"]
# The floor that the absolute target of fanout-16 was set beside, of the process alone: where the kernel is slower, so may
# the server be.
FLOOR_OF_TARGET_US = 4.1


def load(path):
    return json.loads(path.read_text()) if path.exists() and path.stat().st_size else None


def counters(url):
    """The server's counters, summed over cores."""
    found = {}
    with urllib.request.urlopen(url, timeout=20) as answer:
        for line in answer.read().decode().splitlines():
            if match := re.match(r"banter_(turns|sends|deliveries|bytes_sent|fell_behind)_total\{[^}]*\} (\d+)", line):
                found[match[1]] = found.get(match[1], 0) + int(match[2])
    print(json.dumps(found))


class Run:
    """One run of a job, with the floor that was measured right behind it."""

    def __init__(self, prefix):
        self.load = load(Path(f"{prefix}.load"))
        self.floors = [found for kind in ("floor", "floor-round") if (found := load(Path(f"{prefix}.{kind}")))]
        self.early, self.late = load(Path(f"{prefix}.early")), load(Path(f"{prefix}.late"))

    def counted(self, dividend, divisor):
        if not (self.early and self.late) or self.late[divisor] == self.early[divisor]:
            return None
        return (self.late[dividend] - self.early[dividend]) / (self.late[divisor] - self.early[divisor])

    def figures(self):
        """What is published of it; every name ends in its unit."""
        run = self.load
        if run["job"] == "idle":
            names = ("resident", "anonymous", "kernel_slab", "kernel_tcp")
            figures = {f"{name}_bytes": run[f"{name}_bytes_per_connection"] for name in names}
        else:
            figures = {
                "cpu_us": run["server_cpu_us_per_delivery"],
                "softirq_us": run["server_softirq_cpu_us_per_delivery"],
                "deliveries_per_s": run["deliveries_per_s"],
                "deliveries_per_core_s": run["deliveries_per_server_cpu_s"],
                "server_share": run["server_cpu_share"],
                "load_share": run["own_cpu_share"],
                "disturbed_share": max(run["server_disturbed_share"] or 0, run["own_disturbed_share"] or 0),
                "sends_per_turn": self.counted("sends", "turns"),
                "messages_per_send": self.counted("deliveries", "sends"),
                "p50_us": run["latency_us"]["delivered"]["p50"],
                "p99_us": run["latency_us"]["delivered"]["p99"],
            }
        if self.floors:
            # Softirq time moves between process and kernel thread with the batch, so the sum is what is compared.
            whole = lambda floor: floor["send_cpu_us"] + (floor["send_softirq_cpu_us"] or 0)
            figures["floor_us"] = min(map(whole, self.floors))
            figures["floor_process_us"] = min(floor["send_cpu_us"] for floor in self.floors)
            figures["to_floor"] = (figures["cpu_us"] + (figures.get("softirq_us") or 0)) / figures["floor_us"]
            figures["to_floor_like_batch"] = figures["cpu_us"] / self.floors[0]["send_cpu_us"]
        return {name: value for name, value in figures.items() if value is not None}

    def is_verified(self):
        return self.load["job"] == "idle" or self.load["verification"]["verified"]


def floor_arguments(prefix):
    """Bytes of a message's frame, and sends a submit, as the run had them."""
    run = Run(prefix)
    # Acknowledgements are among the frames: one for a hundred messages, two bytes in the mean.
    frame_bytes = run.load["bytes_in"] / run.load["frames"]
    print(round(frame_bytes), max(1, min(1000, round(run.counted("sends", "turns") or 100))))


def read_rounds(folder):
    """Job → its runs, in the order of the rounds."""
    found = {job: sorted(Path(folder).glob(f"*.{job}.load"), key=lambda path: int(path.name.split(".")[0])) for job in JOBS}
    return {job: [Run(str(path).removesuffix(".load")) for path in paths] for job, paths in found.items() if paths}


def read_rounds_of(module, folder):
    """The same of the jobs that have a module of their own."""
    by_round = lambda path: int(path.name.split(".")[0])
    found = {job: sorted(Path(folder).glob(f"*.{job}.load"), key=by_round) for job in module.JOBS}
    made = lambda path: module.Run(str(path).removesuffix(".load"))
    return {job: list(map(made, paths)) for job, paths in found.items() if paths}


def summarize(runs):
    """Figure → its median, least and greatest."""
    found = [run.figures() for run in runs]
    names = dict.fromkeys(name for figures in found for name in figures)
    values = {name: [figures[name] for figures in found if name in figures] for name in names}
    return {
        name: {"median": statistics.median(all_), "least": min(all_), "greatest": max(all_)}
        for name, all_ in values.items()
    }


def targets(summary):
    """What is aimed at, and whether it is reached: (what, value, limit, reached)."""
    median = lambda job, figure: summary.get(job, {}).get(figure, {}).get("median")
    found = []

    def at_most(what, value, limit):
        if value is not None and limit is not None:
            found.append({"target": what, "value": value, "limit": limit, "is_reached": value <= limit})

    at_most("fanout-1: CPU a delivery, softirq included, divided by the lower floor", median("fanout-1", "to_floor"), 1.3)
    floors = [value for value in (median("fanout-1", "floor_process_us"), median("fanout-16", "floor_process_us")) if value]
    floor_us = statistics.mean(floors) if floors else None
    limit = 0.40 * floor_us / FLOOR_OF_TARGET_US if floor_us else None
    at_most(f"fanout-16: CPU us a delivery (0.40 at a floor of {FLOOR_OF_TARGET_US})", median("fanout-16", "cpu_us"), limit)
    peaks = [(median(job, "deliveries_per_core_s"), job) for job in ("fanout-256", "fanout-1024", "fanout-10x100")]
    peaks = [(value, job) for value, job in peaks if value]
    if peaks:
        value, job = max(peaks)
        what = f"most deliveries a core-second ({job}), at least"
        found.append({"target": what, "value": value, "limit": 4e6, "is_reached": value >= 4e6})
    one, many = median("fanout-1", "cpu_us"), median("rooms-1000", "cpu_us")
    at_most("rooms-1000: CPU a delivery, divided by fanout-1's", many / one if one and many else None, 1.9)
    at_most("idle: resident bytes a connection", median("idle", "resident_bytes"), 800)
    return found + bench_hostile.targets(summary) + bench_disk.targets(summary) + bench_access.targets(summary) + bench_programs.targets(summary)


def host():
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "tcp_congestion_control": control,
        "disk": os.environ.get("DISK", "unknown"),
        "commit": os.environ.get("COMMIT", "unknown"),
        "server_command": os.environ.get("SERVER_COMMAND", ""),
        "load_command": os.environ.get("LOAD_COMMAND", ""),
    }


def cautions(jobs):
    """What a reader must know before believing a figure."""
    for job, runs in jobs.items():
        if not all(run.is_verified() for run in runs):
            described = [text for run in runs for text in run.load["verification"]["described"]]
            yield f"{job}: NOT VERIFIED: {'; '.join(described[:3])}"
    below = [job for job, runs in jobs.items() if job == "fanout-1"
             and any(run.figures().get("to_floor", 1) < 1 or run.figures().get("to_floor_like_batch", 1) < 1 for run in runs)]
    if below:
        yield ("fanout-1: a ratio is below 1: the floor program was no lower bound then, by noise or by its own pattern of "
               "waits; such a ratio proves nothing")
    for job, runs in jobs.items():
        carried = [found for run in runs if (found := run.figures().get("messages_per_send"))]
        if carried and max(carried) > 1.5 * min(carried):
            yield (f"{job}: from {min(carried):.1f} to {max(carried):.1f} messages a send in different rounds: the median "
                   "mixes regimes, look at the rounds (--json)")
    for name, why in (
        ("was_own_bottleneck", "the load generator's core was full, and fuller than the server's: CPU a delivery stands, "
                               "deliveries a second do not"),
        ("was_disturbed", "other programs took the server's or the load's CPU for more than 5 % of the time"),
    ):
        counts = {job: sum(run.load.get(name, False) for run in runs) for job, runs in jobs.items()}
        if any(counts.values()):
            found = ", ".join(f"{job} ({count} of {len(jobs[job])})" for job, count in counts.items() if count)
            yield f"{why}: {found}"


def all_cautions(jobs, others):
    return [*cautions(jobs), *(caution for module, found in others.items() for caution in module.cautions(found))]


def text(value):
    if value >= 10_000:
        return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def table(summary, jobs, others):
    """Lines for people."""
    for name, value in host().items():
        print(f"{name:<24}{value}")
    rounds = max(len(runs) for found in (jobs, *others.values()) for runs in found.values())
    print(f"{'rounds':<24}{rounds}; medians, with least and greatest in brackets")
    if jobs:
        memory_table(summary, jobs)
    bench_hostile.table(summary, text)
    bench_disk.table(summary, text)
    bench_log.table(others[bench_log], summary)
    bench_access.table(summary, text)
    bench_programs.table(summary, text)
    print()
    for found in targets(summary):
        word = "reached" if found["is_reached"] else "MISSED"
        print(f"{word:<9}{found['target']}: {text(found['value'])} (limit {text(found['limit'])})")
    for caution in all_cautions(jobs, others):
        print(f"CAUTION  {caution}")


def memory_table(summary, jobs):
    """A line a job that needs no disk."""
    columns = [
        ("cpu_us", "CPU us/delivery", True),
        ("softirq_us", "softirq", False),
        ("floor_us", "floor us", True),
        ("to_floor", "ratio", True),
        ("to_floor_like_batch", "like batch", False),
        ("deliveries_per_core_s", "a core-second", False),
        ("deliveries_per_s", "a second", False),
        ("messages_per_send", "msgs/send", False),
        ("sends_per_turn", "sends/turn", False),
        ("server_share", "server", False),
        ("load_share", "load", False),
        ("disturbed_share", "others", False),
    ]
    width = lambda heading, spread: 24 if spread else max(9, len(heading) + 2)
    print(f"\n{'job':<14}" + "".join(f"{heading:>{width(heading, spread)}}" for _, heading, spread in columns))
    for job in (job for job in jobs if job != "idle"):
        line = f"{job:<14}"
        for name, heading, spread in columns:
            cell = "-"
            if found := summary[job].get(name):
                cell = text(found["median"])
                if spread:
                    cell += f" [{text(found['least'])} .. {text(found['greatest'])}]"
            line += f"{cell:>{width(heading, spread)}}"
        print(line)
    if idle := summary.get("idle"):
        count = jobs["idle"][0].load["connections"]
        parts = (f"{name.removesuffix('_bytes')} {all_['median']:.0f} [{all_['least']:.0f} .. {all_['greatest']:.0f}]"
                 for name, all_ in idle.items())
        print(f"\nidle: {count} connections; bytes a connection: {', '.join(parts)}")
        print("      kernel memory is the whole host's: both ends of each connection, and whatever else ran")


def main():
    what, subject = sys.argv[1:3]
    if what == "counters":
        return counters(subject)
    if what == "floor-arguments":
        return floor_arguments(subject)
    if what == "written-bytes":
        return bench_disk.written_bytes(subject)
    if what == "posts-rate":
        return bench_disk.posts_rate(subject, sys.argv[3])
    jobs = read_rounds(subject)
    others = {module: read_rounds_of(module, subject) for module in (bench_hostile, bench_disk, bench_log, bench_access, bench_programs)}
    other_jobs = {job: runs for found in others.values() for job, runs in found.items()}
    all_jobs = jobs | other_jobs
    summary = {job: summarize(runs) for job, runs in all_jobs.items()}
    if what == "json":
        rounds = {job: [{"load": run.load, "floors": run.floors} for run in runs] for job, runs in jobs.items()}
        rounds |= {job: [run.raw() for run in runs] for job, runs in other_jobs.items()}
        whole = {"host": host(), "summary": summary, "targets": targets(summary), "cautions": all_cautions(jobs, others)}
        print(json.dumps({**whole, "rounds": rounds}, indent=1))
    else:
        table(summary, jobs, others)
    return 0 if all(run.is_verified() for runs in all_jobs.values() for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
