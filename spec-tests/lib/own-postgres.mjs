// A PostgreSQL that a test may kill and start again on the same data and port. It is stopped by its pid.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { signalWithChildren } from './process.mjs';
import { until } from './until.mjs';

const root = process.getuid() === 0;

function binDirectory() {
  const base = '/usr/lib/postgresql';
  const versions = existsSync(base) ? readdirSync(base).sort((a, b) => Number(b) - Number(a)) : [];
  const found = versions.map((version) => join(base, version, 'bin')).find((bin) => existsSync(join(bin, 'initdb')));
  if (!found) throw new Error('no PostgreSQL server found; install the package postgresql');
  return found;
}

const idOf = (which) => Number(execFileSync('id', [which, 'postgres'], { encoding: 'utf8' }));

/** The account postgres when we are root: the server refuses to run as root. Its own child, without runuser, which
 * would stop itself when the server is stopped. */
const account = root ? { uid: idOf('-u'), gid: idOf('-g') } : {};

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

class OwnPostgres {
  constructor(directory, bin, port) {
    Object.assign(this, { directory, bin, port });
    this.url = `postgresql://postgres@127.0.0.1:${port}/postgres`;
  }

  get pid() {
    return Number(readFileSync(join(this.directory, 'data/postmaster.pid'), 'utf8').split('\n')[0]);
  }

  answers() {
    try {
      execFileSync(join(this.bin, 'pg_isready'), ['-q', '-h', '127.0.0.1', '-p', String(this.port)]);
      return true;
    } catch {
      return false;
    }
  }

  /** Also after a kill: it recovers first. */
  async start() {
    const args = ['-D', join(this.directory, 'data'), '-p', String(this.port), '-k', this.directory,
      '-c', 'listen_addresses=127.0.0.1', '-c', 'fsync=off'];
    await until(() => {
      if (this.child === undefined || this.child.exitCode !== null || this.child.signalCode !== null) {
        this.child = spawn(join(this.bin, 'postgres'), args, { cwd: this.directory, stdio: 'ignore', ...account });
      }
      return this.answers();
    }, { what: 'PostgreSQL', seconds: 30, everyMs: 100 });
  }

  signal(name) {
    process.kill(this.pid, name);
  }

  /** To the server and its backends. */
  signalAll(name) {
    signalWithChildren(this.pid, name);
  }

  /** As a crash of the machine would: no goodbye, no checkpoint. */
  async kill(signal = 'SIGQUIT') {
    const ended = once(this.child, 'exit');
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.signal(signal);
      await ended;
    }
  }

  async stop() {
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Starts an empty one. */
export async function ownPostgres() {
  const bin = binDirectory();
  const directory = mkdtempSync(join(tmpdir(), 'calld-postgres-'));
  if (root) chownSync(directory, account.uid, account.gid);
  execFileSync(join(bin, 'initdb'), ['-D', join(directory, 'data'), '-U', 'postgres', '-A', 'trust', '-E', 'UTF8',
    '--locale=C', '--no-sync'], { cwd: directory, stdio: 'ignore', ...account });
  const server = new OwnPostgres(directory, bin, await freePort());
  await server.start();
  return server;
}
