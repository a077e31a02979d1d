// Daemons on one database and one homeserver: each a process with addresses and a spool directory of its own.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { CallClient, binary } from './stack.mjs';
import { until } from './until.mjs';

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** One daemon of several. The first takes the stack's own addresses, where the homeserver finds it. */
export class Node {
  constructor(stack, name, first) {
    Object.assign(this, { stack, name, first });
    this.directory = join(stack.directory, `node-${name}`);
  }

  async start({ env = {} } = {}) {
    if (!this.origin) {
      const port = this.first ? Number(new URL(this.stack.daemon).port) : await freePort();
      this.origin = `http://127.0.0.1:${port}`;
      this.env = { CALLD_DATABASE_SPOOL_DIR: this.directory,
        ...(this.first ? {} : { CALLD_SERVER_LISTEN: `127.0.0.1:${port}`,
          CALLD_SERVER_APPSERVICE_LISTEN: `127.0.0.1:${await freePort()}`,
          CALLD_SERVER_CONTROL_SOCKET: join(this.stack.directory, `${this.name}.sock`) }) };
    }
    this.said = '';
    this.child = spawn(binary, ['-c', this.stack.info.config],
      { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...this.env, ...env } });
    this.child.stderr.setEncoding('utf8').on('data', (text) => { this.said = (this.said + text).slice(-200000); });
    this.ended = once(this.child, 'exit');
    const lines = createInterface({ input: this.child.stdout });
    const [line] = await Promise.race([once(lines, 'line'), this.ended.then(() => ['(ended)'])]);
    assert.equal(line, 'ready', this.said);
    return this;
  }

  get runs() {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  async stop(signal = 'SIGTERM') {
    if (!this.runs) return undefined;
    this.child.kill('SIGCONT');
    this.child.kill(signal);
    return (await this.ended)[0];
  }

  /** The REST API as `user`. */
  as(user) {
    return new CallClient(this.origin, user.token);
  }
}

/** Waits until each of two has heard of the other: before that they may believe that they are alone. */
export async function haveMet(nodes) {
  for (const node of nodes) await until(() => /lease\.peers.*1 other/.test(node.said), { what: 'the other daemon' });
}
