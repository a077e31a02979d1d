// Drives fetch_agent (fetch, auth, rooms and outbox on a real loop) for the tests beside this file.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FakeHomeserver } from '../lib/fake-homeserver.mjs';
import { MatrixUser } from '../lib/matrix.mjs';
import { until } from '../lib/until.mjs';

const build = process.env.BUILD_DIR ?? fileURLToPath(new URL('../../build', import.meta.url));
const program = process.env.FETCH_AGENT ?? join(build, 'spec-tests/contract/fetch_agent');

/** Is this run against a real homeserver (one that lets anybody register)? */
export const real = Boolean(process.env.HOMESERVER_URL);

/** A test that needs a homeserver which fails on demand; not there in a run against a real one. */
export const onFake = real ? () => {} : test;

export class Agent {
  #waiting = new Map();
  #lastId = 0;

  constructor(env) {
    this.events = [];
    this.child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, ...env } });
    this.child.on('error', (error) => { throw error; }); // not built: say so instead of waiting
    this.exit = new Promise((resolve) => this.child.on('exit', (code, signal) => resolve(signal ?? code)));
    createInterface({ input: this.child.stdout }).on('line', (line) => {
      let said;
      try {
        said = JSON.parse(line);
      } catch {
        return; // libwebsockets has its own ideas about stdout
      }
      if (said.id === undefined) {
        this.events.push(said);
        return;
      }
      this.#waiting.get(said.id)?.(said);
      this.#waiting.delete(said.id);
    });
  }

  /** Starts a command; its reply. */
  do(what, args = {}) {
    const id = ++this.#lastId;
    const reply = new Promise((resolve) => this.#waiting.set(id, resolve));
    this.child.stdin.write(`${JSON.stringify({ id, do: what, ...args })}\n`);
    return reply;
  }

  /** Commands that have no reply yet. */
  get open() {
    return this.#waiting.size;
  }

  named(event) {
    return this.events.filter((said) => said.event === event);
  }

  /** The `finished` event of one row. */
  finished(txn) {
    return until(() => this.named('finished').find((said) => said.txn === txn), { what: `${txn} finished` });
  }

  /** Ends the program; it must have freed everything (sanitizers say so by the exit status). */
  async stop() {
    this.child.stdin.end();
    assert.equal(await this.exit, 0, 'the agent ends cleanly');
  }
}

/** A homeserver (fake, or the one of HOMESERVER_URL), an agent that uses it, and both stopped after the test. */
export async function setUp(t, { env, start = {}, serverName } = {}) {
  const fake = real ? undefined : await FakeHomeserver.start({ serverName });
  const url = fake?.url ?? process.env.HOMESERVER_URL;
  const newUser = async (options) => {
    const user = await MatrixUser.register(url, `u${randomUUID().slice(0, 8)}`, options);
    return user;
  };
  const name = fake?.serverName ?? (await newUser()).userId.replace(/^[^:]*:/, '');
  const agent = new Agent(env);
  t.after(async () => {
    await agent.stop();
    fake?.release();
    await fake?.stop();
  });
  await agent.do('start', { homeserver: url, serverName: name, ...start });
  fake?.requests.splice(0);
  return { agent, fake, url, newUser, serverName: name };
}

/** Signs a user in at the agent, so that later commands can name it. */
export async function know(agent, ...users) {
  for (const user of users) assert.equal((await agent.do('auth', { token: user.token, ip: user.userId })).rc, 'OK');
}
