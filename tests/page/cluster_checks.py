"""The page among the nodes of a cluster: it finds the one that serves, goes on where it was, and says nothing twice.

They run in order, each on what the one before left.
"""

from checking import equal, until
from fake_nodes import Cluster

ENTER = "\ue007"
# Every state and text of the status line from here on, once each time that it changes.
WATCH = """
window.said = [];
const status = document.getElementById('status'), text = document.getElementById('status-text');
new MutationObserver(() => {
  const now = status.dataset.state + ': ' + text.textContent;
  if (said[said.length - 1] !== now) said.push(now);
}).observe(status, { attributes: true, childList: true, subtree: true, characterData: true });
"""


def texts_are(w, wanted):
    until(f"the texts are {wanted}", lambda: w.eve.texts() == wanted and not w.eve.js("return outbox.length"))
    equal([sequence for sequence, _ in w.eve.messages()], list(range(1, len(wanted) + 1)), "sequences")
    equal(w.eve.js("return document.querySelectorAll('.marker, .pending').length"), 0, "markers, and what is still sending")


def node_that_stands_by_serves_the_page_and_sends_it_to_the_one_that_it_names(w):
    w.ann.state()  # The window of the check before may be closed.
    w.cluster, w.eve = Cluster(), w.browser.tab()
    w.eve.enter(f"http://{w.cluster.b.address}/", "eve", "lobby")
    w.live(w.eve)
    equal(w.eve.js("return at"), w.cluster.a.address, "where it is")
    w.eve.say("one")
    texts_are(w, ["one"])
    w.eve.js(WATCH)


def page_that_is_sent_away_goes_on_elsewhere_where_it_was(w):
    w.cluster.own(w.cluster.b)
    w.cluster.a.send_all_away()
    until("it joined at the other", lambda: w.cluster.b.joins)
    equal(w.cluster.b.joins[-1]["after"], {"epoch": 5, "sequence": 1}, "from where it goes on")
    w.live(w.eve)
    w.eve.say("two")
    texts_are(w, ["one", "two"])


def post_whose_outcome_nobody_knows_is_posted_again_with_its_key_and_said_once(w):
    w.cluster.b.posts_without_outcome, w.cluster.b.keys = 2, []
    w.eve.say("three")
    texts_are(w, ["one", "two", "three"])
    equal((len(w.cluster.b.keys), len(set(w.cluster.b.keys))), (3, 1), "posts, and keys")
    w.eve.say("four")
    texts_are(w, ["one", "two", "three", "four"])


def post_that_waits_for_a_takeover_arrives_once_and_the_status_stays_calm(w):
    w.cluster.a.hellos, w.cluster.a.joins, w.cluster.a.joins_without_owner = [], [], 2
    w.cluster.b.kill()
    until("it says that it reconnects", lambda: w.eve.state() == "reconnecting")
    w.eve.say("five")
    until("it asked the other more than once", lambda: len(w.cluster.a.hellos) > 1)
    w.cluster.own(w.cluster.a)
    w.live(w.eve)
    equal(w.cluster.a.joins_without_owner, 0, "joins that found no owner")
    texts_are(w, ["one", "two", "three", "four", "five"])
    said = w.eve.js("return window.said.filter(line => !/^live|^catching-up/.test(line))")
    equal(set(said), {"reconnecting: Reconnecting…"}, "what the status line said")


def token_goes_to_no_address_of_a_link_and_to_nothing_that_is_told_and_is_more_than_an_address(w):
    a, b, foreign = w.cluster.a, w.cluster.b, w.cluster.foreign
    b.start()
    w.cluster.own(a)
    b.nodes = [f"u@{foreign.address}", f"{foreign.address}/ws", f"//{foreign.address}", f"{foreign.address}?", 7, None, a.address]
    a.hellos, b.hellos = [], []
    w.eve.open("about:blank")
    w.eve.open(f"http://{b.address}/?nodes={foreign.address}#token=a.b.c&room=lobby")
    w.eve.type("#room", ENTER)
    w.live(w.eve)
    equal([node.hellos[-1].get("token") for node in (a, b)], ["a.b.c"] * 2, "who has the token")
    equal(foreign.hellos, [], "and who has not")


def addresses_that_the_page_is_served_with_take_the_place_of_its_own(w):
    equal(
        w.eve.js("return [' chat-1:7878', '[::1]:7878', 'chat-2.example.org', 'u@x:1', 'x:1/y', 'x y:1', 'x:99999', '', 7].map(x => isAddress(String(x).trim()))"),
        [True, True, True, False, False, False, False, False, True],
        "what is an address",
    )
    w.eve.js("given.splice(0, 1, arguments[0], arguments[1]); told = []; at = given[0]; socket.onclose({ code: 1006 })",
             w.cluster.b.address, w.cluster.a.address)
    until("it is live at the second", lambda: w.eve.state() == "live" and w.eve.js("return at") == w.cluster.a.address)
    w.eve.call("DELETE", "/window")
    w.cluster.end()


CHECKS = [
    node_that_stands_by_serves_the_page_and_sends_it_to_the_one_that_it_names,
    page_that_is_sent_away_goes_on_elsewhere_where_it_was,
    post_whose_outcome_nobody_knows_is_posted_again_with_its_key_and_said_once,
    post_that_waits_for_a_takeover_arrives_once_and_the_status_stays_calm,
    token_goes_to_no_address_of_a_link_and_to_nothing_that_is_told_and_is_more_than_an_address,
    addresses_that_the_page_is_served_with_take_the_place_of_its_own,
]
