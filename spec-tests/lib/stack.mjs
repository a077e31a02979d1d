// Starts the whole stack (PostgreSQL, coturn, Synapse, the daemon) for a test file, and stops it by process id.

import { execFile, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { MatrixUser, request } from './matrix.mjs';
import { until } from './until.mjs';

export const top = new URL('../../', import.meta.url).pathname;

/** The daemon under test: $MATRIX_CALLD, or what contrib/quickstart builds. */
export const binary = process.env.MATRIX_CALLD ?? join(top, 'build/matrix-calld');

const run = promisify(execFile);

/** Rows of a query as objects, through plain psql: what an administrator would see. */
export async function query(databaseUrl, sql) {
  const { stdout } = await run('psql', ['-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', databaseUrl, '-c',
    `SELECT coalesce(json_agg(row_to_json(t)), '[]') FROM (${sql}) t`],
  { env: { ...process.env, PGOPTIONS: '-c search_path=calld' }, maxBuffer: 64 << 20 });
  return JSON.parse(stdout);
}

/** Statements without rows. */
export async function execute(databaseUrl, sql) {
  await run('psql', ['-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', databaseUrl, '-c', sql],
    { env: { ...process.env, PGOPTIONS: '-c search_path=calld' } });
}

/** A literal for `query`. */
export const quote = (text) => `'${String(text).replaceAll("'", "''")}'`;

/** The daemon's REST API as one user. */
export class CallClient {
  constructor(origin, token) {
    Object.assign(this, { origin, token });
  }

  get(path, options) {
    return request(this.origin, 'GET', path, { token: this.token, ...options });
  }

  post(path, body = {}, options = {}) {
    return request(this.origin, 'POST', path, { token: this.token, body, ...options });
  }
}

class Stack {
  constructor(directory, child, output) {
    Object.assign(this, { directory, child, output });
  }

  ready(info) {
    this.info = info;
    this.homeserver = info.homeserver;
    this.daemon = info.daemon;
    this.roomId = info.roomId;
    this.users = info.users.map((user) => new MatrixUser(info.homeserver, user));
  }

  /** The REST API as `user` (a MatrixUser). */
  as(user) {
    return new CallClient(this.daemon, user.token);
  }

  query(sql) {
    return query(this.info.databaseUrl, sql);
  }

  /** A new account. */
  newUser(options) {
    return MatrixUser.register(this.homeserver, undefined, options);
  }

  /** Two new accounts in a room of their own: tests in one file do not meet. */
  async newPair() {
    const [caller, callee] = await Promise.all([this.newUser(), this.newUser()]);
    return { caller, callee, roomId: await caller.roomWith(callee) };
  }

  /** What a server wrote to its log so far: postgres, coturn, synapse or matrix-calld. */
  log(name) {
    return readFileSync(join(this.directory, 'log', `${name}.log`), 'utf8');
  }

  /** Stops everything; fails when the daemon died or ended badly (a leak report, say). `keep`: the data stays. */
  async stop({ keep = false } = {}) {
    const code = await stopChild(this.child);
    const output = this.output();
    if (code === 0 && !keep) rmSync(this.directory, { recursive: true, force: true });
    if (code !== 0) throw new Error(`the stack ended with ${code}; ${this.directory} is kept:\n${output}`);
  }
}

async function stopChild(child) {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await ended;
  }
  return child.exitCode ?? child.signalCode;
}

/**
 * Starts everything and waits until it is ready.
 * @param {object} options
 * @param {Record<string, string|number>} [options.set] daemon settings, `section.key`
 * @param {boolean} [options.liftRateLimits] no rc_message in Synapse (matrix-js-sdk loses events to it)
 * @param {number} [options.users] how many accounts
 * @param {boolean} [options.daemon] false: the test starts the daemon itself, with info.config
 * @param {boolean} [options.appservice] false: a plain homeserver without us
 * @param {string} [options.mayEnd] a server that the test kills, and starts again itself
 * @param {string} [options.directory] of a stack that was stopped with `keep`
 * @returns {Promise<Stack>}
 */
export async function startStack({ set = {}, liftRateLimits = false, users = 2, daemon = true,
  appservice = true, mayEnd, directory = mkdtempSync(join(tmpdir(), 'calld-test-')) } = {}) {
  chmodSync(directory, 0o711);
  const json = join(directory, 'stack.json');
  rmSync(json, { force: true });
  const child = spawn('python3', [join(top, 'contrib/lib/stack.py'), '--dir', directory, '--json', json,
    '--matrix-calld', binary, '--users', String(users), '--stop-with-parent',
    ...(liftRateLimits ? ['--lift-rate-limits'] : []), ...(daemon ? [] : ['--no-daemon']),
    ...(appservice ? [] : ['--no-appservice']), ...(mayEnd ? ['--may-end', mayEnd] : []),
    ...Object.entries(set).flatMap(([key, value]) => ['--set', `${key}=${value}`])],
  { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => { output = (output + text).slice(-20000); });
  }
  const stack = new Stack(directory, child, () => output);
  try {
    await until(() => {
      if (child.exitCode !== null || child.signalCode !== null) return true;
      return existsSync(json);
    }, { what: 'the stack', seconds: 180 });
  } catch (error) {
    await stopChild(child);
    throw new Error(`${error.message}\n${output}`);
  }
  if (!existsSync(json)) throw new Error(`the stack did not start:\n${output}`);
  stack.ready(JSON.parse(readFileSync(json, 'utf8')));
  return stack;
}
