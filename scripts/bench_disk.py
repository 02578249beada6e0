"""The jobs of bench.sh that need a disk: what is published of each run, beside what the disk did by itself in that round."""

import json
from pathlib import Path

# As bench.sh names them, in the order of the table.
JOBS = ["synced-throughput", "ack-light", "ack-latency", "resume-storm", "restart"]
# What a start on 10 GB of sealed history may take.
SEALED_START_S_MAX = 2


def load(path):
    return json.loads(path.read_text()) if path.exists() and path.stat().st_size else None


class Run:
    """One round of a job."""

    def __init__(self, prefix):
        self.job = prefix.rsplit(".", 1)[1]
        self.load = load(Path(f"{prefix}.load"))
        self.memory = load(Path(f"{prefix}.memory.load"))
        self.reach = load(Path(f"{prefix}.reach.load"))
        self.disk = load(Path(f"{prefix}.disk"))

    def figures(self):
        """What is published of it; every name ends in its unit, or is a ratio."""
        made = {
            "synced-throughput": self.throughput,
            "ack-light": self.ack_latency,
            "ack-latency": self.ack_latency,
            "resume-storm": self.resume_storm,
            "restart": self.restart,
        }[self.job]()
        return {name: value for name, value in made.items() if value is not None}

    def throughput(self):
        run, memory = self.load, self.memory
        acknowledged_per_s = run["acknowledged"] / run["window_s"]
        synced, unlogged = run["deliveries_per_server_cpu_s"], memory["deliveries_per_server_cpu_s"]
        return {
            "memory_deliveries_per_core_s": unlogged,
            "synced_deliveries_per_core_s": synced,
            "synced_to_memory": synced / unlogged,
            "memory_acknowledged_per_s": memory["acknowledged"] / memory["window_s"],
            "synced_acknowledged_per_s": acknowledged_per_s,
            "disk_one_at_a_time_per_s": self.disk["blocks_per_s"],
            "acknowledged_to_disk": acknowledged_per_s / self.disk["blocks_per_s"],
            "disturbed_share": disturbed(run, memory),
        }

    def ack_latency(self):
        found, disk = self.load["latency_us"]["acknowledged"], self.disk["durable_us"]
        memory = self.memory["latency_us"]["acknowledged"]
        return {
            "reached_posts_per_s": self.reach and self.reach["posts_per_s"],
            "rate_posts_per_s": self.load["rate_posts_per_s"],
            "ack_p50_us": found["p50"],
            "ack_p99_us": found["p99"],
            "ack_p999_us": found["p999"],
            "disk_p50_us": disk["p50"],
            "disk_p99_us": disk["p99"],
            "disk_p999_us": disk["p999"],
            "memory_ack_p50_us": memory["p50"],
            "memory_ack_p99_us": memory["p99"],
            "p50_to_disk": found["p50"] / disk["p50"],
            "p99_to_disk": found["p99"] / disk["p99"],
            "p50_over_memory_to_disk": (found["p50"] - memory["p50"]) / disk["p50"],
            "p99_over_memory_to_disk": (found["p99"] - memory["p99"]) / disk["p99"],
            "server_share": self.load["server_cpu_share"],
            "disturbed_share": disturbed(self.load, self.memory),
        }

    def resume_storm(self):
        run = self.load
        before, during = run["live_before_us"]["delivered"], run["live_during_us"]["delivered"]
        return {
            "storm_s": run["storm_s"],
            "messages_per_s": run["deliveries_per_s"],
            "server_cpu_us_per_message": run["server_cpu_us_per_delivery"],
            "live_before_p50_us": before["p50"],
            "live_during_p50_us": during["p50"],
            "live_before_p99_us": before["p99"],
            "live_during_p99_us": during["p99"],
            "p50_during_to_before": run["delivered_p50_ratio"],
            "p99_during_to_before": run["delivered_p99_ratio"],
            "own_look_away_p99_us": run["own_look_away_us"]["p99"],
            "disturbed_share": disturbed(run),
        }

    def restart(self):
        run = self.load
        tail_mb_per_s = run["tail_bytes"] / 1e6 / run["tail_s"]
        # The faster way of reading is what the disk can do.
        disk = max(self.disk["cold"]["mb_per_s"], self.disk["direct"]["mb_per_s"])
        return {
            "empty_s": run["empty_s"],
            "tail_s": run["tail_s"],
            "tail_mb": run["tail_bytes"] / 1e6,
            "tail_mb_per_s": tail_mb_per_s,
            "disk_read_mb_per_s": disk,
            "tail_to_disk": tail_mb_per_s / disk,
            "sealed_gb": run["sealed_bytes"] / 1e9,
            "sealed_s": run["sealed_s"],
        }

    def is_verified(self):
        runs = [run for run in (self.load, self.memory) if run and "verification" in run]
        return all(run["verification"]["verified"] for run in runs)

    def faults(self):
        runs = [run for run in (self.load, self.memory) if run and "verification" in run]
        return [text for run in runs for text in run["verification"]["described"]]

    def raw(self):
        return {"load": self.load, "memory": self.memory, "reach": self.reach, "disk": self.disk}


def disturbed(*runs):
    return max(run[name] or 0 for run in runs for name in ("server_disturbed_share", "own_disturbed_share"))


def posts_rate(prefix, share):
    """A share of the posts a second that a run reached."""
    run = load(Path(f"{prefix}.load"))
    print(max(1, round(run["posts_per_s"] * float(share))))


def written_bytes(folder):
    """Bytes of a folder's segments up to the last one that is not zero: the rest was made ahead and holds nothing."""
    print(sum(map(end_of_data, Path(folder).rglob("segment-*.log"))))


def end_of_data(path, step=1 << 20):
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - step)
            file.seek(start)
            if kept := file.read(end - start).rstrip(b"\0"):
                return start + len(kept)
            end = start
    return 0


def targets(summary):
    """What is aimed at, and whether it is reached."""
    found = summary.get("restart", {}).get("sealed_s")
    if not found:
        return []
    value, limit = found["median"], SEALED_START_S_MAX
    return [{"target": "restart: seconds with sealed history", "value": value, "limit": limit, "is_reached": value <= limit}]


def cautions(jobs):
    """What a reader must know before believing a figure."""
    for job, runs in jobs.items():
        if not all(run.is_verified() for run in runs):
            yield f"{job}: NOT VERIFIED: {'; '.join([text for run in runs for text in run.faults()][:3])}"
        for name, why in (("was_own_bottleneck", "the load generator's core was full, and fuller than the server's"),
                          ("was_disturbed", "other programs took the CPUs for more than 5 % of the time")):
            count = sum(run.load.get(name, False) for run in runs)
            if count:
                yield f"{job}: {why} ({count} of {len(runs)} rounds)"
    for run in jobs.get("restart", []):
        if run.load["sealed_bytes"] < 10e9:
            yield f"restart: the sealed history has {run.load['sealed_bytes'] / 1e9:.1f} GB only; the aim is for 10"
            break


def table(summary, text):
    """Lines for people, one a figure."""
    for job in (job for job in JOBS if job in summary):
        print(f"\n{job}")
        for name, all_ in summary[job].items():
            print(f"  {name:<30}{text(all_['median']):>10} [{text(all_['least'])} .. {text(all_['greatest'])}]")
