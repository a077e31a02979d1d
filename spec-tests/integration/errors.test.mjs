// A real homeserver or database that stops answering, and the settings of [database]: what clients are told meanwhile.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test, { after, before } from 'node:test';
import { isStopped, signalWithChildren } from '../lib/process.mjs';
import { offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { binary, query, startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 180000 };
const schema = 'calls_of_ours';
const sealKey = join(mkdtempSync(join(tmpdir(), 'calld-seal-')), 'seal.key');
let stack;

before(async () => {
  stack = await startStack({ set: { 'database.schema': schema, 'matrix.seal_key_file': sealKey,
    'limits.starts_per_hour': 3, 'database.spool_max_mb': 8 } });
}, limit);

after(async () => {
  await stack?.stop();
  rmSync(join(sealKey, '..'), { recursive: true, force: true });
}, limit);

function body(reply, status = 200) {
  assert.equal(reply.status, status, JSON.stringify(reply.body));
  return reply.body;
}

function refused(reply, status, errcode) {
  assert.equal(reply.status, status, JSON.stringify(reply.body));
  assert.equal(reply.body.errcode, errcode, JSON.stringify(reply.body));
  return reply.body;
}

const path = (call, rest = '') => `/api/calls/${encodeURIComponent(call.callId)}${rest}`;

/** Stops a server of the stack as a debugger would: its connections stay, and nothing is answered. */
async function whileStopped(name, work) {
  const pid = stack.info.pids[name];
  signalWithChildren(pid, 'SIGSTOP');
  try {
    await until(() => isStopped(pid), { what: `${name} to be stopped`, everyMs: 1 });
    await work();
  } finally {
    signalWithChildren(pid, 'SIGCONT');
  }
}

test('calls are kept in database.schema, tokens sealed with seal_key_file', limit, async () => {
  const pair = await stack.newPair();
  const call = body(await stack.as(pair.caller).post('/api/calls/initiate', { roomId: pair.roomId }), 201);
  const rows = await stack.query(`SELECT status::text FROM ${schema}.call_sessions WHERE id = '${call.callId}'`);
  assert.deepEqual(rows, [{ status: 'ringing' }]);
  assert.deepEqual(await stack.query("SELECT 1 AS one FROM pg_namespace WHERE nspname = 'calld'"), []);
  assert.equal(statSync(sealKey).size, 32);
  assert.equal(statSync(sealKey).mode & 0o777, 0o600);
  const dump = JSON.stringify(
    await stack.query(`SELECT encode(sealed, 'escape') AS text FROM ${schema}.sealed_tokens`));
  assert.ok(!dump.includes(pair.caller.token));
  body(await stack.as(pair.caller).post(path(call, '/end')));
});

test('starts at the same time count each other, whatever the database takes for them', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const rooms = [roomId, ...await Promise.all(Array.from({ length: 5 }, () => caller.roomWith(callee)))];
  const start = (room) => stack.as(caller).post('/api/calls/initiate', { roomId: room });
  for (const room of rooms) { // who is in there is known from now on
    refused(await stack.as(caller).post('/api/calls/initiate', { roomId: room, invitees: ['@nobody:calld.localhost'] }),
      400, 'M_INVALID_PARAM');
  }
  const replies = [];
  await whileStopped('PostgreSQL', async () => {
    const all = rooms.map(async (room) => replies.push(await start(room)));
    await until(() => replies.length >= 3, { what: 'the refusals', seconds: 30 });
    for (const reply of replies.slice(0, 3)) refused(reply, 429, 'M_LIMIT_EXCEEDED');
    await Promise.all(all);
  });
  const started = replies.filter(({ status }) => status === 201);
  assert.equal(started.length, 3, JSON.stringify(replies.map((reply) => reply.body)));
  for (const { body: call } of started) body(await stack.as(caller).post(path(call, '/end')));
  await until(async () => (await (await fetch(`${stack.daemon}/ready`)).json()).degraded.length === 0,
    { what: 'the database', seconds: 30 });
});

test('the fourth start within an hour is refused, ends and answers are not', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  for (let index = 0; index < 3; index++) {
    const call = body(await stack.as(caller).post('/api/calls/initiate', { roomId }), 201);
    body(await stack.as(callee).post(path(call, '/answer')));
    body(await stack.as(caller).post(path(call, '/end')));
  }
  assert.ok(refused(await stack.as(caller).post('/api/calls/initiate', { roomId }), 429, 'M_LIMIT_EXCEEDED')
    .retry_after_ms > 0);
});

test('a homeserver that hangs: new tokens wait and get 503, known users go on', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const newcomer = await stack.newUser();
  const b = await Tab.open(stack.daemon, callee);
  const call = body(await stack.as(caller).post('/api/calls/initiate', { roomId, offer: offerOf('a') }), 201);
  await b.next('call-ringing', call.callId);
  await whileStopped('Synapse', async () => {
    refused(await stack.as(newcomer).get('/api/calls/active'), 503, 'ORG.CALLD.HOMESERVER_UNAVAILABLE');
    await b.command('call-answer', { callId: call.callId });
    assert.equal(body(await stack.as(caller).get(path(call))).status, 'accepted');
  });
  await until(async () => (await stack.as(newcomer).get('/api/calls/active')).status === 200,
    { what: 'the homeserver' });
  body(await stack.as(caller).post(path(call, '/end')));
  b.close();
});

test('another tab of the same user: SEAT_TAKEN, by join and by name of the party', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const [a, second] = await Promise.all([Tab.open(stack.daemon, caller), Tab.open(stack.daemon, caller)]);
  const { callId, partyId } = await a.command('call-initiate', { roomId, offer: offerOf('a') });
  await second.refused('join-call', { callId }, 'ORG.CALLD.SEAT_TAKEN');
  await second.refused('join-call', { callId, partyId }, 'ORG.CALLD.SEAT_TAKEN');
  await second.refused('ice-candidate', { callId, candidate: { candidate: '' } }, 'ORG.CALLD.SEAT_TAKEN');
  body(await stack.as(callee).post(path({ callId }, '/reject')));
  a.close();
  second.close();
});

/** A daemon beside the stack's, on its database, with other settings; what it said when it ended. */
async function another(changes) {
  const directory = mkdtempSync(join(tmpdir(), 'calld-another-'));
  const config = join(directory, 'calld.conf');
  let text = readFileSync(stack.info.config, 'utf8');
  const settings = { 'server.listen': '127.0.0.1:0', 'server.appservice_listen': '127.0.0.1:0',
    'server.control_socket': join(directory, 'control.sock'), 'database.spool_dir': join(directory, 'spool'),
    ...changes };
  for (const [name, value] of Object.entries(settings)) {
    const [section, key] = name.split('.');
    text = `${text.replace(new RegExp(`^${key} *=.*\n`, 'm'), '')}\n[${section}]\n${key} = ${value}\n`;
  }
  writeFileSync(config, text, { mode: 0o600 });
  const child = spawn(binary, ['-c', config], { stdio: ['ignore', 'pipe', 'pipe'] });
  const said = { stdout: '', stderr: '' };
  for (const name of Object.keys(said)) {
    child[name].setEncoding('utf8').on('data', (more) => { said[name] += more; });
  }
  const closed = once(child, 'close');
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    const [code, signal] = await closed;
    rmSync(directory, { recursive: true, force: true });
    return signal ?? code;
  };
  /** Waits for its own end, without a signal. */
  const end = async () => {
    await until(() => child.exitCode !== null || child.signalCode !== null, { what: 'its end' });
    return stop();
  };
  return { said, stop, end, ready: () => until(() => {
    assert.equal(child.exitCode, null, said.stderr);
    return said.stdout.includes('ready');
  }, { what: 'the other daemon' }) };
}

const schemas = async () => (await query(stack.info.databaseUrl, 'SELECT nspname AS name FROM pg_namespace'))
  .map((row) => row.name);

test('database.auto_migrate = no leaves the database as it is', limit, async () => {
  const daemon = await another({ 'database.schema': 'untouched', 'database.auto_migrate': 'no' });
  assert.notEqual(await daemon.end(), 0);
  assert.match(daemon.said.stderr, /would apply 004_voice_video_calls/);
  assert.ok(!daemon.said.stdout.includes('ready'));
  assert.ok(!(await schemas()).includes('untouched'));
});

test('database.auto_migrate = yes makes the schema, and the key files are read', limit, async () => {
  const newKey = `${sealKey}.new`;
  const settings = { 'database.schema': 'made', 'database.auto_migrate': 'yes', 'matrix.seal_key_file': newKey };
  const daemon = await another({ ...settings, 'matrix.seal_key_file_previous': sealKey });
  await daemon.ready();
  assert.ok((await schemas()).includes('made'));
  assert.ok(existsSync(newKey));
  assert.equal(await daemon.stop(), 0, daemon.said.stderr);
  const without = await another({ ...settings, 'matrix.seal_key_file_previous': `${sealKey}.gone` });
  assert.notEqual(await without.end(), 0);
  assert.ok(without.said.stderr.includes(`${sealKey}.gone`), without.said.stderr);
});

test('database.spool_dir serves one daemon; a file in its place is refused', limit, async () => {
  const directory = join(dirname(stack.info.config), 'spool');
  const second = await another({ 'database.spool_dir': directory });
  assert.notEqual(await second.end(), 0);
  assert.ok(second.said.stderr.includes(`${directory} is in use by another matrix-calld`), second.said.stderr);
  const third = await another({ 'database.spool_dir': stack.info.config });
  assert.notEqual(await third.end(), 0);
  assert.match(third.said.stderr, /spool_dir .*: cannot open the directory/);
});

test('no such database, or no registration, where the settings say: an error that names it', limit, async () => {
  for (const [name, value] of [['database.url', stack.info.databaseUrl.replace(/\/[^/]*$/, '/none')],
    ['matrix.registration', `${sealKey}.no-registration`]]) {
    const daemon = await another({ [name]: value });
    assert.notEqual(await daemon.end(), 0, name);
    assert.match(daemon.said.stderr, new RegExp(name === 'database.url' ? 'database|PostgreSQL' : 'registration'));
  }
});

test('a database that keeps us waiting: calls go on, and it gets them afterwards', limit, async () => {
  const { caller, roomId } = await stack.newPair();
  const ringing = await stack.newPair();
  const call = body(await stack.as(ringing.caller).post('/api/calls/initiate', { roomId: ringing.roomId }), 201);
  body(await stack.as(caller).get('/api/calls/active'));
  const rival = spawn('psql', ['-X', '-q', '-d', stack.info.databaseUrl], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(rival, 'exit');
  rival.stdin.write(`BEGIN; LOCK TABLE ${schema}.call_sessions; SELECT 'locked';\n`);
  await once(rival.stdout, 'data');
  try {
    const fresh = body(await stack.as(caller).post('/api/calls/initiate', { roomId }), 201);
    const ready = await (await fetch(`${stack.daemon}/ready`)).json();
    assert.deepEqual(ready, { ready: true, state: 'running', degraded: ['postgresql'] });
    assert.equal(body(await stack.as(caller).post(path(fresh, '/end'))).status, 'canceled');
    assert.equal(body(await stack.as(ringing.caller).get(path(call))).status, 'ringing', 'what is known is answered');
  } finally {
    rival.stdin.end('ROLLBACK;\n');
    await ended;
  }
  assert.equal((await stack.as(ringing.caller).post(path(call, '/end'))).status, 200);
  await until(async () => (await (await fetch(`${stack.daemon}/ready`)).json()).degraded.length === 0,
    { what: 'the database' });
  const rows = await query(stack.info.databaseUrl, `SELECT status FROM ${schema}.call_sessions
    WHERE room_id IN ('${roomId}', '${ringing.roomId}')`);
  assert.deepEqual(rows.map((row) => row.status), ['canceled', 'canceled']);
});
