// contrib/quickstart as scripts use it: what it writes, what a second run keeps, and that nothing outlives it.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { promisify } from 'node:util';
import { request } from '../lib/matrix.mjs';
import { rawRequest } from '../lib/raw-http.mjs';
import { binary, query, top } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 180000 };
const run = promisify(execFile);
let directory;
let running;

before(() => {
  directory = mkdtempSync(join(tmpdir(), 'calld-quickstart-'));
  chmodSync(directory, 0o711);
});

after(async () => {
  if (running) await stop('SIGTERM');
  rmSync(directory, { recursive: true, force: true });
}, limit);

async function start() {
  const json = join(directory, 'stack.json');
  rmSync(json, { force: true });
  const child = spawn(join(top, 'contrib/quickstart'), ['--dir', directory, '--json', json, '--matrix-calld', binary,
    '--no-build', '--stop-with-parent'], { stdio: ['ignore', 'pipe', 'pipe'] });
  running = { child, output: '' };
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => { running.output += text; });
  }
  await until(() => existsSync(json) || child.exitCode !== null, { what: 'quickstart', seconds: 150 });
  assert.ok(existsSync(json), running.output);
  const info = JSON.parse(readFileSync(json, 'utf8'));
  assert.equal(statSync(json).mode & 0o077, 0, 'tokens are for their owner only');
  return info;
}

async function stop(signal) {
  const { child } = running;
  running = undefined;
  if (child.exitCode === null) {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await ended;
  }
  return child.exitCode;
}

const lives = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('a --json that cannot be written is refused before anything is built', limit, async () => {
  for (const [json, ...rest] of [['--json', join(directory, 'nowhere', 'stack.json')], [`--json=${directory}`]]) {
    const refused = await run(join(top, 'contrib/quickstart'), ['--dir', directory, json, ...rest]).catch((error) => error);
    assert.equal(refused.code, 2, refused.stderr);
    assert.match(refused.stderr, /^quickstart: --json .*: no file can be written there; name another\n$/);
  }
});

test('what it writes is usable; a second run keeps accounts, room and data; nothing outlives it', limit, async () => {
  const first = await start();
  assert.deepEqual(Object.keys(first).filter((key) => ['homeserver', 'daemon', 'serverName', 'users', 'roomId',
    'config', 'registration', 'databaseUrl', 'turnUris', 'turnSecret'].includes(key)).length, 10);
  for (const origin of [first.homeserver, first.daemon]) assert.equal(new URL(origin).origin, origin);
  assert.equal((await request(first.daemon, 'GET', '/health')).status, 200);
  assert.equal((await request(first.daemon, 'GET', '/call-test.html')).status, 200);
  for (const user of first.users) {
    const whoami = await request(first.homeserver, 'GET', '/_matrix/client/v3/account/whoami', { token: user.accessToken });
    assert.equal(whoami.body.user_id, user.userId);
  }
  const room = `/_matrix/client/v3/rooms/${encodeURIComponent(first.roomId)}`;
  const [token] = first.users.map((user) => user.accessToken);
  const members = await request(first.homeserver, 'GET', `${room}/joined_members`, { token });
  assert.deepEqual(Object.keys(members.body.joined).sort(), first.users.map((user) => user.userId).sort());
  assert.equal((await request(first.homeserver, 'GET', `${room}/state/m.room.encryption`, { token })).status, 404);
  assert.equal((await request(first.homeserver, 'GET', `${room}/state/m.room.join_rules`, { token })).body.join_rule,
    'invite');
  await query(first.databaseUrl, 'SELECT 1 FROM call_sessions');
  if (process.getuid() === 0) {
    // Any account of the machine may use the URL with plain psql.
    const { stdout } = await run('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'psql', '-X', '-At',
      '-d', first.databaseUrl, '-c', 'SELECT 1'], { cwd: '/', env: { PATH: process.env.PATH, HOME: '/' } });
    assert.equal(stdout.trim(), '1');
  }
  const call = await request(first.daemon, 'POST', '/api/calls/initiate', { token, body: { roomId: first.roomId } });
  assert.equal(call.status, 201, JSON.stringify(call.body));
  assert.equal(await stop('SIGINT'), 0);
  for (const [name, pid] of Object.entries(first.pids)) assert.equal(lives(pid), false, `${name} is gone`);

  const second = await start();
  assert.equal(second.roomId, first.roomId);
  assert.deepEqual(second.users.map((user) => [user.userId, user.password]),
    first.users.map((user) => [user.userId, user.password]));
  // fetch would try a connection that it kept open to the first run's daemon.
  const again = await rawRequest(second.daemon, 'GET', `/api/calls/${call.body.callId}`,
    { token: second.users[0].accessToken });
  assert.equal(again.status, 200, JSON.stringify(again.body));

  // A server that dies ends the whole, with its name and its log.
  const { output } = running;
  assert.match(output, /call-test\.html#homeserver=/);
  const ended = new Promise((resolve) => running.child.once('exit', resolve));
  process.kill(second.pids.coturn, 'SIGKILL');
  assert.equal(await ended, 1);
  assert.match(running.output, /coturn ended/);
  running = undefined;
  for (const [name, pid] of Object.entries(second.pids)) assert.equal(lives(pid), false, `${name} is gone`);
});
