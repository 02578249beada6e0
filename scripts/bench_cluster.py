"""What bench-cluster.sh measured, as a table: medians of the rounds, and the ratios that are asked for."""

import json
import statistics
import sys
from pathlib import Path

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
TICK_US = 10_000


def read(number, name):
    return json.loads((folder / f"round-{number}.{name}.json").read_text())


def median(values):
    values = list(values)
    spread = f"{min(values):,.2f}-{max(values):,.2f}" if len(values) > 1 else "one round"
    return statistics.median(values), spread


def core_us_a_post(number, name):
    ticks = int((folder / f"round-{number}.{name}.ticks").read_text())
    load = read(number, name)
    # The ticks are of the warm-up too, and posts are told of what was measured alone.
    seconds = load["window_s"] + load["warmup_s"]
    return ticks * TICK_US / (load["posts_per_s"] * seconds)


def log_bytes_a_second(number, name):
    return read(number, name)["posts_per_s"] * float((folder / f"round-{number}.{name}.bytes").read_text())


def line(what, values, unit=""):
    middle, spread = median(values)
    print(f"{what:<74} {middle:>12,.2f} {unit:<10} ({spread})")


every = range(1, rounds + 1)
for shape in ("4096-1", "65536-1", "65536-4"):
    line(f"bare appends, {shape.replace('-', ' bytes, in flight ')}: MB/s", (read(n, f"append-{shape}")["megabytes_per_second"] for n in every), "MB/s")
line("a bare append of 4,096 bytes, p50", (read(n, "append-4096-1")["p50_us"] for n in every), "us")
line("a lone post, p50 until it is acknowledged, in a cluster", (read(n, "cluster-lone")["latency_us"]["acknowledged"]["p50"] for n in every), "us")
line("  ratio to the bare append", (read(n, "cluster-lone")["latency_us"]["acknowledged"]["p50"] / read(n, "append-4096-1")["p50_us"] for n in every))
line("  the same post on a server with a log of its own", (read(n, "local-lone")["latency_us"]["acknowledged"]["p50"] for n in every), "us")
for job in ("one-room", "rooms"):
    line(f"{job}: posts a second, in a cluster", (read(n, f"cluster-{job}")["posts_per_s"] for n in every))
line("rooms: posts a second, local", (read(n, "local-rooms")["posts_per_s"] for n in every))
line("one-room: log bytes a second", (log_bytes_a_second(n, "cluster-one-room") / 1e6 for n in every), "MB/s")
line("  ratio to bare appends of 64 KiB, four in flight", (log_bytes_a_second(n, "cluster-one-room") / 1e6 / read(n, "append-65536-4")["megabytes_per_second"] for n in every))
for job in ("lone", "rooms"):
    line(f"{job}: CPU of the core a post, in a cluster", (core_us_a_post(n, f"cluster-{job}") for n in every), "us")
    line(f"{job}: CPU of the core a post, local", (core_us_a_post(n, f"local-{job}") for n in every), "us")
    line("  ratio", (core_us_a_post(n, f"cluster-{job}") / core_us_a_post(n, f"local-{job}") for n in every))
