"""What every check of the page uses: waits that poll until a deadline, and comparisons that show both sides."""

import time

DEADLINE_S = 20
POLL_S = 0.03


def until(what, holds, deadline_s=DEADLINE_S):
    """Polls until `holds()` is truthy and gives that value."""
    deadline = time.monotonic() + deadline_s
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(POLL_S)
    return value


def equal(got, wanted, what="value"):
    assert got == wanted, f"{what}: got {str(got)[:600]}, wanted {str(wanted)[:600]}"
