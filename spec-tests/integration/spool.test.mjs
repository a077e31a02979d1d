// PostgreSQL goes away in mid-call, or is not there at the start: calls go on, Matrix is told, and when it is back
// everything stands in its tables, once.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { appendFileSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { Mortal } from '../lib/kill9.mjs';
import { ownPostgres } from '../lib/own-postgres.mjs';
import { candidateOf, offerOf } from '../lib/sdp.mjs';
import { severable } from '../lib/severable.mjs';
import { Tab } from '../lib/sockets.mjs';
import { query, quote, startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;
let database;
let proxy;
let daemon;
let directory;

/** The stack's settings with some of ours. */
function configure(settings) {
  let text = readFileSync(stack.info.config, 'utf8');
  for (const [name, value] of Object.entries(settings)) {
    const [section, key] = name.split('.');
    text = `${text.replace(new RegExp(`^${key} *=.*\n`, 'm'), '')}\n[${section}]\n${key} = ${value}\n`;
  }
  writeFileSync(stack.info.config, text, { mode: 0o600 });
}

before(async () => {
  [stack, database] = await Promise.all([startStack({ daemon: false, liftRateLimits: true,
    set: { 'limits.starts_per_hour': 0, 'limits.connections_per_ip': 0 } }), ownPostgres()]);
  proxy = await severable(database.url);
  directory = join(stack.directory, 'own-spool');
  configure({ 'database.url': proxy.url, 'database.spool_dir': directory });
  daemon = new Mortal(stack.info.config);
  await daemon.start();
}, { timeout: 180000 });

after(async () => {
  if (daemon?.child?.exitCode === null && daemon.child.signalCode === null) await daemon.stop();
  await proxy?.close();
  await database?.stop();
  await stack?.stop();
}, limit);

const rows = (sql) => query(database.url, sql);
const ready = async () => {
  const reply = await fetch(`${stack.daemon}/ready`);
  return { status: reply.status, ...await reply.json() };
};
const untilDegraded = (names) => until(async () =>
  JSON.stringify((await ready()).degraded) === JSON.stringify(names), { what: `degraded: ${names}`, seconds: 40 });

async function post(user, path, body, status = 200) {
  const reply = await stack.as(user).post(path, body);
  assert.equal(reply.status, status, `${path}: ${JSON.stringify(reply.body)}`);
  return reply.body;
}
const initiate = ({ caller, roomId }, body) => post(caller, '/api/calls/initiate', { roomId, ...body }, 201);

function metric(name) {
  return new Promise((resolve, reject) => {
    http.get({ socketPath: stack.info.controlSocket, path: '/metrics' }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += chunk; });
      response.on('end', () => resolve(Number(text.match(new RegExp(`^calld_${name} (\\S+)$`, 'm'))?.[1])));
    }).on('error', reject);
  });
}

/** How the database goes away, and comes back. */
const faults = {
  'killed by its pid': { strike: () => database.kill(), heal: () => database.start() },
  'connections refused': { strike: () => proxy.cut(), heal: () => proxy.restore() },
  'connections reset, new ones get no answer': { strike: () => proxy.hang(),
    heal: async () => { await proxy.cut(); await proxy.restore(); } },
  'hung (SIGSTOP)': {
    strike: () => { database.signalAll('SIGSTOP'); },
    heal: () => { database.signalAll('SIGCONT'); } },
};

test('what was answered under an Idempotency-Key before PostgreSQL hung is the answer while it does', limit, async (t) => {
  const [pair, other] = await Promise.all([stack.newPair(), stack.newPair()]);
  const key = (text) => ({ headers: { 'Idempotency-Key': `${text} ${pair.roomId}` } });
  const as = stack.as(pair.caller);
  const start = ['/api/calls/initiate', { roomId: pair.roomId }];
  const ended = (await as.post(...start, key('first'))).body;
  assert.equal((await as.post(`/api/calls/${ended.callId}/end`, {}, key('end'))).status, 200);
  const { callId } = (await as.post(...start, key('second'))).body;
  await post(pair.callee, `/api/calls/${callId}/answer`, {});
  const toggle = [`/api/calls/${callId}/toggle-audio`, {}, key('toggle')];
  const muted = (await as.post(...toggle)).body;
  assert.equal(muted.audioEnabled, false);

  const fault = faults['hung (SIGSTOP)'];
  let away = false;
  t.after(() => away && fault.heal());
  fault.strike();
  away = true;
  await initiate(other);
  assert.deepEqual((await ready()).degraded, ['postgresql'], 'the fault did happen');
  assert.deepEqual((await as.post(...toggle)).body, muted);
  assert.equal((await as.get(`/api/calls/${callId}`)).body.participants
    .find(({ userId }) => userId === pair.caller.userId).audioEnabled, false, 'it was not switched again');
  const differs = await as.post(toggle[0], { enabled: true }, key('toggle'));
  assert.deepEqual([differs.status, differs.body.errcode], [422, 'ORG.CALLD.IDEMPOTENCY_MISMATCH']);
  for (const [name, id] of [['first', ended.callId], ['second', callId]]) {
    const again = await as.post(...start, key(name));
    assert.deepEqual([again.status, again.body.callId], [201, id], name);
  }
  assert.equal((await as.post(`/api/calls/${callId}/end`, {}, key('last'))).status, 200);
  const third = await as.post(...start, key('third'));
  assert.equal(third.status, 201);

  away = false;
  fault.heal();
  await untilDegraded([]);
  for (const [name, id] of [['first', ended.callId], ['second', callId], ['third', third.body.callId]]) {
    const again = await as.post(...start, key(name));
    assert.deepEqual([again.status, again.body.callId], [201, id], `${name}, afterwards`);
  }
  assert.equal((await rows(`SELECT 1 FROM call_sessions WHERE room_id = ${quote(pair.roomId)}`)).length, 3);
  await post(pair.caller, `/api/calls/${third.body.callId}/end`, {});
});

for (const [name, { strike, heal }] of Object.entries(faults)) {
  test(`PostgreSQL ${name} in mid-call: calls go on, and it gets everything afterwards`, limit, async (t) => {
    let away = false;
    t.after(() => away && heal());
    const [running, fresh, matrix] = await Promise.all([stack.newPair(), stack.newPair(), stack.newPair()]);
    const alice = await Tab.open(stack.daemon, running.caller);
    const bob = await Tab.open(stack.daemon, running.callee);
    const { callId } = await alice.command('call-initiate', { roomId: running.roomId, offer: offerOf('a') });
    await bob.command('call-answer', { callId, answer: { type: 'answer', sdp: offerOf('b').sdp } });
    const rung = await initiate(matrix, { offer: offerOf('m') });
    await until(async () => (await matrix.callee.callEvents(matrix.roomId, rung.callId)).length, { what: 'its invite' });

    await strike();
    away = true;
    // ours: a switch, a signal, the end; another call begins, and Matrix hears of it
    await alice.command('toggle-audio', { callId, enabled: false });
    assert.deepEqual((await ready()).degraded, ['postgresql']);
    await alice.command('ice-candidate', { callId, candidate: candidateOf(7) });
    await bob.next('ice-candidate', callId);
    await bob.command('call-end', { callId });
    const second = await initiate(fresh, { offer: offerOf('n') });
    await until(async () => (await fresh.callee.callEvents(fresh.roomId, second.callId)).length, { what: 'an invite' });
    const again = await stack.as(fresh.callee).post('/api/calls/initiate', { roomId: fresh.roomId });
    assert.equal(again.status, 409, JSON.stringify(again.body));
    assert.equal(again.body.callId, second.callId);
    // a Matrix client declines one, and calls itself
    await matrix.callee.send(matrix.roomId, 'm.call.reject', { call_id: rung.callId, version: '1', party_id: 'M' });
    await until(async () => (await stack.as(matrix.caller).get(`/api/calls/${rung.callId}`)).body.status === 'declined',
      { what: 'the decline' });
    const theirs = randomUUID();
    await matrix.callee.send(matrix.roomId, 'm.call.invite', { call_id: theirs, version: '1', party_id: 'M',
      lifetime: 60000, offer: offerOf('t') });
    const incoming = await until(async () => (await stack.as(matrix.caller).get('/api/calls/active')).body.calls
      .find((call) => call.caller === matrix.callee.userId),
    { what: 'their call' });
    await post(matrix.caller, `/api/calls/${incoming.callId}/reject`, {});
    assert.ok(await metric('spool_records') > 5);
    assert.equal(await metric('store_spooling'), 1);

    away = false;
    await heal();
    await untilDegraded([]);
    await post(fresh.caller, `/api/calls/${second.callId}/end`, {});
    const ids = [callId, rung.callId, second.callId, incoming.callId].map(quote).join();
    assert.deepEqual(await rows(`SELECT id, status FROM call_sessions WHERE id IN (${ids}) ORDER BY initiated_at`),
      [{ id: callId, status: 'ended' }, { id: rung.callId, status: 'declined' },
        { id: second.callId, status: 'canceled' }, { id: incoming.callId, status: 'declined' }]);
    const doubled = await rows(`SELECT call_session_id, event_type, count(*) FROM call_events
      WHERE call_session_id IN (${ids}) AND event_type <> 'toggled' GROUP BY 1, 2 HAVING count(*) > 1`);
    assert.deepEqual(doubled, []);
    await until(async () => (await rows(`SELECT 1 FROM matrix_outbox WHERE call_session_id IN (${ids})`)).length === 0,
      { what: 'an empty outbox' });
    assert.equal(await metric('spool_rejected_total'), 0);
    assert.equal(await metric('spool_records'), 0);
    for (const [user, roomId, call, type] of [[fresh.callee, fresh.roomId, second.callId, 'm.call.invite'],
      [fresh.callee, fresh.roomId, second.callId, 'm.call.hangup']]) {
      const sent = await until(async () => {
        const events = (await user.callEvents(roomId, call)).filter((event) => event.type === type);
        return events.length && events;
      }, { what: type });
      assert.equal(sent.length, 1, type);
    }
    alice.close();
    bob.close();
  });
}

test('killed while PostgreSQL is away, a record half written: the next daemon goes on from the spool', limit, async (t) => {
  t.after(() => proxy.restore());
  const [ringing, over] = await Promise.all([stack.newPair(), stack.newPair()]);
  await proxy.cut();
  const first = await initiate(ringing, { ringSeconds: 120 });
  await untilDegraded(['postgresql']);
  const second = await initiate(over);
  await post(over.caller, `/api/calls/${second.callId}/end`, {});
  await daemon.kill();
  const segments = readdirSync(directory).filter((name) => name.endsWith('.seg')).sort();
  assert.ok(segments.length > 0, 'something was spooled');
  appendFileSync(join(directory, segments.at(-1)), Buffer.from([0xc5, 0xd5, 0x52, 0x31, 1, 2, 3, 4, 5, 6, 7, 8, 99]));
  await daemon.start();
  assert.match(daemon.log, /spool\.torn/);
  assert.deepEqual(await ready(), { status: 200, ready: true, state: 'running', degraded: ['postgresql'] });
  assert.equal((await stack.as(ringing.callee).get(`/api/calls/${first.callId}`)).body.status, 'ringing');
  await post(ringing.callee, `/api/calls/${first.callId}/reject`, {});
  await proxy.restore();
  await untilDegraded([]);
  assert.deepEqual(await rows(`SELECT status FROM call_sessions WHERE id IN (${quote(first.callId)},
    ${quote(second.callId)}) ORDER BY initiated_at`), [{ status: 'declined' }, { status: 'canceled' }]);
});

test('started without PostgreSQL: calls of the spool at once, those of the tables when it is there', limit, async () => {
  const [known, fresh] = await Promise.all([stack.newPair(), stack.newPair()]);
  const kept = await initiate(known, { ringSeconds: 120 });
  assert.equal(await daemon.stop(), 0);
  await database.kill();
  await daemon.start();
  assert.match(daemon.log, /start\.without_database/);
  assert.deepEqual((await ready()).degraded, ['postgresql']);
  const reply = await stack.as(known.callee).get(`/api/calls/${kept.callId}`);
  assert.equal(reply.status, 503, JSON.stringify(reply.body)); // it may be there; nobody can say
  assert.match(reply.body.error, /The database does not answer/);
  const made = await initiate(fresh, { ringSeconds: 120 });
  await database.start();
  await untilDegraded([]);
  await post(known.callee, `/api/calls/${kept.callId}/reject`, {});
  await post(fresh.callee, `/api/calls/${made.callId}/reject`, {});
  assert.deepEqual(await rows(`SELECT status FROM call_sessions WHERE id IN (${quote(kept.callId)},
    ${quote(made.callId)})`), [{ status: 'declined' }, { status: 'declined' }]);
});

test('the spool is full: new calls get 503, running ones end, the homeserver keeps its events', limit, async (t) => {
  t.after(() => proxy.restore());
  assert.equal(await daemon.stop(), 0);
  configure({ 'database.spool_max_mb': 1 });
  await daemon.start();
  const running = await stack.newPair();
  const matrix = await stack.newPair();
  const { callId } = await initiate(running, { ringSeconds: 120 });
  await proxy.cut();
  const filler = await stack.newPair();
  let big = { ...offerOf('f'), sdp: `${offerOf('f').sdp}a=x-filler:${'x'.repeat(50000)}\r\n` };
  const refused = await until(async () => {
    const made = await stack.as(filler.caller).post('/api/calls/initiate', { roomId: filler.roomId,
      ...(big ? { offer: big } : {}) });
    if (made.status !== 201 && !big) return made;
    if (made.status === 201) await stack.as(filler.caller).post(`/api/calls/${made.body.callId}/end`);
    else big = undefined; // and what is left takes no small one either
    return false;
  }, { what: 'the spool to be full', seconds: 60, everyMs: 1 });
  assert.equal(refused.status, 503, JSON.stringify(refused.body));
  assert.equal(refused.body.errcode, 'ORG.CALLD.OVERLOADED');
  const now = await ready();
  assert.equal(now.status, 503);
  assert.equal(now.state, 'full');
  await post(running.caller, `/api/calls/${callId}/end`, {});
  const theirs = randomUUID(); // refused for now; the homeserver tries again
  await matrix.callee.send(matrix.roomId, 'm.call.invite', { call_id: theirs, version: '1', party_id: 'M',
    lifetime: 60000, offer: offerOf('t') });
  await proxy.restore();
  await untilDegraded([]);
  assert.equal((await ready()).status, 200);
  assert.deepEqual(await rows(`SELECT status FROM call_sessions WHERE id = ${quote(callId)}`), [{ status: 'canceled' }]);
  await until(async () => (await rows(`SELECT 1 FROM call_sessions WHERE matrix_call_id = ${quote(theirs)}`)).length === 1,
    { what: 'the homeserver\'s next attempt', seconds: 60 });
});
