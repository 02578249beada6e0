"""The jobs of bench.sh that say what programs of rooms take, beside the same without them."""

from statistics import mean

import bench_parts
from bench_parts import cautions  # noqa: F401  # part of what a module of jobs has

# As bench.sh names them, in the order of the table.
JOBS = ["program-fanout", "program-rooms", "program-harm", "program-swap"]
# Deliveries a core-second with a program that passes, divided by those without.
FANOUT_RATIO_MIN = 0.9
# What a programmed room with four keys of state may take beyond the room, in bytes.
ROOM_MORE_BYTES_MAX = 1024
# p99 of a live room beside rooms whose programs harm, divided by that beside the same posts without programs.
HARM_RATIO_MAX = 1.2
# The longest turn of a server that swaps a program, in milliseconds.
SWAP_TURN_MAX_MS = 5


class Run(bench_parts.PartsRun):
    MAKERS = {"program-fanout": "fanout", "program-rooms": "rooms", "program-harm": "harm", "program-swap": "swap"}

    def fanout(self):
        of = lambda mode: mean(1e6 / self.parts[f"{mode}.{n}"]["server_cpu_us_per_delivery"] for n in (1, 2))
        none, passing = of("none"), of("pass")
        made = {"none_deliveries_per_core_s": none, "pass_deliveries_per_core_s": passing, "pass_ratio": passing / none}
        return made | {"disturbed_share": self.disturbed()}

    def rooms(self):
        of = lambda mode: self.parts[f"{mode}.1"]["resident_bytes_per_connection"]
        return {"none_bytes_per_room": of("none"), "state_bytes_per_room": of("state"), "more_bytes": of("state") - of("none")}

    def harm(self):
        of = lambda mode, which: mean(self.parts[f"{mode}.{n}"]["latency_us"]["delivered"][which] for n in (1, 2))
        made = {f"{mode}_{which}_us": of(mode, which) for mode in ("none", "hostile") for which in ("p50", "p99")}
        ratio = made["hostile_p99_us"] / made["none_p99_us"]
        return made | {"p99_ratio": ratio, "disturbed_share": self.disturbed()}

    def swap(self):
        return self.turns("swap")


def targets(summary):
    """What is aimed at, and whether it is reached."""
    found = []

    def aim(what, job, figure, limit, is_reached):
        if all_ := summary.get(job, {}).get(figure):
            value = all_["median"]
            found.append({"target": f"{job}: {what}", "value": value, "limit": limit, "is_reached": is_reached(value, limit)})

    at_most, at_least = lambda value, limit: value <= limit, lambda value, limit: value >= limit
    aim("deliveries a core-second with a program that passes, to those without, at least", "program-fanout", "pass_ratio", FANOUT_RATIO_MIN, at_least)
    aim("bytes that a programmed room with four keys takes more", "program-rooms", "more_bytes", ROOM_MORE_BYTES_MAX, at_most)
    aim("live p99 beside programs that harm, to that beside the same posts without", "program-harm", "p99_ratio", HARM_RATIO_MAX, at_most)
    aim("no turn of a swap is longer, in ms", "program-swap", "turns_within_ms", SWAP_TURN_MAX_MS, at_most)
    return found


def table(summary, text):
    bench_parts.table(JOBS, summary, text)
