"""Free loopback ports for the quickstart, and a range of relay ports that no other stack on this machine uses."""

import fcntl
import os
import random
import socket
import tempfile

from children import StackError

# Below the kernel's ephemeral range, so that no outgoing connection takes a port between our choice and its use.
FIRST_PORT, LAST_PORT = 20000, 32000
RELAY_FIRST, RELAY_SIZE, RELAY_BLOCKS = 10000, 250, 40


def is_free(port):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def choose(names, remembered):
    """A free port for each name: the remembered one where it is still free, so that links stay valid."""
    chosen = {}
    for name in names:
        port = remembered.get(name)
        attempts = 0
        while port is None or port in chosen.values() or not is_free(port):
            attempts += 1
            if attempts > 500:
                raise StackError("no free ports on 127.0.0.1")
            port = random.randint(FIRST_PORT, LAST_PORT)
        chosen[name] = port
    return chosen


class RelayRange:
    """A block of UDP ports for one coturn, held by a lock file: two coturns on one range disturb each other."""

    def __init__(self):
        blocks = list(range(RELAY_BLOCKS))
        random.shuffle(blocks)
        for block in blocks:
            path = os.path.join(tempfile.gettempdir(), f"matrix-calld-relay-{os.getuid()}-{block}.lock")
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            first = RELAY_FIRST + block * RELAY_SIZE
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            if all(is_free(port) for port in range(first, first + RELAY_SIZE, 25)):
                self.handle = handle
                self.first, self.last = first, first + RELAY_SIZE - 1
                return
            os.close(handle)
        raise StackError("no free range of relay ports on 127.0.0.1")
