"""The servers of the quickstart: PostgreSQL, coturn, Synapse and the daemon, each with private data on loopback."""

import base64
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import urllib.error
import urllib.request

from children import Child, StackError, accepts_connections, account_of

SERVER_NAME = "calld.localhost"
LOOPBACK = "127.0.0.1"


def write_private(path, text, mode=0o600):
    """Replaces a file as a whole; nobody reads half of it, nor its secrets."""
    temporary = f"{path}.new"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as out:
        os.fchmod(out.fileno(), mode)
        out.write(text)
    os.replace(temporary, path)


def run(argv, what, **options):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **options)
    if done.returncode != 0:
        raise StackError(f"{what} failed with {done.returncode}:\n{done.stdout.rstrip()}")
    return done.stdout


def find_program(name, *directories):
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *directories]))
    if found is None:
        raise StackError(f"{name} is not installed; contrib/install-deps installs it")
    return found


class Postgres:
    """A cluster of its own: fsync on as in life, passwords over TCP, so that any account's psql can use the URL."""

    def __init__(self, directory, log_path, port, state):
        self.directory, self.log_path, self.port = directory, log_path, port
        self.passwords = state.setdefault("postgresPasswords", {"postgres": secrets.token_hex(16),
                                                                "calld": secrets.token_hex(16)})
        self.user = None
        if os.geteuid() == 0:
            # The server refuses to run as root.
            self.user = account_of("postgres") or account_of("nobody")
        self.bin = self._find_binaries()

    def _find_binaries(self):
        wanted = None
        version_file = os.path.join(self.directory, "PG_VERSION")
        if os.path.exists(version_file):
            with open(version_file) as version:
                wanted = version.read().strip()
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda p: int(p.split("/")[4]))
        for path in reversed(found):
            if wanted in (None, path.split("/")[4]):
                return os.path.dirname(path)
        if wanted is not None:
            raise StackError(f"{self.directory} was made by PostgreSQL {wanted}, which is not installed; remove it")
        return os.path.dirname(find_program("postgres"))

    @property
    def url(self):
        return f"postgresql://calld:{self.passwords['calld']}@{LOOPBACK}:{self.port}/calld"

    def _as_user(self):
        if self.user is None:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def _initialise(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        os.mkdir(self.directory, 0o700)
        password_file = f"{self.directory}.password"
        write_private(password_file, self.passwords["postgres"])
        if self.user is not None:
            os.chown(self.directory, self.user.pw_uid, self.user.pw_gid)
            os.chown(password_file, self.user.pw_uid, self.user.pw_gid)
        try:
            run([f"{self.bin}/initdb", "-D", self.directory, "-U", "postgres", "--pwfile", password_file,
                 "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"],
                "initdb", cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, **self._as_user())
        finally:
            os.unlink(password_file)

    def _psql(self, statement):
        return run([f"{self.bin}/psql", "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", LOOPBACK,
                    "-p", str(self.port), "-U", "postgres", "-d", "postgres", "-c", statement], "psql",
                   cwd="/", env={"PATH": "/usr/bin:/bin", "PGPASSWORD": self.passwords["postgres"],
                                 "PGCONNECT_TIMEOUT": "10"})

    def _answers(self):
        return subprocess.run([f"{self.bin}/pg_isready", "-q", "-h", LOOPBACK, "-p", str(self.port)],
                              cwd="/").returncode == 0

    def start(self):
        if not os.path.exists(os.path.join(self.directory, "complete")):
            self._initialise()
        child = Child("PostgreSQL", [
            f"{self.bin}/postgres", "-D", self.directory, "-c", f"listen_addresses={LOOPBACK}",
            "-c", f"port={self.port}", "-c", "unix_socket_directories=", "-c", "max_connections=60",
            "-c", "logging_collector=off"],
            self.log_path, cwd="/", user=self.user, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            stop_signal=signal.SIGINT, stop_seconds=30)
        return child

    def wait(self, child):
        child.wait_until(self._answers, "accepting connections")
        marker = os.path.join(self.directory, "complete")
        if not os.path.exists(marker):
            # The daemon's role owns its database and is no superuser, as in life.
            self._psql(f"CREATE ROLE calld LOGIN PASSWORD '{self.passwords['calld']}'")
            self._psql("CREATE DATABASE calld OWNER calld")
            write_private(marker, "")


class Coturn:
    """A TURN server for relaying between programs of this machine: shared secret, loopback peers allowed."""

    def __init__(self, directory, log_path, port, relay, state):
        self.directory, self.log_path, self.port, self.relay = directory, log_path, port, relay
        self.secret = state.setdefault("turnSecret", secrets.token_hex(16))

    @property
    def uris(self):
        return [f"turn:{LOOPBACK}:{self.port}?transport=udp", f"turn:{LOOPBACK}:{self.port}?transport=tcp"]

    @property
    def stun_uri(self):
        return f"stun:{LOOPBACK}:{self.port}"

    def start(self):
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        config = os.path.join(self.directory, "turnserver.conf")
        write_private(config, "\n".join([
            f"listening-ip={LOOPBACK}", f"relay-ip={LOOPBACK}", f"listening-port={self.port}",
            f"min-port={self.relay.first}", f"max-port={self.relay.last}", f"realm={SERVER_NAME}", "fingerprint",
            "use-auth-secret", f"static-auth-secret={self.secret}",
            # allow-loopback-peers needs no-cli; without it nothing is relayed between programs of one machine.
            "allow-loopback-peers", "no-cli", "no-multicast-peers", "stale-nonce=600", "no-tls", "no-dtls",
            f"userdb={self.directory}/turndb", f"pidfile={self.directory}/pid", "log-file=stdout", "simple-log",
            "no-software-attribute", ""]))
        return Child("coturn", [find_program("turnserver", "/usr/sbin"), "-c", config], self.log_path,
                     cwd=self.directory, stop_seconds=5)

    def wait(self, child):
        child.wait_until(lambda: accepts_connections(self.port), "listening")


class Synapse:
    """The homeserver: SQLite, no federation, open registration, default message rate limits."""

    def __init__(self, directory, log_path, port, requirements, state):
        self.directory, self.log_path, self.port = directory, log_path, port
        self.python = self._find_environment(requirements)
        self.secrets = state.setdefault("synapseSecrets", {
            name: secrets.token_hex(24) for name in ("macaroon_secret_key", "form_secret",
                                                     "registration_shared_secret")})
        self.signing_key = state.setdefault(
            "signingKey", "ed25519 a_calld " + base64.b64encode(secrets.token_bytes(32)).decode().rstrip("="))

    @staticmethod
    def _find_environment(requirements):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        with open(requirements, "rb") as listed:
            key = hashlib.sha256(listed.read()).hexdigest()[:16]
        environment = os.path.join(cache, "matrix-calld", f"synapse-{key}")
        if not os.path.exists(os.path.join(environment, "complete")):
            raise StackError("Synapse is not installed; run contrib/install-deps run")
        return os.path.join(environment, "bin", "python")

    @property
    def url(self):
        return f"http://{LOOPBACK}:{self.port}"

    def configure(self, *, registration, coturn, lift_rate_limits):
        os.makedirs(os.path.join(self.directory, "media"), mode=0o700, exist_ok=True)
        key_path = os.path.join(self.directory, "signing.key")
        write_private(key_path, self.signing_key + "\n")
        often = {"per_second": 1000, "burst_count": 1000}
        config = {
            "server_name": SERVER_NAME, "public_baseurl": self.url + "/", "report_stats": False,
            "listeners": [{"port": self.port, "bind_addresses": [LOOPBACK], "type": "http", "tls": False,
                           "x_forwarded": False, "resources": [{"names": ["client"], "compress": False}]}],
            "database": {"name": "sqlite3", "args": {"database": f"{self.directory}/homeserver.db"}},
            "media_store_path": f"{self.directory}/media", "signing_key_path": key_path,
            "pid_file": f"{self.directory}/pid", "log_config": self._write_log_config(),
            # Nothing leaves this machine.
            "trusted_key_servers": [], "federation_domain_whitelist": [], "suppress_key_server_warning": True,
            "url_preview_enabled": False, "presence": {"enabled": False},
            "enable_registration": True, "enable_registration_without_verification": True,
            "allow_guest_access": True, "bcrypt_rounds": 4,
            # rc_message keeps its default unless asked otherwise: what we send has to live with it.
            "rc_registration": often, "rc_joins": {"local": often, "remote": often},
            "rc_login": {"address": often, "account": often, "failed_attempts": often},
            "rc_invites": {"per_room": often, "per_user": often, "per_issuer": often},
            "rc_room_creation": often,
            "turn_uris": coturn.uris, "turn_shared_secret": coturn.secret, "turn_user_lifetime": "1h",
            **self.secrets,
        }
        if lift_rate_limits:
            config["rc_message"] = often
        if registration is not None:
            config["app_service_config_files"] = [registration]
        self.config = os.path.join(self.directory, "homeserver.yaml")
        write_private(self.config, json.dumps(config, indent=1))

    def _write_log_config(self):
        path = os.path.join(self.directory, "log.yaml")
        write_private(path, json.dumps({
            "version": 1, "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
            "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
            # The access log lets a test count what the homeserver was asked.
            "loggers": {"synapse.access": {"level": "INFO"}},
            "root": {"level": "WARNING", "handlers": ["console"]}}))
        return path

    def start(self):
        return Child("Synapse", [self.python, "-m", "synapse.app.homeserver", "-c", self.config], self.log_path,
                     cwd=self.directory, env={"PATH": "/usr/bin:/bin", "HOME": self.directory})

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/_matrix/client/versions", timeout=2) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def wait(self, child):
        child.wait_until(self._answers, "answering")


class Daemon:
    """matrix-calld itself, and the configuration and registration files it is given."""

    def __init__(self, directory, log_path, ports, binary):
        self.directory, self.log_path, self.ports, self.binary = directory, log_path, ports, binary
        self.config = os.path.join(directory, "matrix-calld.conf")
        self.registration = os.path.join(directory, "registration.yaml")
        # A socket's path has 107 bytes at most.
        self.control_socket = os.path.join(directory, "control.sock")
        if len(self.control_socket.encode()) > 107:
            raise StackError(f"{directory}: this path is too long for a unix socket in it; choose a shorter --dir")

    @property
    def url(self):
        return f"http://{LOOPBACK}:{self.ports['daemon']}"

    def register(self):
        """Lets the daemon write its registration; an old one stays while its address is right."""
        url = f"http://{LOOPBACK}:{self.ports['appservice']}"
        if os.path.exists(self.registration):
            with open(self.registration) as current:
                if re.search(rf"^\s*url:\s*[\"']?{re.escape(url)}/?[\"']?\s*$", current.read(), re.MULTILINE):
                    return
            os.unlink(self.registration)
        run([self.binary, "generate-registration", "--server-name", SERVER_NAME, "--url", url,
             "--output", self.registration], "matrix-calld generate-registration", cwd=self.directory,
            env=self._environment())

    @staticmethod
    def _environment():
        """Only the file decides: the environment may hold DATABASE_URL, PORT and the like for something else."""
        return {name: value for name, value in os.environ.items()
                if name in ("PATH", "HOME", "LANG", "TZ") or name.endswith("SAN_OPTIONS")}

    def configure(self, *, postgres, coturn, synapse, extra):
        settings = {
            "server.listen": f"{LOOPBACK}:{self.ports['daemon']}",
            "server.appservice_listen": f"{LOOPBACK}:{self.ports['appservice']}",
            "server.control_socket": self.control_socket,
            "server.call_test": "yes",
            "database.url": postgres.url,
            "matrix.homeserver_url": synapse.url,
            "matrix.server_name": SERVER_NAME,
            "matrix.registration": self.registration,
            "database.spool_dir": os.path.join(self.directory, "spool"),
            "matrix.seal_key_file": os.path.join(self.directory, "seal.key"),
            "ice.stun_urls": coturn.stun_uri,
            "ice.turn_mode": "secret",
            "ice.turn_urls": ", ".join(coturn.uris),
            "ice.turn_secret": coturn.secret,
            # Everyone here shares one address and tries more calls than people place in an hour.
            "limits.connections_per_ip": "1000",
            "limits.starts_per_hour": "1000",
            "limits.room_starts_per_hour": "1000",
            "limits.requests_per_second": "0",
            "limits.user_requests_per_second": "0",
            "limits.events_per_second": "0",
            **extra,
        }
        sections = {}
        for name, value in settings.items():
            section, _, key = name.partition(".")
            sections.setdefault(section, []).append(f"{key} = {value}")
        lines = ["# Written by contrib/quickstart at each start; changes here are lost."]
        for section, entries in sections.items():
            lines += ["", f"[{section}]", *entries]
        write_private(self.config, "\n".join(lines) + "\n")

    def start(self):
        return Child("matrix-calld", [self.binary, "-c", self.config], self.log_path, cwd=self.directory,
                     env=self._environment())

    def wait(self, child):
        child.wait_until(lambda: child.log_contains("ready"), "saying ready")
