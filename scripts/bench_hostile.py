"""The job of bench.sh with hostile connections: what honest ones feel of each kind, and what memory they cost."""

import json
from pathlib import Path

JOBS = ["hostile"]
# An honest client may feel an attack, but no more than so many times what it feels alone.
RATIO_MAX = 2
COLUMNS = [
    ("message_p50_alone_us", "message p50"),
    ("message_p50_us", "beside"),
    ("message_p99_alone_us", "p99"),
    ("message_p99_us", "beside"),
    ("ping_p50_alone_us", "ping p50"),
    ("ping_p50_us", "beside"),
    ("ping_p99_alone_us", "p99"),
    ("ping_p99_us", "beside"),
    ("ping_p99_ratio", "ratio"),
    ("server_share", "server"),
    ("resident_before_bytes", "RSS, B"),
    ("resident_largest_bytes", "largest"),
    ("resident_bytes_per_attacker", "B/attacker"),
]


class Run:
    """One round."""

    def __init__(self, prefix):
        self.load = json.loads(Path(f"{prefix}.load").read_text())

    def figures(self):
        """"KIND FIGURE" → its value; every figure ends in its unit, or is a ratio."""
        made = {f"{kind['kind']} {name}": value for kind in self.kinds() for name, value in figures_of(kind).items()}
        if memory := self.load["memory"]:
            made["memory growth_bytes"] = memory["resident_growth_bytes"]
            made["memory bound_connections_bytes"] = memory["bound"]["connections_bytes"]
            made["memory bound_sum_bytes"] = memory["bound"]["sum_bytes"]
        return {name: value for name, value in made.items() if value is not None}

    def kinds(self):
        memory = self.load["memory"]
        return self.load["kinds"] + ([memory["attack"]] if memory else [])

    def is_verified(self):
        return self.load["verification"]["verified"]

    def raw(self):
        return {"load": self.load}


def figures_of(kind):
    alone, beside = kind["alone_us"], kind["beside_us"]
    felt = {}
    for name in ("message", "ping"):
        for quantile in ("p50", "p99"):
            felt[f"{name}_{quantile}_alone_us"] = alone[name][quantile]
            felt[f"{name}_{quantile}_us"] = beside[name][quantile]
            felt[f"{name}_{quantile}_ratio"] = kind[f"{name}_{quantile}_ratio"]
    resident = ("resident_before_bytes", "resident_largest_bytes", "resident_bytes_per_attacker")
    shares = {"server_share": kind["server_cpu_share"], "load_share": kind["own_cpu_share"]}
    return felt | shares | {name: kind[name] for name in resident}


def targets(summary):
    """What is aimed at, and whether it is reached."""
    figures = summary.get("hostile", {})
    found = []

    def at_most(what, value, limit):
        found.append({"target": f"hostile: {what}", "value": value, "limit": limit, "is_reached": value <= limit})

    for name, all_ in figures.items():
        if name.endswith(" ping_p99_ratio") and not name.startswith("mixed "):
            at_most(f"{name.split()[0]}: p99 of an honest ping, beside to alone", all_["median"], RATIO_MAX)
    if growth := figures.get("memory growth_bytes"):
        bound = figures["memory bound_sum_bytes"]["median"]
        at_most("bytes that the server grew by, and the sum of its limits", growth["greatest"], bound)
    return found


def cautions(jobs):
    """What a reader must know before believing a figure."""
    for job, runs in jobs.items():
        for run in (run for run in runs if not run.is_verified()):
            yield f"{job}: NOT VERIFIED: {'; '.join(run.load['verification']['described'][:3])}"
        asked = runs[0].load["large_room_members_asked"]
        if any(kind["kind"] == "large-room" and kind["members"] < asked for kind in runs[0].kinds()):
            yield f"{job}: the large room had less than {asked} members, for want of descriptors"
        for name, why in (("was_own_bottleneck", "the load generator's core was full, and fuller than the server's"),
                          ("was_disturbed", "other programs took the CPUs for more than 5 % of the time")):
            kinds = [kind["kind"] for run in runs for kind in run.kinds() if kind[name]]
            if kinds:
                yield f"{job}: {why} ({', '.join(f'{kind} {kinds.count(kind)}x' for kind in dict.fromkeys(kinds))})"


def table(summary, text):
    """A line a kind: medians."""
    figures = summary.get("hostile")
    if not figures:
        return
    median = lambda name: figures[name]["median"] if name in figures else None
    cell = lambda value: "-" if value is None else text(value)
    print(f"\n{'hostile':<14}" + "".join(f"{heading:>12}" for _, heading in COLUMNS))
    for kind in dict.fromkeys(name.split()[0] for name in figures if not name.startswith("memory ")):
        print(f"{kind:<14}" + "".join(f"{cell(median(f'{kind} {name}')):>12}" for name, _ in COLUMNS))
    if growth := median("memory growth_bytes"):
        connections, whole = median("memory bound_connections_bytes"), median("memory bound_sum_bytes")
        print(f"mixed: {text(growth)} bytes more; the limits add up to {text(connections)} for the connections, "
              f"{text(whole)} with the core's own")
