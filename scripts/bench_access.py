"""The jobs of bench.sh that say what tokens, rights and the interface for backends take, beside the same without them."""

from statistics import mean

import bench_parts
from bench_parts import cautions  # noqa: F401  # part of what a module of jobs has

# As bench.sh names them, in the order of the table.
JOBS = ["access-idle", "access-fanout", "access-storm", "access-api", "access-reload"]
# What a connection that proved who it is may cost more, in bytes.
IDLE_MORE_BYTES_MAX = 200
# What posts and deliveries with rights may cost, and the live p99 of a storm with tokens, divided by those without.
FANOUT_RATIO_MAX = 1.02
STORM_RATIO_MAX = 1.5
# The longest turn of a server that reloads, in milliseconds.
RELOAD_TURN_MAX_MS = 5


class Run(bench_parts.PartsRun):
    MAKERS = {
        "access-idle": "idle",
        "access-fanout": "fanout",
        "access-storm": "storm",
        "access-api": "api",
        "access-reload": "reload",
    }

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
        return self.turns("reload")


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


def table(summary, text):
    bench_parts.table(JOBS, summary, text)
