"""The jobs of bench.sh that say what tokens, rights and the interface for backends take, beside the same without them."""

import json
from pathlib import Path
from statistics import mean

# As bench.sh names them, in the order of the table.
JOBS = ["access-idle", "access-fanout", "access-storm", "access-api", "access-reload"]
# What a connection that proved who it is may cost more, in bytes.
IDLE_MORE_BYTES_MAX = 200
# What posts and deliveries with rights may cost, and the live p99 of a storm with tokens, divided by those without.
FANOUT_RATIO_MAX = 1.02
STORM_RATIO_MAX = 1.5
# The longest turn of a server that reloads, in milliseconds.
RELOAD_TURN_MAX_MS = 5


class Run:
    """One round of a job: its parts by name."""

    def __init__(self, prefix):
        self.job = prefix.rsplit(".", 1)[1]
        found = sorted(Path(prefix).parent.glob(f"{Path(prefix).name}.*.part"))
        name = lambda path: path.name.removeprefix(f"{Path(prefix).name}.").removesuffix(".part")
        self.parts = {name(path): json.loads(path.read_text()) for path in found}

    def figures(self):
        """What is published of it; every name ends in its unit, or is a ratio."""
        made = {
            "access-idle": self.idle,
            "access-fanout": self.fanout,
            "access-storm": self.storm,
            "access-api": self.api,
            "access-reload": self.reload,
        }[self.job]()
        return {name: value for name, value in made.items() if value is not None}

    def idle(self):
        made = {}
        for kind in ("resident", "anonymous"):
            open_, token = (self.parts[f"idle.{mode}"][f"{kind}_bytes_per_connection"] for mode in ("open", "token"))
            made |= {f"{kind}_open_bytes": open_, f"{kind}_token_bytes": token, f"{kind}_more_bytes": token - open_}
        return made

    def fanout(self):
        made = {}
        for what in ("deliveries", "posts"):
            cpu = lambda mode: mean(self.parts[f"{what}.{mode}.{n}"]["server_cpu_us_per_delivery"] for n in (1, 2))
            open_, token = cpu("open"), cpu("token")
            made |= {f"{what}_open_cpu_us": open_, f"{what}_token_cpu_us": token, f"{what}_ratio": token / open_}
        return made | {"disturbed_share": self.disturbed()}

    def storm(self):
        made = {}
        for time in ("first", "again"):
            open_, token = self.parts[f"{time}.open"], self.parts[f"{time}.token"]
            p99 = lambda run: run["live_during_us"]["delivered"]["p99"]
            made |= {
                f"{time}_open_storm_s": open_["storm_s"],
                f"{time}_token_storm_s": token["storm_s"],
                f"{time}_open_before_p99_us": open_["live_before_us"]["delivered"]["p99"],
                f"{time}_open_live_p99_us": p99(open_),
                f"{time}_token_live_p99_us": p99(token),
                f"{time}_live_p99_ratio": p99(token) / p99(open_),
            }
        return made | {"disturbed_share": self.disturbed()}

    def api(self):
        api, native = self.parts["api"], self.parts["native.token"]
        return {
            "api_posts_per_s": api["posts_per_s"],
            "native_posts_per_s": native["posts_per_s"],
            "api_cpu_us_per_post": api["server_cpu_us_per_post"],
            "native_cpu_us_per_post": native["server_cpu_us_per_delivery"],
            "cpu_ratio": api["server_cpu_us_per_post"] / native["server_cpu_us_per_delivery"],
            "api_answered_p50_us": api["answered_us"]["p50"],
            "api_answered_p99_us": api["answered_us"]["p99"],
            "native_acknowledged_p50_us": native["latency_us"]["acknowledged"]["p50"],
            "native_acknowledged_p99_us": native["latency_us"]["acknowledged"]["p99"],
            "api_load_share": api["own_cpu_share"],
            "native_load_share": native["own_cpu_share"],
        }

    def reload(self):
        found = self.parts["reload"]
        names = ("connections", "closed", "answered_ms", "turns", "turns_within_ms", "quiet_turns_within_ms")
        return {name: found[name] for name in names}

    def disturbed(self):
        shares = ("server_disturbed_share", "own_disturbed_share")
        return max(part.get(name) or 0 for part in self.parts.values() for name in shares)

    def verifications(self):
        return [part["verification"] for part in self.parts.values() if "verification" in part]

    def is_verified(self):
        return all(found["verified"] for found in self.verifications())

    def raw(self):
        return {"parts": self.parts}


def targets(summary):
    """What is aimed at, and whether it is reached."""
    found = []

    def at_most(what, job, figure, limit):
        if all_ := summary.get(job, {}).get(figure):
            value = all_["median"]
            found.append({"target": f"{job}: {what}", "value": value, "limit": limit, "is_reached": value <= limit})

    at_most("bytes of the server that a proved connection takes more", "access-idle", "resident_more_bytes", IDLE_MORE_BYTES_MAX)
    at_most("CPU a delivery with rights, to that without", "access-fanout", "deliveries_ratio", FANOUT_RATIO_MAX)
    at_most("CPU a post with rights, to that without", "access-fanout", "posts_ratio", FANOUT_RATIO_MAX)
    at_most("live p99, tokens for the first time, to that without", "access-storm", "first_live_p99_ratio", STORM_RATIO_MAX)
    at_most("live p99, tokens that come again, to that without", "access-storm", "again_live_p99_ratio", STORM_RATIO_MAX)
    at_most("no turn of a reload is longer, in ms", "access-reload", "turns_within_ms", RELOAD_TURN_MAX_MS)
    return found


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


def table(summary, text):
    """Lines for people, one a figure."""
    for job in (job for job in JOBS if job in summary):
        print(f"\n{job}")
        for name, all_ in summary[job].items():
            print(f"  {name:<30}{text(all_['median']):>10} [{text(all_['least'])} .. {text(all_['greatest'])}]")
