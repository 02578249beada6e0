"""How long a node takes to have the partitions of one that died, or stopped in order: claim, checkpoints, and the streams behind them.

bench_takeover.py BANTER WORK CONFIG ROOMS TIMES: CONFIG is that of a node but for what is its own; the cluster is made already.
"""

import http.client
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

BANTER, WORK, CONFIG, ROOMS, TIMES = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
ROOMS_A_REQUEST = 1_000
SERVES = re.compile(r"all partitions are its own, (\d+) ms and (\d+) messages")


class Node:
    def __init__(self, number):
        self.name, self.port = f"n{number}", 17_880 + number
        (WORK / self.name).mkdir(exist_ok=True)
        own = f'listen = "127.0.0.1:{self.port}"\ndata = "{WORK / self.name}"\ncores = [0]\n'
        cluster = f'node = "{self.name}"\naddresses = ["127.0.0.1:{self.port}"]\n'
        admin = f'[admin]\nsocket = "{WORK / self.name}.sock"\n'
        (WORK / f"{self.name}.toml").write_text(own + admin + CONFIG.read_text() + cluster)

    def start(self):
        self.log = (WORK / f"{self.name}.log").open("w")
        self.process = subprocess.Popen([BANTER, "--config", WORK / f"{self.name}.toml"], stderr=self.log, stdout=self.log)

    def asks(self, method, path, body=None):
        connection = http.client.HTTPConnection("banter", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(WORK / f"{self.name}.sock"))
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def readiness(self):
        try:
            return self.asks("GET", "/readyz")[1]
        except OSError:
            return "unreachable"

    def waits_until(self, begins_with):
        until = time.monotonic() + 120
        while not self.readiness().startswith(begins_with):
            if time.monotonic() > until or self.process.poll() is not None:
                sys.exit(f"{self.name} is not {begins_with}: {(WORK / f'{self.name}.log').read_text()[-2000:]}")
            time.sleep(0.005)

    def took(self):
        found = SERVES.findall((WORK / f"{self.name}.log").read_text())
        return tuple(map(int, found[-1]))


def fill(node):
    for first in range(0, ROOMS, ROOMS_A_REQUEST):
        rooms = [f"room-{number}" for number in range(first, min(ROOMS, first + ROOMS_A_REQUEST))]
        body = json.dumps({"rooms": rooms, "user": "ops", "body": "x" * 100})
        status, answer = node.asks("POST", "/v1/broadcast", body)
        lines = [json.loads(line) for line in answer.splitlines()]
        if status != 200 or any(line.get("type") != "posted" for line in lines):
            sys.exit(f"a broadcast was not taken whole: {status} {answer[:500]}")
        if sys.stderr.isatty():
            print(f"\r{first + len(rooms):,} of {ROOMS:,} rooms", end="", file=sys.stderr)


def tell(what, values, unit):
    print(f"  {what:<58} {statistics.median(values):>10,.0f} {unit:<9} ({min(values):,.0f}-{max(values):,.0f})")


owner, heir = Node(1), Node(2)
owner.start()
owner.waits_until("ready")
fill(owner)
heir.start()
heir.waits_until("standby")
for what, number in (("killed (kill -9)", signal.SIGKILL), ("stopped in order (SIGTERM)", signal.SIGTERM)):
    waits, tooks, reads = [], [], []
    for _ in range(TIMES):
        # Members are heard twice a second.
        time.sleep(3)
        began = time.monotonic()
        owner.process.send_signal(number)
        heir.waits_until("ready")
        waits.append((time.monotonic() - began) * 1_000)
        took_ms, read = heir.took()
        tooks.append(took_ms)
        reads.append(read)
        owner.process.wait()
        owner.start()
        owner.waits_until("standby")
        owner, heir = heir, owner
    print(f"{ROOMS:,} rooms; the node that serves is {what}, {TIMES} times")
    tell("until the other one is ready", waits, "ms")
    tell("of it: claims, checkpoints, and what the streams have behind", tooks, "ms")
    tell("messages of the engine that were read", reads, "")
for node in (owner, heir):
    node.process.terminate()
    node.process.wait()
