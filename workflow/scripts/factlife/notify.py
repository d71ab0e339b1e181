"""Notifications through Apprise (Telegram, Slack, mail and others).

Addresses contain secrets, so they come from the environment only and never reach a log, a manifest, a report or a command
line. A message that fails or is slow does not affect the run.
"""

from __future__ import annotations

import os
import subprocess
import sys

VARIABLE = "FACTLIFE_NOTIFY"
SECONDS = 20
# A separate process with discarded output, because libraries write addresses into their warnings.
_SEND = f"""
import os, sys, apprise
notifier = apprise.Apprise()
for address in os.environ[{VARIABLE!r}].split():
    notifier.add(address)
sys.exit(not notifier.notify(title=sys.argv[1], body=sys.argv[2]))
"""


def send(title: str, body: str, *, seconds: float = SECONDS) -> bool:
    """Send a message to all addresses in the environment variable ``FACTLIFE_NOTIFY``, if there are any.

    Args:
        title: title of the message.
        body: text of the message.
        seconds: timeout.

    Returns:
        Whether all addresses received it.
    """
    if not os.environ.get(VARIABLE, "").split():
        return False
    try:
        process = subprocess.run(
            [sys.executable, "-c", _SEND, title, body],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return process.returncode == 0
