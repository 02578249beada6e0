"""The jobs of bench.sh that say what the log takes of memory, disk and readings."""

import json
from pathlib import Path

# As bench.sh names them, in the order of the table.
JOBS = ["start-rooms", "restore", "log-bytes", "page-cost"]


def load(path):
    return json.loads(path.read_text()) if path.exists() and path.stat().st_size else None


class Run:
    """One round of a job."""

    def __init__(self, prefix):
        self.job = prefix.rsplit(".", 1)[1]
        self.load = load(Path(f"{prefix}.load"))
        # What was posted for it, where something was.
        self.posts = load(Path(f"{prefix}.posts.load"))

    def figures(self):
        """What is published of it; every name ends in its unit, or is a ratio."""
        return {
            "start-rooms": self.start_rooms,
            "restore": self.restore,
            "log-bytes": self.log_bytes,
            "page-cost": self.page_cost,
        }[self.job]()

    def start_rooms(self):
        made = {"empty_rss_mib": self.load["empty_rss_kib"] / 1024}
        for run in self.load["runs"]:
            for name in ("start_s", "log_s", "checkpoint_start_s", "rss_bytes_per_room"):
                made[f"{run['rooms']}_rooms_{name}"] = run[name]
        return made

    def restore(self):
        run = self.load
        mb = run["segments"] * run["segment_mib"] * 1.048576
        return {
            "restored_gb": mb / 1000,
            "start_s": run["start_s"],
            "read_mb_per_s": mb / run["start_s"],
            "memory_limit_mib": run["memory_limit_mib"],
            "peak_rss_mib": run["peak_rss_kib"] / 1024,
            "group_peak_mib": run["group_peak_bytes"] / 2**20,
            "progress_lines": run["progress_lines"],
        }

    def log_bytes(self):
        run = self.load
        return {
            "records": run["records"],
            "records_per_block": run["records"] / run["blocks"],
            "log_bytes_per_message": run["bytes"] / run["records"],
            "index_bytes_per_message": run["index_bytes"] / run["records"],
            "index_to_log": run["index_bytes"] / run["bytes"],
            "message_to_body": (run["bytes"] + run["index_bytes"]) / run["records"] / self.posts["payload_bytes"],
        }

    def page_cost(self):
        made = {}
        for kind in ("busy", "sparse"):
            run = self.load[kind]
            made[f"{kind}_log_bytes_per_page_byte"] = run["log_bytes_per_page_byte"]
            made[f"{kind}_log_bytes_per_message"] = run["log_bytes_per_message"]
            made[f"{kind}_messages_per_page"] = run["messages"] / max(1, run["pages"])
            made[f"{kind}_messages_per_s"] = run["messages"] / run["seconds"]
        return made

    def is_verified(self):
        return self.posts is None or self.posts["verification"]["verified"]

    def raw(self):
        return {"load": self.load, "posts": self.posts}


def cautions(jobs):
    """What a reader must know before believing a figure."""
    for job, runs in jobs.items():
        if not all(run.is_verified() for run in runs):
            described = [text for run in runs if run.posts for text in run.posts["verification"]["described"]]
            yield f"{job}: NOT VERIFIED: {'; '.join(described[:3])}"
    for run in jobs.get("restore", []):
        if run.load["memory_limit_mib"] == 0:
            yield "restore: there was no limit of memory"
        if run.load["progress_lines"] == 0 and run.load["start_s"] > 4:
            yield f"restore: it took {run.load['start_s']:.0f} s and did not say how far it was"


def table(jobs, summary):
    """A line for people for each job, and one a figure."""
    for job in (job for job in JOBS if job in jobs):
        print(f"\n{job}")
        for name, all_ in summary[job].items():
            print(f"  {name:<38}{number(all_['median']):>12} [{number(all_['least'])} .. {number(all_['greatest'])}]")


def number(value):
    """Not shortened: these are counted, and few."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.1f}" if value >= 100 else f"{value:.3f}"
