#!/usr/bin/env python3
"""The chat page in a real browser against the real server: two people talk, scroll back, and survive a kill -9.

    cargo build && tests/page/page_test.py
    BANTER_BIN=target/release/banter tests/page/page_test.py     another binary
    PAGE_SHOTS=some/folder tests/page/page_test.py               keeps screenshots

Needs Debian's chromium and chromium-driver and nothing but Python's own library. Where they are missing it says
SKIPPED and ends with 0. Nothing here sleeps and hopes: every wait polls for what it wants until a deadline.
"""

import base64
import http.client
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cluster_checks
from checking import DEADLINE_S, equal, until

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("BANTER_BIN", ROOT / "target/debug/banter"))
SHOTS = os.environ.get("PAGE_SHOTS")
HISTORY_MESSAGES = 260  # more than the 50 of a first replay and two pages of 100
BROWSER_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage --no-proxy-server --hide-scrollbars
    --disable-background-timer-throttling --disable-backgrounding-occluded-windows --disable-renderer-backgrounding
    --window-size=1100,760""".split()
ENTER, SHIFT, RELEASE = "\ue007", "\ue008", "\ue000"


POST_ALL = """
const [user, room, text, done] = arguments, bodies = JSON.parse(text), wire = new WebSocket(`ws://${location.host}/ws`, 'banter.json.v1');
let acknowledged = 0;
const send = request => wire.send(JSON.stringify(request));
wire.onopen = () => send({ type: 'hello', id: 1, user });
wire.onclose = () => done('closed after ' + acknowledged);
wire.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === 'welcome') send({ type: 'join', id: 2, room });
  if (event.type === 'joined') bodies.forEach((body, i) => send({ type: 'post', id: 3 + i, room, body }));
  if (event.type === 'error') done(data);
  if (event.type === 'posted' && ++acknowledged === bodies.length) { wire.onclose = null; wire.close(); done('done'); }
};
"""


class Server:
    """The binary, on a port that stays the same over restarts."""

    def __init__(self, folder, *flags):
        self.folder, self.address, self.process, self.flags = folder, "127.0.0.1:0", None, flags
        self.complaints = open(folder / "stderr", "wb+")

    def start(self):
        command = [BINARY, "--listen", self.address, "--data", self.folder / "data", "--durability", "memory", *self.flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.complaints, text=True)
        lines = queue.Queue()
        threading.Thread(target=lambda out: [lines.put(line) for line in out], args=[self.process.stdout], daemon=True).start()
        deadline = time.monotonic() + DEADLINE_S
        while (left := deadline - time.monotonic()) > 0 and self.process.poll() is None:
            try:
                found = re.search(r"listening on (\S+:\d+)", lines.get(timeout=min(left, 0.2)))
            except queue.Empty:
                continue
            if found:
                self.address = found[1]
                return
        how = f"ended with {self.process.returncode}" if self.process.poll() is not None else f"was silent for {DEADLINE_S} s"
        raise RuntimeError(f"the server {how} before it said `listening on ADDR`: {self.stderr()}")

    def kill_9(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self):
        if self.process and self.process.poll() is None:
            self.kill_9()

    def stderr(self):
        self.complaints.seek(0)
        return self.complaints.read().decode(errors="replace")[-2000:]


class Browser:
    """A headless Chromium, spoken to in plain WebDriver."""

    def __init__(self, folder):
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.port = None
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                self.port = int(found[1])
                break
        threading.Thread(target=lambda: [None for _ in self.driver.stdout], daemon=True).start()
        options = {"args": BROWSER_FLAGS + [f"--user-data-dir={folder / 'profile'}"], "binary": shutil.which("chromium")}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = ""
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = "/session/" + answer["sessionId"]

    def call(self, method, path, body=None):
        wire = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        wire.request(method, self.session + path, json.dumps(body if body is not None else {}) if method == "POST" else None)
        value = json.loads(wire.getresponse().read())["value"]
        wire.close()
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(f"{path}: {value['error']}: {value['message'][:400]}")
        return value

    def tab(self):
        return Tab(self, self.call("POST", "/window/new", {"type": "window"})["handle"])

    def end(self):
        try:
            self.call("DELETE", "")
        except (OSError, RuntimeError, http.client.HTTPException):
            pass
        try:
            os.killpg(self.driver.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.driver.wait()


class Tab:
    """One person's window."""

    def __init__(self, browser, handle):
        self.browser, self.handle = browser, handle

    def call(self, method, path, body=None):
        self.browser.call("POST", "/window", {"handle": self.handle})
        return self.browser.call(method, path, body)

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def js(self, script, *given):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(given)})

    def post_all(self, user, room, bodies):
        """Fills a room from a second, bare connection inside the page, waiting for every acknowledgement."""
        # As text: WebDriver sorts the keys of the objects it carries.
        args = [user, room, json.dumps(bodies)]
        equal(self.call("POST", "/execute/async", {"script": POST_ALL, "args": args}), "done", "posting")

    def type(self, css, text):
        element = self.call("POST", "/element", {"using": "css selector", "value": css})
        self.call("POST", f"/element/{next(iter(element.values()))}/value", {"text": text})

    def enter(self, url, name, room):
        self.open(url)
        self.js("document.getElementById('name').value = ''; document.getElementById('room').value = '';")
        self.type("#name", name)
        self.type("#room", room + ENTER)
        self.name = name

    def say(self, text):
        self.type("#text", text + ENTER)

    def state(self):
        return self.js("return document.getElementById('status').dataset.state")

    def texts(self):
        return [text for _, text in self.messages()]

    def messages(self):
        """(sequence, text) of every numbered message shown, in the order shown."""
        return [tuple(pair) for pair in self.js(
            "return [...document.querySelectorAll('#log .message')].map(m => [+m.dataset.sequence, m.querySelector('.body').textContent])"
        )]

    def people(self):
        return sorted(self.js("return [...document.querySelectorAll('#users li')].map(li => li.dataset.user)"))

    def shot(self, name):
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            (Path(SHOTS) / f"{name}.png").write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


class World:
    """What the checks share; they run in order, each on what the one before left."""

    def __init__(self, folder):
        self.server = Server(folder)
        self.server.start()
        self.browser = Browser(folder)
        self.ann, self.bob = self.browser.tab(), self.browser.tab()

    @property
    def url(self):
        return f"http://{self.server.address}/"

    def live(self, *tabs):
        for tab in tabs:
            until(f"{tab.name}'s page is live", lambda: tab.state() == "live")

    def end(self):
        if hasattr(self, "browser"):
            self.browser.end()
        if hasattr(self, "tokens"):
            self.tokens.server.end()
        self.server.end()


def page_is_self_contained_and_offers_a_friendly_name(w):
    w.ann.open(w.url + "#from-the-link")
    equal(w.ann.js("return document.title"), "Banter")
    assert re.fullmatch(r"\w+-\w+", w.ann.js("return document.getElementById('name').value")), "no friendly name offered"
    equal(w.ann.js("return document.getElementById('room').value"), "from-the-link", "room from the address")
    loaded = w.ann.js("return performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:'))")
    equal(loaded, [], "loaded from elsewhere")


def name_and_room_are_checked_before_anything_is_sent(w):
    w.ann.js("document.getElementById('name').value = 'x'.repeat(65)")
    w.ann.type("#room", ENTER)
    until("a word on the name's length", lambda: "too long" in w.ann.js("return document.getElementById('wrong').textContent"))


def two_people_enter_the_room_and_are_live(w):
    w.ann.open("about:blank")
    w.ann.enter(w.url, "ann", "lobby")
    w.live(w.ann)
    w.bob.enter(w.url, "bob", "lobby")
    w.live(w.ann, w.bob)
    until("an empty room says so", lambda: "Nothing has been said" in w.bob.js("return document.getElementById('log').textContent"))


def everyone_sees_who_is_here(w):
    for tab in (w.ann, w.bob):
        until(f"{tab.name} sees both", lambda: tab.people() == ["ann", "bob"])
        equal(tab.js("return document.getElementById('count').dataset.count"), "2", "count")


def post_of_one_is_seen_by_the_other_and_told_apart(w):
    w.ann.say("hello bob")
    until("bob sees it", lambda: w.bob.texts() == ["hello bob"])
    until("ann sees it acknowledged", lambda: w.ann.texts() == ["hello bob"])
    mine = "return [...document.querySelectorAll('#log .message')].map(m => m.classList.contains('mine'))"
    equal((w.ann.js(mine), w.bob.js(mine)), ([True], [False]), "own messages")
    equal(w.ann.js("return document.querySelectorAll('.pending').length"), 0, "still sending")


def typing_is_seen_and_goes_away(w):
    w.bob.type("#text", "thinki")
    until("ann sees bob typing", lambda: w.ann.js("return document.getElementById('typing').textContent") == "bob is typing…")
    until("it goes away", lambda: w.ann.js("return document.getElementById('typing').textContent") == "", 8)
    w.bob.say("ng done")
    until("the message came", lambda: w.ann.texts()[-1:] == ["thinking done"])


def markup_is_shown_as_text(w):
    evil = "<b>x</b> <img src=x onerror=window.hacked=1> <script>window.hacked=1</script>"
    w.ann.say(evil)
    until("bob sees the characters", lambda: w.bob.texts()[-1:] == [evil])
    for tab in (w.ann, w.bob):
        equal(tab.js("return document.querySelectorAll('#log b, #log img, #log script').length"), 0, "elements made of text")
        equal(tab.js("return window.hacked === undefined"), True, "not hacked")


def shift_enter_makes_a_line_and_enter_sends(w):
    w.ann.type("#text", "one" + SHIFT + ENTER + RELEASE + "two" + ENTER)
    until("bob sees two lines", lambda: w.bob.texts()[-1:] == ["one\ntwo"])


def both_see_one_order_without_holes(w):
    before = len(w.ann.messages())
    for number in range(10):
        w.ann.say(f"ann {number}")
        w.bob.say(f"bob {number}")
    for tab in (w.ann, w.bob):
        until(f"{tab.name} has all", lambda: len(tab.messages()) == before + 20)
    equal(w.ann.messages(), w.bob.messages(), "what both see")
    equal([sequence for sequence, _ in w.ann.messages()], list(range(1, before + 21)), "sequences")
    for name in ("ann", "bob"):
        said = [text for text in w.bob.texts() if re.fullmatch(name + r" \d", text)]
        equal(said, [f"{name} {number}" for number in range(10)], f"the order {name} typed")
    w.ann.shot("talk")


def any_json_body_is_shown(w):
    bodies = ["just a string", {"score": [1, 2], "by": None}, 42, True]
    w.ann.post_all("games", "lobby", bodies)
    shown = ["just a string", '{"score":[1,2],"by":null}', "42", "true"]
    until("bob sees them", lambda: w.bob.texts()[-4:] == shown)


def switching_the_room_shows_the_newest_of_a_long_history(w):
    bodies = [{"text": f"page {number}"} for number in range(1, HISTORY_MESSAGES + 1)]
    w.bob.post_all("archive", "long", bodies)
    w.bob.js("document.getElementById('switch').click(); document.getElementById('room').value = '';")
    w.bob.type("#room", "long" + ENTER)
    until("bob is in the other room", lambda: w.bob.js("return document.getElementById('where').textContent") == "#long")
    w.live(w.bob)
    until("the newest is shown", lambda: w.bob.messages()[-1:] == [(HISTORY_MESSAGES, f"page {HISTORY_MESSAGES}")])
    assert len(w.bob.messages()) < HISTORY_MESSAGES, "the whole history came without being asked for"
    until("bob left the lobby", lambda: w.ann.people() == ["ann"])


def page_of_nothing_but_gaps_is_shown_and_gone_on_behind(w):
    # No server of this version has records that are no messages: the page is told what one would say.
    told = w.bob.js(
        """
        const before = firstReached(), gap = place => ({ type: 'gap', from: place, to: place, first_available: place + 1 });
        const marks = () => [...document.querySelectorAll('[data-kind=gap]')];
        hears.page({ epoch: view.epoch, messages: [gap(before - 2), gap(before - 1)], more: true }, { before });
        const told = [before - firstReached(), marks().map(mark => [before - mark.dataset.from, before - mark.dataset.to]), view.top.textContent];
        marks().forEach(mark => mark.remove());
        view.reach = null;
        return told;
        """
    )
    equal(told, [2, [[2, 1]], "Earlier messages"], "how far back it is, what it shows, and that there is more")
    until("the page has settled", lambda: not w.bob.js("return settling"))


def room_whose_newest_messages_are_all_erased_is_gone_back_behind_them(w):
    # In a view of its own, whose join was answered with nothing but erased messages.
    told = w.bob.js(
        """
        const before = view, told = [], gap = place => ({ type: 'gap', from: place, to: place, first_available: place + 1 });
        const say = () => {
          showTop();
          const marks = [...view.section.querySelectorAll('[data-kind=gap]')].map(mark => [+mark.dataset.from, +mark.dataset.to]);
          told.push([firstReached(), marks, view.top.textContent]);
        };
        newView();
        [view.epoch, view.head] = [before.epoch, 200];
        for (const place of [198, 199, 200]) hears.gap({ epoch: view.epoch, ...gap(place) });
        say();
        hears.page({ epoch: view.epoch, messages: [gap(196), gap(197)], more: true }, { before: firstReached() });
        say();
        const message = { type: 'message', user: 'archive', body: { text: 'kept' }, time_ms: 1, sequence: 195 };
        hears.page({ epoch: view.epoch, messages: [message], more: true }, { before: firstReached() });
        say();
        view.section.remove();
        view = before;
        showTop();
        return told;
        """
    )
    wanted = [[198, [[198, 200]]], [196, [[196, 200]]], [195, [[196, 200]]]]
    equal(told, [[*reached, "Earlier messages"] for reached in wanted], "how far back it is, what it shows, and that there is more")
    until("the page has settled", lambda: not w.bob.js("return settling"))


def scrolling_back_loads_older_pages_and_keeps_the_place(w):
    first = "document.querySelector('#log .message')"
    rounds = 0
    while (oldest := w.bob.messages()[0][0]) > 1:
        # The scroll and the measuring are one step, so that no page can come between them.
        place = w.bob.js(f"document.getElementById('scroll').scrollTop = 0; return {first}.getBoundingClientRect().top")
        until("older messages came", lambda: w.bob.messages()[0][0] < oldest)
        moved = w.bob.js(
            f"return document.querySelector('[data-sequence=\"{oldest}\"]').getBoundingClientRect().top"
        ) - place
        assert abs(moved) < 60, f"the message being read jumped by {moved} px"
        rounds += 1
        assert rounds < 10, "the pages do not end"
    assert rounds >= 2, f"one page sufficed ({rounds}): the test is too small"
    wanted = [(number, f"page {number}") for number in range(1, HISTORY_MESSAGES + 1)]
    equal(w.bob.messages(), wanted, "the whole history")
    until("the beginning says so", lambda: "This is where #long begins" in w.bob.js("return document.getElementById('log').textContent"))


def reading_old_messages_is_not_disturbed_by_new_ones(w):
    w.bob.js("document.getElementById('scroll').scrollTop = 0")
    # The page hears of it with the next frame; a message that is quicker is one that he sees arrive.
    until("the page knows that he reads", lambda: not w.bob.js("return pinned"))
    w.bob.post_all("archive", "long", ["a new one"])
    until("the button counts it", lambda: "1 new message" in w.bob.js("const j = document.getElementById('jump'); return j.hidden ? '' : j.textContent"))
    equal(w.bob.js("return document.getElementById('scroll').scrollTop"), 0, "scroll position")
    w.bob.js("document.getElementById('jump').click()")
    until("it is in view", lambda: w.bob.js(
        "const box = document.getElementById('scroll'); return box.scrollHeight - box.scrollTop - box.clientHeight < 40"
    ))


def reload_stays_in_the_room(w):
    w.bob.call("POST", "/refresh", {})
    w.live(w.bob)
    equal(w.bob.js("return document.getElementById('where').textContent"), "#long")
    w.bob.js("location.hash = '#lobby'")
    until("the address changes the room", lambda: w.bob.js("return document.getElementById('where').textContent") == "#lobby")
    w.live(w.bob)
    until("ann sees bob again", lambda: w.ann.people() == ["ann", "bob"])


def dropped_connection_resumes_and_a_post_without_an_answer_is_said_once(w):
    before = w.ann.messages()
    # The post leaves, and the connection closes before its answer can be heard: the page must send it again, with its key.
    w.ann.js("post('did it arrive?'); socket.close()")
    w.bob.post_all("dora", "lobby", [f"meanwhile {number}" for number in range(5)])
    w.bob.say("done")
    for tab in (w.ann, w.bob):
        until(f"{tab.name} has all", lambda: len(tab.messages()) >= len(before) + 7 and not tab.js("return outbox.length"))
    w.live(w.ann)
    w.ann.say("and all in order")
    for tab in (w.ann, w.bob):
        until("the end", lambda: tab.texts()[-1:] == ["and all in order"])
        equal(tab.texts().count("did it arrive?"), 1, f"times shown to {tab.name}")
    first = before[0][0]
    equal([sequence for sequence, _ in w.ann.messages()], list(range(first, first + len(before) + 8)), "sequences")
    equal(w.ann.js("return document.querySelectorAll('.marker').length"), 0, "gaps told")


def phone_width_needs_no_sideways_scrolling(w):
    w.bob.call("POST", "/window/rect", {"width": 390, "height": 780})
    until("the window is narrow", lambda: w.bob.js("return innerWidth") < 721)
    w.bob.say("w" * 300)
    until("a long word came", lambda: w.bob.texts()[-1:] == ["w" * 300])
    assert w.bob.js("return document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the phone"
    w.bob.js("document.getElementById('here').click()")
    until("people open", lambda: w.bob.js("return document.getElementById('people').getBoundingClientRect().width > 0"))
    w.bob.js("document.getElementById('here').click()")
    w.bob.shot("phone")
    w.bob.call("POST", "/window/rect", {"width": 1100, "height": 760})


def kill_9_of_the_server_is_told_with_a_countdown(w):
    w.server.kill_9()
    for tab in (w.ann, w.bob):
        until(f"{tab.name}'s page says reconnecting", lambda: tab.state() == "reconnecting")
        until("a countdown", lambda: re.fullmatch(r"in \d+ s", tab.js("return document.getElementById('status-more').textContent")))


def post_typed_while_offline_waits_in_sight(w):
    w.ann.say("typed while the server was down")
    w.ann.say("and one more")
    pending = "return [...document.querySelectorAll('.pending')].map(p => p.querySelector('.meta').textContent.slice(0, 8))"
    until("two wait", lambda: w.ann.js(pending) == ["sending…"] * 2)
    w.ann.shot("reconnecting")


def restart_recovers_and_says_that_history_began_anew(w):
    w.server.start()
    w.live(w.ann, w.bob)
    for tab in (w.ann, w.bob):
        until(f"{tab.name} is told", lambda: tab.js("return document.querySelectorAll('.marker[data-kind=anew]').length") == 1)
        until("who is here is known again", lambda: tab.people() == ["ann", "bob"])


def post_typed_while_offline_arrives_exactly_once(w):
    wanted = [(1, "typed while the server was down"), (2, "and one more")]
    for tab in (w.ann, w.bob):
        until(f"{tab.name} has them", lambda: tab.messages()[-2:] == wanted)
    w.bob.say("seen")
    for tab in (w.ann, w.bob):
        until("the answer", lambda: tab.messages()[-1:] == [(3, "seen")])
        equal(tab.messages()[-3:], wanted + [(3, "seen")], "the new history")
        equal(sum("typed while" in text for text in tab.texts()), 1, "times shown")
        equal(tab.js("return document.querySelectorAll('.pending').length"), 0, "still sending")
    w.ann.shot("began-anew")


def newcomer_sees_the_new_history_and_leaving_is_seen(w):
    carol = w.browser.tab()
    carol.enter(w.url, "carol", "lobby")
    w.live(carol)
    until("carol has the history", lambda: len(carol.messages()) == 3)
    until("ann sees carol", lambda: w.ann.people() == ["ann", "bob", "carol"])
    carol.call("DELETE", "/window")
    until("ann sees carol leave", lambda: w.ann.people() == ["ann", "bob"])


class Tokens:
    """A server that asks for tokens, with its interface for backends on a socket."""

    def __init__(self, folder):
        folder.mkdir()
        self.secret, self.socket = folder / "secret", folder / "admin.sock"
        self.secret.write_text("a secret of more than thirty-two bytes, for tests")
        config = folder / "banter.toml"
        auth = f"[auth]\nmode = 'token'\nsecret_file = '{self.secret}'\nguests = true\n"
        rooms = "[[rooms]]\nmatch = 'open'\nguests = ['member']\n"
        config.write_text(f"{auth}[admin]\nsocket = '{self.socket}'\n{rooms}")
        self.server = Server(folder, "--config", config)
        self.server.start()

    def link(self, user, rights, ttl="1h"):
        command = [BINARY, "token", "--secret-file", self.secret, "--user", user, "--room", f"lobby={rights}", "--ttl", ttl]
        token = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
        return f"http://{self.server.address}/#token={token}&room=lobby"

    def ask(self, method, path, body=None):
        wire = socket.socket(socket.AF_UNIX)
        wire.settimeout(DEADLINE_S)
        wire.connect(str(self.socket))
        text = json.dumps(body or {})
        head = f"{method} /v1/{path} HTTP/1.1\r\nHost: banter\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
        wire.sendall((head + text).encode())
        answer = b""
        while part := wire.recv(65536):
            answer += part
        assert answer.split()[1].startswith(b"2"), answer


def who_is_let_in_by_a_token_is_told_why_not_any_more(w):
    tokens = w.tokens = Tokens(Path(w.server.folder) / "tokens")
    tab = w.browser.tab()
    tab.name = "eve"
    wrong = lambda: tab.js("return document.getElementById('wrong').textContent")
    come_in = lambda rights: (tab.open("about:blank"), tab.open(tokens.link("eve", rights)), tab.type("#room", ENTER))
    come_in("member")
    w.live(tab)
    assert "token=" not in tab.js("return location.href"), "the token stays in the address"
    tokens.ask("DELETE", "rooms/lobby/members/eve")
    until("a kick is told", lambda: "taken out of this room" in wrong())
    tab.type("#room", ENTER)
    w.live(tab)
    tokens.ask("POST", "revocations", {"user": "eve"})
    until("a revocation is told", lambda: "revoked" in wrong())
    tokens.ask("DELETE", "revocations?user=eve")
    come_in("read")
    w.live(tab)
    tab.say("may I?")
    until("what may not be said is told", lambda: "forbidden" in tab.js("return document.getElementById('outbox').textContent"))
    come_in("write")
    until("what may not be read is told", lambda: "forbidden" in wrong())
    tab.call("DELETE", "/window")


def who_opened_the_page_hands_over_a_new_token(w):
    w.ann.state()   # The window of the check before is closed, and a new one is asked for from one that is there.
    tab, tokens = w.browser.tab(), w.tokens
    tab.name = "eve"
    tab.open(f"http://{tokens.server.address}/")
    tab.js(f"window.child = window.open('{tokens.link('eve', 'member')}')")
    child = lambda script: tab.js(f"const d = window.child.document; {script}")
    until("the opened page is there", lambda: child("return d.readyState === 'complete' && !!d.getElementById('enter')"))
    child("d.getElementById('enter').click()")
    until("it is live", lambda: child("return d.getElementById('status').dataset.state") == "live")
    new = re.search(r"token=([^&]+)", tokens.link("eve", "read"))[1]
    tab.js(f"window.child.postMessage({{ type: 'banter.renew', token: '{new}' }}, '*')")
    until("it goes on with the new one", lambda: tab.js("return window.child.sessionStorage.getItem('banter.token')") == new)
    equal(child("return d.getElementById('status').dataset.state"), "live", "state")
    tab.js("window.child.close()")
    tab.call("DELETE", "/window")


def who_has_no_token_comes_in_as_a_guest_and_says_nothing_twice(w):
    w.ann.state()
    tab, tokens = w.browser.tab(), w.tokens
    tab.name = "guest"
    tab.open(f"http://{tokens.server.address}/#open")
    text = lambda part: tab.js(f"return document.getElementById('{part}').textContent")
    assert tab.js("return document.getElementById('naming').hidden"), "a guest is asked for no name"
    assert "as a guest" in text("welcome"), text("welcome")
    tab.type("#room", ENTER)
    w.live(tab)
    name = text("who")
    assert name.startswith("as ~g") and name.endswith(", a guest"), name
    tab.say("hello from a guest")
    until("it is said", lambda: "hello from a guest" in text("log"))
    # Another connection is another guest: what may have arrived under the name before is not said again by itself.
    tab.js("const item = { key: 'lost', user: me.user, room: me.room, body: { text: 'was it said?' }, time_ms: 0, sent: true };"
           "outbox.push(item); showPending(item); socket.onclose({ code: 1006 })")
    until("it has another name", lambda: tab.state() == "live" and text("who") not in ("", name))
    assert "not sent: the connection was lost" in text("outbox"), text("outbox")
    tab.js("document.querySelector('.choices button').click()")
    until("it is said when that is wanted", lambda: "was it said?" in text("log") and text("outbox") == "")
    tab.js("openDoor(); document.getElementById('room').value = 'staff'; document.getElementById('card').requestSubmit()")
    until("where guests may not read is told", lambda: "forbidden" in text("wrong"))
    tab.call("DELETE", "/window")


def console_stayed_clean(w):
    # A refused connection while the server is down is logged by the browser itself and is no fault of the page.
    entries = w.ann.call("POST", "/se/log", {"type": "browser"})
    bad = [e["message"] for e in entries if e["level"] == "SEVERE" and "WebSocket connection" not in e["message"]]
    equal(bad, [], "errors in the console")


CHECKS = [
    page_is_self_contained_and_offers_a_friendly_name,
    name_and_room_are_checked_before_anything_is_sent,
    two_people_enter_the_room_and_are_live,
    everyone_sees_who_is_here,
    post_of_one_is_seen_by_the_other_and_told_apart,
    typing_is_seen_and_goes_away,
    markup_is_shown_as_text,
    shift_enter_makes_a_line_and_enter_sends,
    both_see_one_order_without_holes,
    any_json_body_is_shown,
    switching_the_room_shows_the_newest_of_a_long_history,
    page_of_nothing_but_gaps_is_shown_and_gone_on_behind,
    room_whose_newest_messages_are_all_erased_is_gone_back_behind_them,
    scrolling_back_loads_older_pages_and_keeps_the_place,
    reading_old_messages_is_not_disturbed_by_new_ones,
    reload_stays_in_the_room,
    dropped_connection_resumes_and_a_post_without_an_answer_is_said_once,
    phone_width_needs_no_sideways_scrolling,
    kill_9_of_the_server_is_told_with_a_countdown,
    post_typed_while_offline_waits_in_sight,
    restart_recovers_and_says_that_history_began_anew,
    post_typed_while_offline_arrives_exactly_once,
    newcomer_sees_the_new_history_and_leaving_is_seen,
    who_is_let_in_by_a_token_is_told_why_not_any_more,
    who_opened_the_page_hands_over_a_new_token,
    who_has_no_token_comes_in_as_a_guest_and_says_nothing_twice,
    *cluster_checks.CHECKS,
    console_stayed_clean,
]


def run(world):
    passed = failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            check(world)
            passed += 1
            print(f"ok    {name} ({time.monotonic() - started:.1f} s)", flush=True)
        except (AssertionError, RuntimeError, OSError, IndexError) as fault:
            failed += 1
            print(f"FAIL  {name}: {fault}", flush=True)
            for tab in (world.ann, world.bob):
                try:
                    line = tab.js("return document.getElementById('status').textContent")
                    print(f"      a status line then: {line!r}")
                except (RuntimeError, OSError):
                    pass
    if failed:
        print("the server's stderr ended with:\n" + world.server.stderr())
    return passed, failed


def main():
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        print("SKIPPED: no chromium here; install it: apt-get install -y chromium chromium-driver")
        return 0
    if not BINARY.exists():
        print(f"FAIL  no server binary at {BINARY}: run `cargo build` or set BANTER_BIN\n0 passed, 1 failed")
        return 1
    with tempfile.TemporaryDirectory(prefix="banter-page-", ignore_cleanup_errors=True) as folder:
        world = World.__new__(World)
        try:
            try:
                world.__init__(Path(folder))
            except (RuntimeError, OSError) as fault:
                print(f"FAIL  start: {fault}\n0 passed, 1 failed")
                return 1
            passed, failed = run(world)
        finally:
            world.end()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
