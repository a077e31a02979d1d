#!/usr/bin/env python3
"""with_postgres.py COMMAND ...: runs COMMAND with TEST_DATABASE_URL naming an empty PostgreSQL of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import ports  # noqa: E402
import services  # noqa: E402
from children import StackError  # noqa: E402


def main(argv):
    if not argv:
        print(__doc__, file=sys.stderr)
        return 2
    directory = tempfile.mkdtemp(prefix="calld-postgres-")
    os.chmod(directory, 0o711)
    child = None
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        port = ports.choose(["postgres"], {})["postgres"]
        postgres = services.Postgres(os.path.join(directory, "data"), os.path.join(directory, "log"), port, {})
        child = postgres.start()
        postgres.wait(child)
        return subprocess.run(argv, env={**os.environ, "TEST_DATABASE_URL": postgres.url}).returncode
    except StackError as problem:
        print(f"with_postgres: {problem}", file=sys.stderr)
        return 1
    finally:
        if child is not None:
            child.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
