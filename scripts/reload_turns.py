"""Reloads a server that holds connections, with other rights for everybody, or gives its rooms another text of their program, and says
how long its turns were meanwhile.

reload_turns.py API KEY_FILE CONFIG CONNECTIONS
reload_turns.py API KEY_FILE --program NAME FILE CONNECTIONS
"""

import json
import re
import sys
import time
import urllib.error
import urllib.request

# Given to everybody by the reload: every reading is judged anew.
RULE = '[[rooms]]\nmatch = "*"\nusers = ["history"]\n'
# The longest wait until all connections are there, and how long turns are watched behind the reload, in seconds.
THERE_MAX_S = 60
WATCHED_S = 2


def ask(path, method="GET"):
    asked = urllib.request.Request(f"http://{api}{path}", method=method, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        sys.exit(f"reload_turns.py: {path}: {error} {error.read().decode()}")


def metrics():
    """How many connections there are, and the turns of all cores that took at most so many seconds each."""
    text = ask("/v1/metrics")
    connections = sum(float(value) for value in re.findall(r"^banter_connections\{[^}]*\} (\S+)$", text, re.M))
    turns = {}
    for bound, count in re.findall(r'^banter_turn_seconds_bucket\{[^}]*le="([^"]+)"\} (\d+)$', text, re.M):
        turns[float(bound)] = turns.get(float(bound), 0) + int(count)
    return connections, turns


def between(before, after):
    """The turns between two looks: their number, and the least bound that all of them keep, in seconds."""
    counts = {bound: after[bound] - before[bound] for bound in sorted(after)}
    number = max(counts.values())
    return number, next(bound for bound, count in counts.items() if count == number)


api, key, wanted = sys.argv[1], open(sys.argv[2]).read().strip(), int(sys.argv[-1])
if sys.argv[3] == "--program":
    changed, more, path = sys.argv[5], "-- Another text.\n", f"/v1/programs/{sys.argv[4]}/load"
else:
    changed, more, path = sys.argv[3], RULE, "/v1/reload"
until = time.monotonic() + THERE_MAX_S
while metrics()[0] < wanted:
    if time.monotonic() > until:
        sys.exit(f"reload_turns.py: {wanted} connections did not come within {THERE_MAX_S} s")
    time.sleep(0.2)
# Their joins are behind them, too.
time.sleep(WATCHED_S)
_, before = metrics()
time.sleep(WATCHED_S)
connections, quiet = metrics()
with open(changed, "a") as file:
    file.write(more)
asked = time.monotonic()
answer = json.loads(ask(path, "POST"))
answered_ms = (time.monotonic() - asked) * 1_000
time.sleep(WATCHED_S)
still, after = metrics()
turns, within_s = between(quiet, after)
print(json.dumps({
    "connections": connections,
    "closed": connections - still,
    "answered_ms": answered_ms,
    "turns": turns,
    "turns_within_ms": within_s * 1_000,
    "quiet_turns_within_ms": between(before, quiet)[1] * 1_000,
    "answer": answer,
}))
