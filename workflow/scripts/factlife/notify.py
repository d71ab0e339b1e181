"""Messages to wherever the user wants them (Telegram, Slack, mail and others that Apprise knows).

Addresses hold secrets, so they come from the environment alone: nothing of them reaches a log, a manifest, a report or a
command line. A message that cannot be sent, or only slowly, changes nothing in a run.
"""

from __future__ import annotations

import os
import subprocess
import sys

VARIABLE = "FACTLIFE_NOTIFY"
SECONDS = 20
# In a process of its own, whose output nobody sees: libraries write addresses into their warnings.
_SEND = f"""
import os, sys, apprise
to = apprise.Apprise()
for address in os.environ[{VARIABLE!r}].split():
    to.add(address)
sys.exit(not to.notify(title=sys.argv[1], body=sys.argv[2]))
"""


def send(title: str, body: str, *, seconds: float = SECONDS) -> bool:
    """Send a message to all addresses in the environment variable ``FACTLIFE_NOTIFY``, if there are any.

    Args:
        title: of the message.
        body: of the message.
        seconds: after which it is given up.

    Returns:
        Whether it was sent to all of them.
    """
    if not os.environ.get(VARIABLE, "").split():
        return False
    try:
        done = subprocess.run(
            [sys.executable, "-c", _SEND, title, body],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
