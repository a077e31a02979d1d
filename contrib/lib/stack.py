#!/usr/bin/env python3
"""Starts PostgreSQL, coturn, matrix-calld and Synapse on loopback, with demo accounts, and stops all of it at the end.

contrib/quickstart is the usual way in; the tests call this file directly. Only the standard library is needed.
"""

import argparse
import fcntl
import json
import os
import re
import select
import signal
import sys
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import accounts  # noqa: E402
import ports  # noqa: E402
import services  # noqa: E402
from children import StackError, die_with_parent  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PORT_NAMES = ["postgres", "turn", "daemon", "appservice", "synapse"]


def default_directory():
    if "XDG_DATA_HOME" not in os.environ and os.geteuid() == 0:
        # Root's home is closed to the account that PostgreSQL has to run under.
        return "/var/lib/matrix-calld-quickstart"
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "matrix-calld-quickstart")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="when all is ready, write addresses and accounts to FILE")
    parser.add_argument("--dir", default=default_directory(), help="where all data lives (default: %(default)s)")
    parser.add_argument("--matrix-calld", metavar="PATH", default=os.path.join(TOP, "build", "matrix-calld"))
    parser.add_argument("--users", type=int, default=2, metavar="N", help="how many accounts (default: 2)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
                        help="one more setting for the daemon; may be repeated")
    parser.add_argument("--lift-rate-limits", action="store_true", help="no limit on messages in the homeserver")
    parser.add_argument("--no-daemon", action="store_true", help="everything but the daemon, whose files are written")
    parser.add_argument("--no-appservice", action="store_true", help="a plain homeserver: neither daemon nor "
                        "registration")
    parser.add_argument("--may-end", metavar="NAME", action="append", default=[],
                        help="go on when this server (Synapse, say) ends: a test starts it again")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when the process that started us dies")
    arguments = parser.parse_args(argv)
    if arguments.users < 2:
        parser.error("--users: at least 2")
    arguments.settings = {}
    for item in arguments.set:
        name, separator, value = item.partition("=")
        if not separator or not re.fullmatch(r"[a-z_]+\.[a-z_]+", name) or "\n" in value:
            parser.error(f"--set {item}: expected section.key=value")
        arguments.settings[name] = value
    return arguments


def open_directory(path):
    """Makes the data directory and takes its lock. As root, PostgreSQL's account must be able to reach it."""
    path = os.path.abspath(path)
    os.makedirs(os.path.join(path, "log"), mode=0o755, exist_ok=True)
    os.chmod(path, 0o711 if os.geteuid() == 0 else 0o700)
    lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StackError(f"a quickstart is running on {path} already; stop it, or choose another --dir") from None
    parent = path
    while os.geteuid() == 0 and parent != "/":
        if not os.stat(parent).st_mode & 0o001:
            raise StackError(f"{parent} is closed to other accounts, and PostgreSQL does not run as root: "
                             "choose another --dir")
        parent = os.path.dirname(parent)
    return path, lock


class Stack:
    """Everything that was started, in the order of starting."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.children = []
        self.directory, self.lock = open_directory(arguments.dir)
        self.state_path = os.path.join(self.directory, "state.json")
        self.state = {}
        if os.path.exists(self.state_path):
            with open(self.state_path) as state:
                self.state = json.load(state)
        chosen = ports.choose(PORT_NAMES, self.state.get("ports", {}))
        self.state["ports"] = chosen
        self.relay = ports.RelayRange()
        self.postgres = services.Postgres(self._path("postgres"), self._log("postgres"), chosen["postgres"],
                                          self.state)
        self.coturn = services.Coturn(self._path("coturn"), self._log("coturn"), chosen["turn"], self.relay,
                                      self.state)
        self.synapse = services.Synapse(self._path("synapse"), self._log("synapse"), chosen["synapse"],
                                        os.path.join(TOP, "spec-tests", "requirements.txt"), self.state)
        self.daemon = services.Daemon(self.directory, self._log("matrix-calld"), chosen,
                                      os.path.abspath(arguments.matrix_calld))
        self._save()

    def _path(self, name):
        return os.path.join(self.directory, name)

    def _log(self, name):
        return os.path.join(self.directory, "log", f"{name}.log")

    def _save(self):
        services.write_private(self.state_path, json.dumps(self.state, indent=1))

    def _start(self, service):
        child = service.start()
        self.children.append(child)
        return child

    def start(self):
        """PostgreSQL and coturn first; then the daemon, so that the homeserver finds it when its first events
        come; the homeserver starts meanwhile."""
        with_appservice = not self.arguments.no_appservice
        if with_appservice:
            if not os.access(self.daemon.binary, os.X_OK):
                raise StackError(f"{self.daemon.binary} does not exist; contrib/quickstart builds it")
            self.daemon.register()
            self.daemon.configure(postgres=self.postgres, coturn=self.coturn, synapse=self.synapse,
                                  extra=self.arguments.settings)
        self.synapse.configure(registration=self.daemon.registration if with_appservice else None,
                               coturn=self.coturn, lift_rate_limits=self.arguments.lift_rate_limits)
        started = [(service, self._start(service)) for service in (self.coturn, self.postgres, self.synapse)]
        started[0][0].wait(started[0][1])
        started[1][0].wait(started[1][1])
        if with_appservice and not self.arguments.no_daemon:
            self.daemon.wait(self._start(self.daemon))
        started[2][0].wait(started[2][1])
        self.users, self.room = accounts.ensure(self.synapse.url, self.state, self.arguments.users)
        self._save()

    def links(self):
        return [f"{self.daemon.url}/call-test.html#" + urllib.parse.urlencode({
            "homeserver": self.synapse.url, "user": user["userId"], "token": user["accessToken"],
            "room": self.room}, quote_via=urllib.parse.quote, safe="") for user in self.users[:2]]

    def describe(self):
        return {
            "homeserver": self.synapse.url, "daemon": self.daemon.url, "serverName": services.SERVER_NAME,
            "users": [{key: user[key] for key in ("userId", "password", "accessToken")} for user in self.users],
            "roomId": self.room, "config": self.daemon.config, "registration": self.daemon.registration,
            "databaseUrl": self.postgres.url, "turnUris": self.coturn.uris, "turnSecret": self.coturn.secret,
            "links": self.links(), "controlSocket": self.daemon.control_socket,
            "logs": {child.name: child.log_path for child in self.children},
            "pids": {child.name: child.pid for child in self.children},
        }

    def announce(self):
        if self.arguments.json:
            services.write_private(self.arguments.json, json.dumps(self.describe(), indent=1) + "\n")
        print(f"homeserver  {self.synapse.url}  ({services.SERVER_NAME})")
        print(f"database    {self.postgres.url}")
        print(f"TURN        {self.coturn.uris[0]}")
        if not self.arguments.no_appservice:
            print(f"daemon      {self.daemon.url}")
            print(f"config      {self.daemon.config}")
            print("\nOpen each link in a browser profile of its own, and call:")
            for user, link in zip(self.users, self.links()):
                print(f"\n  {user['userId']}  password {user['password']}\n  {link}")
        print(f"\nLogs in {self.directory}/log. Ctrl-C stops everything.", flush=True)

    def watch(self, wakeup):
        """Sleeps until a signal arrives; returns when a child has died, with that child."""
        while True:
            for child in self.children:
                if child.exited() and child.name not in self.arguments.may_end:
                    return child
            select.select([wakeup], [], [], 5)
            try:
                os.read(wakeup, 4096)
            except BlockingIOError:
                pass

    def stop(self):
        """The daemon first, while the homeserver and the database still take its last words; PostgreSQL last.
        False when the daemon did not end as it should."""
        order = {"matrix-calld": 0, "Synapse": 1, "coturn": 2, "PostgreSQL": 3}
        clean = True
        for child in sorted(self.children, key=lambda c: order[c.name]):
            died = child.exited()
            child.stop()
            if child.name == "matrix-calld" and child.process.returncode != 0 and not died:
                # It promises to drain and to exit with 0; a sanitizer's report ends it otherwise, too.
                print(f"quickstart: matrix-calld stopped with {child.process.returncode}:\n{child.tail()}",
                      file=sys.stderr)
                clean = False
        return clean


class Stopped(Exception):
    """INT, TERM or HUP arrived."""


def on_stop_signal(number, frame):
    raise Stopped()


def main(argv):
    arguments = parse_arguments(argv)
    if arguments.stop_with_parent:
        die_with_parent(signal.SIGTERM)
    if arguments.json and os.path.exists(arguments.json):
        # Whoever waits for this file must not see that of an earlier run.
        os.unlink(arguments.json)
    wakeup, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_stop_signal)
    stack = None
    code = 0
    try:
        stack = Stack(arguments)
        stack.start()
        stack.announce()
        dead = stack.watch(wakeup)
        print(f"quickstart: {dead.name} ended with {dead.process.returncode}; its log ends:\n{dead.tail()}",
              file=sys.stderr)
        code = 1
    except Stopped:
        pass
    except StackError as problem:
        print(f"quickstart: {problem}", file=sys.stderr)
        code = 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if stack is not None and not stack.stop():
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
