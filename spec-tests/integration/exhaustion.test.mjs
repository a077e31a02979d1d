// What a machine can run out of besides a database: descriptors, somebody who reads the log, memory. Newcomers hear so,
// running calls go on and end, nothing spins, and it is over when it is over.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, readlinkSync, rmSync, writeFileSync,
  writeSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { DevCall, control, metric, ready } from '../lib/dev-call.mjs';
import { startDev } from '../lib/dev-daemon.mjs';
import { Mortal } from '../lib/kill9.mjs';
import { startPostgres } from '../lib/postgres.mjs';
import { busyShare, descriptorLimit, descriptors, limitDescriptors } from '../lib/process.mjs';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { severable } from '../lib/severable.mjs';
import { Tab } from '../lib/sockets.mjs';
import { binary, execute, query, quote, startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 60000 };
const folder = mkdtempSync(join(tmpdir(), 'calld-exhaustion-'));
let number = 0;
let database;

before(async () => { database = await startPostgres(); }, limit);
after(async () => {
  await database?.stop();
  rmSync(folder, { recursive: true, force: true });
}, limit);

/** A daemon with a control socket at `admin`. */
async function start(t, env = {}) {
  const admin = join(folder, `${++number}.sock`);
  const dev = await startDev({ env: { CALLD_SERVER_CONTROL_SOCKET: admin, ...env } });
  t.after(() => { if (dev.child.exitCode === null) dev.child.kill('SIGKILL'); }); // only what a failed test left
  return Object.assign(dev, { admin, pid: dev.child.pid, logged: (pattern) => dev.said.find((line) => pattern.test(line)) });
}

async function assertCalm(pid) {
  const share = await busyShare(pid);
  assert.ok(share < 0.3, `it takes ${Math.round(share * 100)} % of a CPU for nothing`);
}

/** A client that connects and says nothing, or what `hello` says. */
class Silent {
  static async open(origin, hello = '') {
    const client = new Silent();
    client.heard = '';
    client.socket = net.connect(Number(new URL(origin).port), '127.0.0.1');
    client.socket.on('error', () => {});
    client.socket.setEncoding('latin1').on('data', (text) => { client.heard += text; });
    client.closed = once(client.socket, 'close');
    await once(client.socket, 'connect');
    if (hello) client.socket.write(hello);
    return client;
  }

  /** One that was answered once, and stays. */
  static async known(origin) {
    const client = await Silent.open(origin, 'GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
    await until(() => client.heard.includes('"ok"'), { what: 'its first answer' });
    client.heard = '';
    return client;
  }

  close() {
    this.socket.destroy();
  }
}

/** Connects until one is answered with 503 (the daemon turned it away). @returns all of them; the last one was */
async function crowd(origin, most) {
  const clients = [];
  const refused = () => clients.find((one) => one.heard.includes(' 503 '));
  while (clients.length < most && !refused()) {
    clients.push(...await Promise.all(Array.from({ length: 8 }, () => Silent.open(origin))));
  }
  await until(refused, { what: 'a newcomer to be turned away' });
  return { clients, refused: refused() };
}

test('clients take all descriptors: newcomers hear 503; database, spool and admin still get theirs', limit, async (t) => {
  const link = await severable(database.url);
  t.after(() => link.close());
  const dev = await start(t, { DATABASE_URL: link.url });
  const call = await DevCall.open(dev);
  const proxy = await Silent.known(dev.origin); // keeps its connection, as proxies do
  const most = descriptors(dev.pid) + 64;
  limitDescriptors(dev.pid, most);
  const { clients, refused } = await crowd(dev.origin, most);
  assert.ok(descriptors(dev.pid) > most * 0.8, `${descriptors(dev.pid)} of ${most} descriptors are taken`);

  const body = JSON.parse(refused.heard.slice(refused.heard.indexOf('\r\n\r\n')));
  assert.equal(body.errcode, 'ORG.CALLD.OVERLOADED');
  assert.ok(body.retry_after_ms > 0);
  assert.match(refused.heard, /^Retry-After: \d+\r$/mi);
  const rest = await dev.as('late').get('/api/calls/active');
  assert.deepEqual([rest.status, rest.body.errcode], [503, 'ORG.CALLD.OVERLOADED']);
  await assert.rejects(Tab.open(dev.origin, { token: 'dev_late' }, { transports: ['websocket'] }));

  proxy.socket.write('GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
    'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n');
  await until(() => proxy.heard.includes('}'), { what: 'an answer for the proxy' });
  assert.match(proxy.heard, /^HTTP\/1\.1 503 [^]*ORG\.CALLD\.OVERLOADED/, 'an upgrade would take two of the last ones');

  assert.equal((await control('/health', dev.admin)).status, 200);
  await call.relay();
  const reconnects = await metric(dev.admin, 'store_reconnects_total');
  await execute(database.url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name LIKE 'matrix-calld write %'`);
  await call.alice.command('toggle-audio', { callId: call.callId, enabled: false }); // durable: over a new connection
  assert.ok(await metric(dev.admin, 'store_reconnects_total') > reconnects);
  assert.deepEqual((await ready(dev.admin)).degraded, []);
  await link.cut(); // and a file for what the database does not take
  await call.alice.command('toggle-audio', { callId: call.callId, enabled: true });
  assert.ok(await metric(dev.admin, 'spool_records') > 0);
  await link.restore();
  await until(async () => (await ready(dev.admin)).degraded.length === 0, { what: 'the database' });
  await assertCalm(dev.pid);

  for (const client of [...clients, proxy]) client.close();
  await until(async () => (await dev.as('late').get('/api/calls/active')).status === 200, { what: 'room for newcomers' });
  await call.end();
  assert.deepEqual(await query(database.url, `SELECT status FROM call_sessions WHERE id = ${quote(call.callId)}`),
    [{ status: 'ended' }]);
  call.close();
  assert.equal(await dev.stop(), 0);
});

test('not one descriptor is left: accept() fails and does not spin, the database cannot be reached again, calls go on', limit, async (t) => {
  const dev = await start(t, { DATABASE_URL: database.url });
  const before = descriptorLimit(dev.pid);
  const call = await DevCall.open(dev);
  const other = await DevCall.open(dev);
  await other.alice.command('call-connected', { callId: other.callId });
  limitDescriptors(dev.pid, 8);
  assert.ok(descriptors(dev.pid) > 8 && descriptorLimit(dev.pid) === 8);
  const waiting = await Silent.open(dev.origin, 'GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  await until(() => dev.logged(/"ev":"accept\.failed".*Too many open files/), { what: 'EMFILE in the log' });
  await assertCalm(dev.pid);
  assert.equal(waiting.heard, '', 'nobody took it');
  await call.relay();
  await call.alice.command('toggle-audio', { callId: call.callId, enabled: false }); // the database is there

  await execute(database.url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name LIKE 'matrix-calld %'`);
  await until(() => dev.logged(/pg\.unreachable.*Too many open files/), { what: 'EMFILE towards the database' });
  await until(() => dev.logged(/degraded\.begin/), { what: 'degraded mode' });
  // Neither the database nor a file can be had: nothing is acknowledged, and it says so.
  const refused = await call.alice.ask('toggle-audio', { callId: call.callId, enabled: true });
  assert.deepEqual([refused.ok, refused.errcode], [false, 'ORG.CALLD.OVERLOADED'], JSON.stringify(refused));
  const end = await other.bob.ask('call-end', { callId: other.callId });
  assert.deepEqual([end.ok, end.errcode], [false, 'ORG.CALLD.OVERLOADED'], JSON.stringify(end));
  await call.relay();
  await assertCalm(dev.pid);
  assert.ok(dev.said.filter((line) => /accept\.failed/.test(line)).length <= 2, 'it is said once, not five times a second');

  limitDescriptors(dev.pid, before);
  await until(() => waiting.heard.startsWith('HTTP/1.1 200'), { what: 'an answer for the one that waited' });
  await until(async () => (await ready(dev.admin)).degraded.length === 0, { what: 'the database' });
  await call.end();
  await other.end();
  const ids = [call, other].map((one) => quote(one.callId)).join();
  assert.deepEqual(await query(database.url, `SELECT status FROM call_sessions WHERE id IN (${ids})`),
    [{ status: 'ended' }, { status: 'ended' }]);
  const [{ n }] = await query(database.url, `SELECT count(*) AS n FROM call_events
    WHERE call_session_id = ${quote(call.callId)} AND event_type LIKE '%toggled'`);
  assert.equal(n, 1, 'what was acknowledged, and not what was refused');
  call.close();
  other.close();
  assert.equal(await dev.stop(), 0);
});

test('no descriptor for the homeserver: strangers hear so, calls go on and end, the room is told afterwards', {
  timeout: 180000,
}, async (t) => {
  const stack = await startStack({ daemon: false, liftRateLimits: true });
  const homeserver = await severable(stack.homeserver);
  const config = join(folder, 'homeserver.conf');
  writeFileSync(config, readFileSync(stack.info.config, 'utf8').replace(/^homeserver_url *=.*$/m,
    `homeserver_url = ${homeserver.url}`), { mode: 0o600 });
  const daemon = new Mortal(config);
  await daemon.start();
  const { pid } = daemon.child;
  const before = descriptorLimit(pid);
  t.after(async () => {
    limitDescriptors(pid, before);
    if (daemon.child.exitCode === null) assert.equal(await daemon.stop(), 0);
    await homeserver.close();
    await stack.stop();
  });
  const { caller, callee, roomId } = await stack.newPair();
  const stranger = await stack.newUser();
  const [alice, bob] = await Promise.all([caller, callee].map((user) => Tab.open(stack.daemon, user, { transports: ['websocket'] })));
  const { callId } = await alice.command('call-initiate', { roomId, offer: offerOf('a') });
  await bob.command('call-answer', { callId, answer: answerOf('b') });
  const heard = async () => (await callee.callEvents(roomId, callId)).map(({ type }) => type.slice('m.call.'.length));
  await until(async () => (await heard()).includes('answer'), { what: 'the answer in the room' });
  const known = await Silent.known(stack.daemon);
  const asStranger = async () => {
    known.heard = '';
    known.socket.write(`GET /api/calls/active HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${stranger.token}\r\n\r\n`);
    return until(() => /\r\n\r\n\{.*\}$/.test(known.heard) && known.heard, { what: 'an answer' });
  };

  limitDescriptors(pid, 8);
  await homeserver.cut(); // the connections that stand would do for long
  await homeserver.restore();
  assert.ok(descriptors(pid) > descriptorLimit(pid), 'not one more can be had');
  assert.match(await asStranger(), /^HTTP\/1\.1 503 [^]*ORG\.CALLD\.HOMESERVER_UNAVAILABLE/);
  alice.socket.emit('ice-candidate', { callId, candidate: candidateOf(1) });
  await bob.next('ice-candidate', callId);
  await bob.command('call-end', { callId });
  await alice.next('call-ended', callId);
  await assertCalm(pid);
  assert.ok(!(await heard()).includes('hangup'), 'it cannot be sent');

  limitDescriptors(pid, before);
  await until(async () => (await asStranger()).startsWith('HTTP/1.1 200'), { what: 'the stranger to be let in' });
  await until(async () => (await heard()).includes('hangup'), { what: 'the hang-up in the room', seconds: 60 });
  assert.equal((await heard()).filter((type) => type === 'hangup').length, 1);
  for (const one of [alice, bob, known]) one.close();
});

/** A pipe with both ends in our hands: {path, reader, writer}. */
function pipe() {
  const path = join(folder, `${++number}.pipe`);
  execFileSync('mkfifo', [path]);
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return { path, reader, writer: openSync(path, constants.O_WRONLY | constants.O_NONBLOCK) };
}

/** Writes until it takes no more. */
function fill(fd) {
  for (const bytes of [4096, 1]) {
    assert.throws(() => { for (;;) writeSync(fd, Buffer.alloc(bytes, 10)); }, { code: 'EAGAIN' });
  }
}

function drain(fd) {
  const chunk = Buffer.alloc(65536);
  let text = '';
  try {
    for (let n; (n = readSync(fd, chunk)) > 0;) text += chunk.toString('utf8', 0, n);
  } catch (error) {
    assert.equal(error.code, 'EAGAIN');
  }
  return text;
}

/** startDev with its stderr there. */
async function startWithStderr(t, stderr, shell) {
  const admin = join(folder, `${++number}.sock`);
  const args = ['--dev', '--listen', '127.0.0.1:0'];
  const env = { PATH: process.env.PATH, TMPDIR: folder, CALLD_SERVER_CONTROL_SOCKET: admin };
  const child = shell ? spawn('sh', ['-c', `exec "$0" "$@" ${shell}`, binary, ...args], { env, stdio: ['ignore', 'pipe', 'ignore'] })
    : spawn(binary, args, { env, stdio: ['ignore', 'pipe', stderr] });
  t.after(() => { if (child.exitCode === null) child.kill('SIGKILL'); });
  let printed = '';
  child.stdout.setEncoding('utf8').on('data', (text) => { printed += text; });
  await until(() => printed.includes('ready\n'), { what: 'ready', everyMs: 5 });
  const stop = async () => {
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    return (await exited)[0];
  };
  return { child, pid: child.pid, admin, origin: printed.match(/listening on (\S+)/)[1], stop };
}

const dropped = (daemon) => metric(daemon.admin, 'log_dropped_total');

/** Makes it write a line. */
async function provoke(daemon) {
  const was = await dropped(daemon);
  daemon.child.kill('SIGHUP');
  return until(async () => await dropped(daemon) > was, { what: 'a line to be lost' });
}

test('nobody reads the log: lines are lost and counted, and nothing waits for it', limit, async (t) => {
  const { path, reader, writer } = pipe();
  const stderr = openSync(path, constants.O_WRONLY);
  const daemon = await startWithStderr(t, stderr);
  closeSync(stderr);
  const call = await DevCall.open(daemon);
  drain(reader);
  fill(writer);
  assert.equal(await dropped(daemon), 0);
  await provoke(daemon); // and /metrics answered
  await call.relay();
  await call.alice.command('toggle-audio', { callId: call.callId, enabled: false });
  await assertCalm(daemon.pid);

  drain(reader);
  daemon.child.kill('SIGHUP');
  let text = '';
  await until(() => { text += drain(reader); return text.includes('reload.done'); }, { what: 'the log again' });
  assert.match(text, /"ev":"lines\.dropped".*[1-9]\d* lines before this one are lost/);

  closeSync(reader); // and now nobody could: EPIPE
  assert.throws(() => writeSync(writer, 'x'), { code: 'EPIPE' });
  await provoke(daemon);
  await call.relay();
  await assertCalm(daemon.pid);
  await call.end();
  call.close();
  assert.equal(await daemon.stop(), 0);
  closeSync(writer);
});

test('without a stderr it starts, and no socket takes its number', limit, async (t) => {
  const daemon = await startWithStderr(t, 'ignore', '2>&-');
  assert.equal(readlinkSync(`/proc/${daemon.pid}/fd/2`), '/dev/null');
  const call = await DevCall.open(daemon);
  daemon.child.kill('SIGHUP');
  await call.end();
  call.close();
  assert.equal(await daemon.stop(), 0);
});

const MIB = 1 << 20;
const BODY = 256 * 1024; // as large as the routes take

/** Clients that announce a body each, and keep it to themselves. */
async function hogs(origin, n) {
  const head = `POST /api/calls/initiate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer dev_hog\r\n` +
    `Content-Type: application/json\r\nContent-Length: ${BODY}\r\n\r\n{`;
  const clients = await Promise.all(Array.from({ length: n }, () => Silent.known(origin)));
  return { clients, send: () => clients.forEach((one) => one.socket.write(head)) };
}

test('the memory budget is used up: bodies and new calls get 503, running calls go on and end', limit, async (t) => {
  const dev = await start(t, { CALLD_LIMITS_MEMORY_MB: '64' });
  const call = await DevCall.open(dev);
  const other = await DevCall.open(dev);
  const kept = await Silent.known(dev.origin); // was there before
  const { clients, send } = await hogs(dev.origin, 64 * MIB / BODY + 16);
  send();
  const used = () => metric(dev.admin, 'memory_bytes', '{for="bodies"}');
  await until(async () => await used() === 64 * MIB, { what: 'a full budget' });
  await until(() => clients.filter((one) => one.heard.includes(' 503 ')).length >= 16, { what: 'the refusals' });
  assert.match(clients.find((one) => one.heard).heard, /ORG\.CALLD\.OVERLOADED/);

  const late = await dev.as('late').get('/api/calls/config');
  assert.deepEqual([late.status, late.body.errcode], [503, 'ORG.CALLD.OVERLOADED'], 'a new connection');
  await call.relay();
  await call.alice.command('toggle-audio', { callId: call.callId, enabled: false });
  await call.alice.refused('call-initiate', { roomId: '!full:dev', invitees: ['@x:dev'] }, 'ORG.CALLD.OVERLOADED');
  await call.end();
  const body = JSON.stringify({ reason: 'user_hangup' });
  kept.socket.write(`POST /api/calls/${other.callId}/end HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${other.alice.user.token}\r\n` +
    `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  await until(() => /^HTTP\/1\.1 \d/.test(kept.heard), { what: 'an answer' });
  assert.match(kept.heard, /^HTTP\/1\.1 200[^]*"status":"ended"/, 'an end is small, and comes through');
  assert.equal((await control('/health', dev.admin)).status, 200);
  assert.equal(await used(), 64 * MIB, 'it is full all the time');
  await assertCalm(dev.pid);
  assert.ok(dev.said.filter((line) => /memory\.full/.test(line)).length <= 3, 'and says so once in a while');

  for (const client of clients) client.close();
  await until(async () => (await dev.as('late').get('/api/calls/config')).status === 200, { what: 'room again' });
  const again = await call.alice.command('call-initiate', { roomId: call.roomId, invitees: [call.bob.user.userId] });
  await call.alice.command('call-end', { callId: again.callId });
  for (const one of [call, other]) one.close();
  kept.close();
  assert.equal(await dev.stop(), 0);
});

/** How a client stops reading. */
const deaf = {
  websocket: (engine) => engine.transport.ws._socket.pause(),
  polling: (engine) => { engine.transport.doPoll = () => {}; },
};

for (const [transport, stopReading] of Object.entries(deaf)) {
  test(`queues use up the memory budget: the owner of the largest (${transport}) goes, and nobody else`, limit, async (t) => {
    const dev = await start(t, { CALLD_LIMITS_MEMORY_MB: '64', CALLD_LIMITS_SOCKET_QUEUE_BYTES: String(128 * MIB),
      CALLD_LIMITS_SOCKET_QUEUE_MESSAGES: '100000' });
    const call = await DevCall.open(dev);
    const slow = await DevCall.open(dev, { transports: [transport] });
    const { engine } = slow.bob.socket.io;
    stopReading(engine);
    const big = { ...offerOf('big'), sdp: `${offerOf('big').sdp}a=x-filler:${'x'.repeat(60000)}\r\n` };
    const closed = /memory\.full.*largest queue, [1-9]\d{6,} bytes, was closed/;
    await until(async () => {
      await Promise.all(Array.from({ length: 16 }, () => slow.alice.ask('webrtc-offer', { callId: slow.callId, offer: big })));
      return dev.logged(closed);
    }, { what: 'the largest queue to be closed', everyMs: 1, seconds: 40 });
    await call.relay();
    for (const tab of [call.alice, call.bob, slow.alice]) assert.ok(tab.socket.connected, tab.user.userId);
    await until(async () => await metric(dev.admin, 'memory_bytes', '{for="queues"}') < MIB, { what: 'the memory back' });
    assert.equal(dev.said.filter((line) => closed.test(line)).length, 1);
    await slow.alice.command('call-end', { callId: slow.callId });
    await call.end();
    engine.transport.ws?.terminate(); // it would wait half a minute for the end that it does not read
    for (const one of [call, slow]) one.close();
    assert.equal(await dev.stop(), 0);
  });
}
