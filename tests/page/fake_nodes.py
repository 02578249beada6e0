"""Nodes of a cluster in a few lines: each serves the page and a WebSocket, and the one that owns the room answers in it.

They know as much of the protocol as the page's checks need, and do on demand what a real cluster does only in trouble.
"""

import base64
import hashlib
import json
import socket
import struct
import threading
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "server/page/index.html"
EPOCH = 5
RETRY_AFTER_MS = 200
TEXT, CLOSE, PING = 1, 8, 9


class Room:
    """A room's history, wherever it is owned."""

    def __init__(self):
        self.messages, self.readers = [], set()

    def post(self, user, key, body):
        """The place of a post, and whether it had arrived before."""
        for message in self.messages:
            if message.get("key") == key:
                return message["sequence"], True
        sequence = len(self.messages) + 1
        message = {"type": "message", "room": "lobby", "epoch": EPOCH, "sequence": sequence, "time_ms": 1}
        self.messages.append({**message, "user": user, "key": key, "body": body})
        for reader in list(self.readers):
            reader.send(self.messages[-1])
        return sequence, False


class Connection:
    def __init__(self, node, wire):
        self.node, self.wire, self.user = node, wire, None

    def run(self):
        head = b""
        while b"\r\n\r\n" not in head:
            if not (part := self.wire.recv(4096)):
                return
            head += part
        if b"Upgrade: websocket" not in head:
            page = PAGE.read_bytes()
            kind = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n"
            return self.wire.sendall(kind + b"Content-Length: %d\r\n\r\n" % len(page) + page)
        key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.wire.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: banter.json.v1\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        while (request := self.read()) is not None:
            with self.node.cluster.lock:
                self.answer(request)

    def exactly(self, count):
        got = b""
        while len(got) < count:
            if not (part := self.wire.recv(count - len(got))):
                raise ConnectionError
            got += part
        return got

    def read(self):
        """The next request; none: the page closed."""
        while True:
            kind, length = self.exactly(2)
            length &= 0x7F
            if length == 126:
                length = struct.unpack(">H", self.exactly(2))[0]
            mask = self.exactly(4)
            payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(self.exactly(length)))
            if kind & 0x0F == CLOSE:
                return None
            if kind & 0x0F == TEXT:
                return json.loads(payload)

    def frame(self, kind, payload):
        length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack(">H", len(payload))
        try:
            self.wire.sendall(bytes([0x80 | kind]) + length + payload)
        except OSError:
            pass  # It is gone, and its own thread will see that.

    def send(self, event):
        self.frame(TEXT, json.dumps(event).encode())

    def refuse(self, id):
        about = {} if id is None else {"id": id}
        self.send({"type": "error", **about, "code": "unavailable", "message": "no", "retry_after_ms": RETRY_AFTER_MS})

    def send_away(self, id=None):
        self.send({"type": "nodes", "nodes": self.node.nodes})
        self.refuse(id)
        self.frame(CLOSE, struct.pack(">H", 1013) + b"unavailable")

    def answer(self, request):
        id, node, room = request.get("id"), self.node, self.node.cluster.room
        kind = request["type"]
        if kind == "hello":
            node.hellos.append(request)
        if not node.serves:
            return self.send_away(id)
        if kind == "hello":
            self.user = request.get("user", "eve")
            limits = {"frame_bytes_max": 65536, "idle_timeout_ms": 60000, "presence_members_max": 1000}
            self.send({"type": "welcome", "id": id, "session": "s", "user": self.user, "limits": limits})
            self.send({"type": "nodes", "nodes": node.nodes})
        elif kind == "join" and node.joins_without_owner:
            node.joins_without_owner -= 1
            self.refuse(id)
        elif kind == "join":
            node.joins.append(request)
            head = {"epoch": EPOCH, "sequence": len(room.messages), "members": 1, "durability": "synced"}
            self.send({"type": "joined", "id": id, "room": "lobby", **head})
            for message in room.messages[request.get("after", {"sequence": 0})["sequence"]:]:
                self.send(message)
            room.readers.add(self)
        elif kind == "post":
            node.keys.append(request["key"])
            if node.posts_without_outcome:
                node.posts_without_outcome -= 1
                return self.refuse(id)
            sequence, duplicate = room.post(self.user, request["key"], request["body"])
            place = {"room": "lobby", "epoch": EPOCH, "sequence": sequence, "time_ms": 1}
            self.send({"type": "posted", "id": id, **place, "duplicate": duplicate})
        elif kind == "members":
            self.send({"type": "members", "id": id, "room": "lobby", "count": 1, "users": [self.user]})
        elif kind == "ping":
            self.send({"type": "pong", "id": id})


class Node:
    """One of them, on a port that stays the same."""

    def __init__(self, cluster):
        self.cluster, self.port = cluster, 0
        self.serves, self.nodes = False, []
        # Of what it does next, so many times.
        self.posts_without_outcome = self.joins_without_owner = 0
        # What it heard: whole requests, and the keys of posts.
        self.hellos, self.joins, self.keys = [], [], []
        self.connections = set()
        self.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                wire, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=[Connection(self, wire)], daemon=True).start()

    def serve(self, connection):
        self.connections.add(connection)
        try:
            connection.run()
        except (OSError, ValueError):
            pass
        self.connections.discard(connection)
        self.cluster.room.readers.discard(connection)
        connection.wire.close()

    def send_all_away(self):
        with self.cluster.lock:
            for connection in list(self.cluster.room.readers):
                connection.send_away()

    def kill(self):
        """As if the process had died: nothing listens there, and every connection is gone."""
        self.serves = False
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in list(self.connections):
            try:
                connection.wire.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Cluster:
    """Two nodes, and a third that is none of them."""

    def __init__(self):
        self.lock, self.room = threading.RLock(), Room()
        self.a, self.b, self.foreign = Node(self), Node(self), Node(self)
        self.own(self.a)

    def own(self, owner):
        """That node serves from now on, and both name it first."""
        with self.lock:
            for node in (self.a, self.b):
                node.serves = node is owner
                node.nodes = [owner.address, *({self.a.address, self.b.address} - {owner.address})]

    def end(self):
        for node in (self.a, self.b, self.foreign):
            if node.listener.fileno() >= 0:
                node.kill()
