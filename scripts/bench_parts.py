"""What the jobs of bench.sh share whose rounds are made of several runs, each a part with a name."""

import json
from pathlib import Path


class PartsRun:
    """One round of a job: its parts by name. `MAKERS` says by job which method makes its figures."""

    MAKERS = {}

    def __init__(self, prefix):
        self.job = prefix.rsplit(".", 1)[1]
        found = sorted(Path(prefix).parent.glob(f"{Path(prefix).name}.*.part"))
        name = lambda path: path.name.removeprefix(f"{Path(prefix).name}.").removesuffix(".part")
        self.parts = {name(path): json.loads(path.read_text()) for path in found}

    def figures(self):
        """What is published of it; every name ends in its unit, or is a ratio."""
        return {name: value for name, value in getattr(self, self.MAKERS[self.job])().items() if value is not None}

    def turns(self, part):
        """What reload_turns.py found."""
        names = ("connections", "closed", "answered_ms", "turns", "turns_within_ms", "quiet_turns_within_ms")
        return {name: self.parts[part][name] for name in names}

    def disturbed(self):
        shares = ("server_disturbed_share", "own_disturbed_share")
        return max(part.get(name) or 0 for part in self.parts.values() for name in shares)

    def verifications(self):
        return [part["verification"] for part in self.parts.values() if "verification" in part]

    def is_verified(self):
        return all(found["verified"] for found in self.verifications())

    def raw(self):
        return {"parts": self.parts}


def cautions(jobs):
    """What a reader must know before believing a figure."""
    for job, runs in jobs.items():
        if not all(run.is_verified() for run in runs):
            described = [text for run in runs for found in run.verifications() for text in found["described"]]
            yield f"{job}: NOT VERIFIED: {'; '.join(described[:3])}"
        for name, why in (("was_own_bottleneck", "the load generator's core was full, and fuller than the server's"),
                          ("was_disturbed", "other programs took the CPUs for more than 5 % of the time")):
            parts = [part for run in runs for part in run.parts.values()]
            count = sum(part.get(name, False) for part in parts)
            if count:
                yield f"{job}: {why} ({count} of {len(parts)} parts)"


def table(jobs, summary, text):
    """Lines for people, one a figure."""
    for job in (job for job in jobs if job in summary):
        print(f"\n{job}")
        for name, all_ in summary[job].items():
            print(f"  {name:<30}{text(all_['median']):>10} [{text(all_['least'])} .. {text(all_['greatest'])}]")
