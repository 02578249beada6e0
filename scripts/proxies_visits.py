"""Visits Banter by way of a proxy, as scripts/proxies.sh has set both up: proxies_visits.py PROXY trusted|untrusted"""

import json
import socket
import ssl
import sys

PROXY, TRUST = sys.argv[1:]
AT = ("192.0.2.10", 443)
ANN, BOB = "192.0.2.1", "192.0.2.2"
CONNECTIONS_PER_IP_MAX = 3
PATIENCE_SECONDS = 20


def connect(source):
    """TLS to the proxy, from that address."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    plain = socket.create_connection(AT, PATIENCE_SECONDS, source_address=(source, 0))
    return context.wrap_socket(plain, server_hostname="chat.example.com")


def read_until(stream, end):
    got = b""
    while not got.endswith(end):
        byte = stream.recv(1)
        if not byte:
            break
        got += byte
    return got


def get(source, path):
    """The status of a plain request."""
    with connect(source) as stream:
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: chat.example.com\r\nConnection: close\r\n\r\n".encode())
        return status(read_until(stream, b"\r\n\r\n"))


def status(head):
    return int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.") else 0


def visit(source, lines=""):
    """Upgrades and says hello: the stream, and the first event, or the status that there was instead."""
    stream = connect(source)
    stream.sendall(
        (
            "GET /ws HTTP/1.1\r\nHost: chat.example.com\r\nOrigin: https://chat.example.com\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        ).encode()
    )
    found = status(read_until(stream, b"\r\n\r\n"))
    if found != 101:
        return stream, found
    hello = b'{"type":"hello","user":"ann"}'
    try:
        stream.sendall(bytes([0x81, 0x80 | len(hello)]) + bytes(4) + hello)
    except OSError:
        pass  # Who is refused may be closed by now; why is still to be read.
    return stream, json.loads(read_frame(stream))


def visit_anyway(source):
    """The same, where the proxy may have nowhere to pass anything on to, and closes: then 0."""
    try:
        return visit(source)
    except OSError:
        return None, 0


def read_frame(stream):
    first, length = read_exactly(stream, 2)
    assert first == 0x81, f"a text and not {first:#x}"
    if length == 126:
        length = int.from_bytes(read_exactly(stream, 2), "big")
    return read_exactly(stream, length)


def read_exactly(stream, count):
    got = b""
    while len(got) < count:
        more = stream.recv(count - len(got))
        assert more, "the stream ended"
        got += more
    return got


def must(what, holds, found):
    print(f"{'ok' if holds else 'FAILED'}  {PROXY} {TRUST}: {what}" + ("" if holds else f": {str(found)[:600]}"), flush=True)
    if not holds:
        sys.exit(1)


def is_refused(event):
    return isinstance(event, dict) and (event.get("code"), event.get("scope")) == ("rate_limited", "ip")


def is_welcome(event):
    return isinstance(event, dict) and event.get("type") == "welcome"


def trusted():
    kept = [visit(ANN) for _ in range(CONNECTIONS_PER_IP_MAX)]
    must("a visitor gets in, as often as its address may", all(is_welcome(event) for _, event in kept), kept)
    refused = visit(ANN)[1]
    must("and once more it is refused, and told by which limit", is_refused(refused), refused)
    forged = visit(ANN, "X-Forwarded-For: 203.0.113.9\r\n")[1]
    must("also if it says that it is another", is_refused(forged), forged)
    other = visit(BOB)
    must("another visitor gets in: the limit is not the proxy's", is_welcome(other[1]), other[1])
    expected = 200 if PROXY == "haproxy" else 404
    found = [get(BOB, path) for path in ("/metrics", "/healthz", "/readyz")]
    must("questions for the operator are answered as the file says", found == [expected] * 3, found)
    must("the page is there", get(BOB, "/") == 200, "no page")


def untrusted():
    events = [visit_anyway(ANN) for _ in range(CONNECTIONS_PER_IP_MAX + 2)]
    if PROXY == "haproxy":
        # HAProxy asks whether Banter is ready, is refused as well, and so passes nothing on; or it has not asked yet.
        must("its header is refused", all(event in (0, 400) for _, event in events), events)
    else:
        must("nobody is counted by what it says", all(is_welcome(event) for _, event in events), events)


{"trusted": trusted, "untrusted": untrusted}[TRUST]()
