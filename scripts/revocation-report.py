#!/usr/bin/env python3
"""Works out what revocation.sh measured: medians over rounds, with the least and the greatest."""

import json
import os
import platform
import statistics
import sys
from pathlib import Path

# From the answer to the closed socket, and live p99 meanwhile divided by that before: what is aimed at.
CLOSED_P99_US_MAX = 1e6
LIVE_RATIO_MAX = 1.5


def figures(run):
    """What is published of a round; every name ends in its unit, or is a ratio."""
    found = {}
    for whom in ("user", "range"):
        revoked = run[whom]
        found |= {
            f"{whom}_closed": revoked["closed"],
            f"{whom}_answered_us": revoked["answered_us"],
            f"{whom}_closed_p50_us": revoked["closed_us"]["p50"],
            f"{whom}_closed_p99_us": revoked["closed_us"]["p99"],
            f"{whom}_closed_max_us": revoked["closed_us"]["max"],
            f"{whom}_live_before_p99_us": revoked["live_before_us"]["p99"],
            f"{whom}_live_meanwhile_p99_us": revoked["live_meanwhile_us"]["p99"],
            f"{whom}_live_p99_ratio": revoked["live_p99_ratio"],
        }
    return found


def summarize(rounds):
    """Figure → its median, least and greatest."""
    found = [figures(run) for run in rounds]
    values = {name: [one[name] for one in found] for name in found[0]}
    return {name: {"median": statistics.median(all_), "least": min(all_), "greatest": max(all_)} for name, all_ in values.items()}


def targets(summary):
    """What is aimed at, and whether it is reached."""
    for whom in ("user", "range"):
        p99, ratio = (summary[f"{whom}_{name}"]["median"] for name in ("closed_p99_us", "live_p99_ratio"))
        yield {"target": f"{whom}: p99 from the 200 to the closed socket, us", "value": p99, "limit": CLOSED_P99_US_MAX,
               "is_reached": p99 < CLOSED_P99_US_MAX}
        yield {"target": f"{whom}: live p99 meanwhile, divided by that before", "value": ratio, "limit": LIVE_RATIO_MAX,
               "is_reached": ratio <= LIVE_RATIO_MAX}


def main():
    form, folder = sys.argv[1], Path(sys.argv[2])
    paths = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
    rounds = [json.loads(path.read_text()) for path in paths]
    for run, path in zip(rounds, paths):
        run["refused_after_kill"] = path.with_suffix(".again").read_text().strip() == "true"
    faults = [f"round {number}: {fault}" for number, run in enumerate(rounds, 1) for fault in run["faults"]]
    faults += [f"round {number}: after kill -9 the token was not refused"
               for number, run in enumerate(rounds, 1) if not run["refused_after_kill"]]
    summary, host = summarize(rounds), {"kernel": platform.release(), "cpus": os.cpu_count(), "commit": os.environ.get("COMMIT", "unknown")}
    if form == "json":
        whole = {"host": host, "connections": rounds[0]["connections"], "wire": rounds[0]["wire"], "summary": summary,
                 "targets": list(targets(summary)), "faults": faults, "holds": not faults, "rounds": rounds}
        return print(json.dumps(whole, indent=1))
    for name, value in host.items():
        print(f"{name:<32}{value}")
    print(f"{'connections':<32}{rounds[0]['connections']} ({rounds[0]['wire']})")
    print(f"{'rounds':<32}{len(rounds)}; medians, with least and greatest in brackets\n")
    for name, all_ in summary.items():
        print(f"{name:<32}{all_['median']:>12.2f} [{all_['least']:.2f} .. {all_['greatest']:.2f}]")
    for found in targets(summary):
        print(f"{'reached' if found['is_reached'] else 'MISSED':<9}{found['target']}: {found['value']:.2f} (limit {found['limit']:g})")
    for fault in faults:
        print(f"FAULT    {fault}")
    print("refused after kill -9" if all(run["refused_after_kill"] for run in rounds) else "NOT REFUSED after kill -9")


if __name__ == "__main__":
    main()
