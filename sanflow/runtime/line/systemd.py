"""Telling systemd: ready, alive, stopping. Without systemd it does nothing."""

from __future__ import annotations

import os
import socket


def notify(*words: str) -> bool:
    """Send lines like READY=1 or WATCHDOG=1; False if nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(words).encode(), address)
    except (OSError, AttributeError):  # a full or absent socket must not stop a line
        return False
    return True
