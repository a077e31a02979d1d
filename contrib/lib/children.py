"""Child processes of the quickstart: started with a log each, watched, and stopped by process id in good order."""

import ctypes
import os
import pwd
import signal
import socket
import subprocess
import time

START_SECONDS = 90
TAIL_BYTES = 4000
PR_SET_PDEATHSIG = 1


class StackError(Exception):
    """Something that the person who started the stack can read and mend."""


def die_with_parent(number):
    """Asks the kernel to send this process signal `number` when its parent dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def account_of(name):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


class Child:
    """One server process: what it is called, how it is stopped, and where it writes."""

    def __init__(self, name, argv, log_path, *, cwd, env=None, user=None, stop_signal=signal.SIGTERM,
                 stop_seconds=15):
        self.name = name
        self.log_path = log_path
        self.stop_signal = stop_signal
        self.stop_seconds = stop_seconds
        self.log = open(log_path, "ab")
        self.log_start = self.log.tell()
        options = {}
        if user is not None:
            options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        # A session of its own: Ctrl-C reaches only us, and we stop the children in order.
        self.process = subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=lambda: die_with_parent(stop_signal), **options)

    @property
    def pid(self):
        return self.process.pid

    def exited(self):
        return self.process.poll() is not None

    def tail(self):
        """The end of what this run wrote to its log."""
        with open(self.log_path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(self.log_start, log.tell() - TAIL_BYTES))
            return log.read().decode("utf-8", "replace").rstrip()

    def log_contains(self, line):
        with open(self.log_path, "rb") as log:
            log.seek(self.log_start)
            return any(found.strip() == line.encode() for found in log)

    def wait_until(self, ready, what):
        """Polls `ready` until it is true; a child that dies meanwhile ends the wait with its log's tail."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.exited():
                raise StackError(f"{self.name} ended with {self.process.returncode} before {what}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name}: no {what} within {START_SECONDS} s:\n{self.tail()}")
            time.sleep(0.03)

    def stop(self):
        if not self.exited():
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def accepts_connections(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
