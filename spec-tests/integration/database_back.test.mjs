// PostgreSQL comes back and does not hold what was acknowledged meanwhile: a call's row is gone or older than the call,
// or another call of the same two stands there. No call is left that can neither go on nor end.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import test, { after, before } from 'node:test';
import { ownPostgres } from '../lib/own-postgres.mjs';
import { answerOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { execute, query, quote, startStack } from '../lib/stack.mjs';
import { Node } from '../lib/two-daemons.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;
let database;
let a;
let b;

before(async () => {
  [stack, database] = await Promise.all([startStack({ daemon: false, liftRateLimits: true }), ownPostgres()]);
  const text = readFileSync(stack.info.config, 'utf8').replace(/^url *= *postgres.*\n/m, '');
  writeFileSync(stack.info.config, `${text}\n[database]\nurl = ${database.url}\n`, { mode: 0o600 });
  [a, b] = [new Node(stack, 'a', true), new Node(stack, 'b', false)];
  await a.start();
}, { timeout: 180000 });

after(async () => {
  await Promise.all([a?.stop(), b?.stop()]);
  await database?.stop();
  await stack?.stop();
}, limit);

const rows = (sql) => query(database.url, sql);
const rowOf = async (id) => (await rows(`SELECT status, end_reason, version, owner FROM call_sessions
  WHERE id = ${quote(id)}`))[0];
const typesOf = async (id) => (await rows(`SELECT event_type FROM call_events WHERE call_session_id = ${quote(id)}
  ORDER BY id`)).map((row) => row.event_type);

async function post(node, user, path, body, status = 200) {
  const reply = await node.as(user).post(path, body);
  assert.equal(reply.status, status, `${path}: ${JSON.stringify(reply.body)}`);
  return reply.body;
}
const start = (node, pair, body) => post(node, pair.caller, '/api/calls/initiate', { roomId: pair.roomId, ...body }, 201);
const seen = async (node, user, id) => (await node.as(user).get(`/api/calls/${id}`)).body;
const words = async ({ callee, roomId }, id) => (await callee.callEvents(roomId, id))
  .map((event) => event.type.slice('m.call.'.length)).filter((type) => type !== 'candidates');

async function untilDegraded(node, names) {
  await until(async () => {
    const reply = await fetch(`${node.origin}/ready`);
    return JSON.stringify((await reply.json()).degraded) === JSON.stringify(names);
  }, { what: `degraded: ${names}`, seconds: 40 });
}

test('the row of a running call is gone: the next command writes it anew, and it goes on to its end', limit, async () => {
  const pair = await stack.newPair();
  const { callId } = await start(a, pair, { offer: offerOf('a') });
  await post(a, pair.callee, `/api/calls/${callId}/answer`, { answer: answerOf('b') });
  await execute(database.url, `DELETE FROM calld.call_sessions WHERE id = ${quote(callId)}`);
  assert.equal(await rowOf(callId), undefined, 'the fault did happen');
  await post(a, pair.caller, `/api/calls/${callId}/connected`);
  assert.equal((await rowOf(callId)).status, 'connected');
  await post(a, pair.callee, `/api/calls/${callId}/end`);
  assert.equal((await rowOf(callId)).status, 'ended');
  assert.deepEqual(await typesOf(callId), ['initiated', 'answered', 'connected', 'ended']);
  await until(async () => (await words(pair, callId)).at(-1) === 'hangup', { what: 'the hang-up' });
});

test('the row went back to an older state: the call goes on from its own', limit, async () => {
  const pair = await stack.newPair();
  const { callId } = await start(a, pair);
  await post(a, pair.callee, `/api/calls/${callId}/answer`, { answer: answerOf('b') });
  await post(a, pair.callee, `/api/calls/${callId}/connected`);
  await execute(database.url, `UPDATE calld.call_sessions SET version = 1, status = 'ringing' WHERE id = ${quote(callId)}`);
  await post(a, pair.caller, `/api/calls/${callId}/toggle-audio`, { enabled: false });
  assert.equal((await rowOf(callId)).status, 'connected');
  await post(a, pair.callee, `/api/calls/${callId}/end`);
  assert.equal((await rowOf(callId)).status, 'ended');
});

test('its row is gone and another call of the two runs: it ends, once, for everybody', limit, async () => {
  const pair = await stack.newPair();
  const bob = await Tab.open(a.origin, pair.callee);
  const { callId } = await start(a, pair, { offer: offerOf('a') });
  await bob.next('call-ringing', callId);
  await until(async () => (await words(pair, callId)).length === 1, { what: 'the invite' });
  await execute(database.url, `UPDATE calld.call_sessions SET id = 'z' || repeat('0', 31), status = 'connected',
    version = 3, owner = 'nobody' WHERE id = ${quote(callId)}`);
  await post(a, pair.callee, `/api/calls/${callId}/answer`, { answer: answerOf('b') }, 409);
  const now = await seen(a, pair.caller, callId);
  assert.deepEqual([now.status, now.endReason], ['canceled', 'replaced']);
  await bob.drain();
  assert.equal(bob.all('ring-stopped', callId).length, 1);
  assert.equal((await rowOf(callId)).status, 'canceled');
  await until(async () => (await words(pair, callId)).at(-1) === 'hangup', { what: 'the hang-up' });
  bob.close();
});

for (const killed of [false, true]) {
  test(`begun again without its database${killed ? ', and killed' : ''}, a second call of the same two: the first ends`, limit, async () => {
    const pair = await stack.newPair();
    const first = await start(a, pair, { offer: offerOf('a') });
    await post(a, pair.callee, `/api/calls/${first.callId}/answer`, { answer: answerOf('b') });
    await post(a, pair.callee, `/api/calls/${first.callId}/connected`);
    await until(async () => (await words(pair, first.callId)).includes('select_answer'), { what: 'its Matrix events' });
    await database.kill();
    await a.stop('SIGKILL');
    await a.start();
    const second = await start(a, pair, { offer: offerOf('c') });
    await post(a, pair.callee, `/api/calls/${second.callId}/answer`, { answer: answerOf('d') });
    await post(a, pair.callee, `/api/calls/${second.callId}/connected`);
    if (killed) await a.stop('SIGKILL'); // the next one finds the second in its spool
    await database.start();
    if (killed) await a.start();
    await untilDegraded(a, []);
    assert.deepEqual(await rowOf(first.callId).then((row) => [row.status, row.end_reason]), ['ended', 'replaced']);
    assert.deepEqual(await typesOf(first.callId), ['initiated', 'answered', 'connected', 'ended']);
    assert.equal((await rowOf(second.callId)).status, 'connected');
    assert.deepEqual(await typesOf(second.callId), ['initiated', 'answered', 'connected']);
    assert.equal((await seen(a, pair.callee, first.callId)).status, 'ended');
    await until(async () => (await words(pair, first.callId)).filter((word) => word === 'hangup').length === 1,
      { what: 'its hang-up' });
    await post(a, pair.caller, `/api/calls/${second.callId}/toggle-audio`, { enabled: false });
    await post(a, pair.callee, `/api/calls/${second.callId}/end`);
    assert.equal((await rowOf(second.callId)).status, 'ended');
    assert.equal((await seen(a, pair.caller, second.callId)).status, 'ended');
  });
}

for (const killed of [false, true]) {
  test(`two daemons begin a call of the same two while it hangs: the later one to write ends its own${
    killed ? ', also when it was killed' : ''}`, limit, async (t) => {
    const pair = await stack.newPair();
    if (!b.runs) await b.start();
    const bob = await Tab.open(a.origin, pair.callee);
    database.signalAll('SIGSTOP');
    t.after(() => { bob.close(); database.signalAll('SIGCONT'); a.child.kill('SIGCONT'); });
    const loser = await start(a, pair, { ringSeconds: 120, offer: offerOf('a') });
    const winner = await start(b, pair, { ringSeconds: 120 });
    await post(a, pair.callee, `/api/calls/${loser.callId}/answer`, { answer: answerOf('b') });
    await until(async () => (await words(pair, loser.callId)).includes('select_answer'), { what: 'its Matrix events' });
    if (killed) await a.stop('SIGKILL');
    else a.child.kill('SIGSTOP');
    database.signalAll('SIGCONT');
    await untilDegraded(b, []);
    if (killed) await a.start();
    else a.child.kill('SIGCONT');
    await untilDegraded(a, []);
    for (const node of [a, b]) {
      await until(async () => (await seen(node, pair.caller, loser.callId)).status === 'ended', { what: 'its end' });
      assert.equal((await seen(node, pair.caller, loser.callId)).endReason, 'replaced');
      assert.equal((await seen(node, pair.caller, winner.callId)).status, 'ringing');
    }
    assert.deepEqual(await typesOf(loser.callId), ['initiated', 'answered', 'ended']);
    assert.match(a.said, /spool\.displaced/);
    if (!killed) await bob.drain();
    if (!killed) assert.equal(bob.all('call-ended', loser.callId).length, 1);
    await post(a, pair.caller, `/api/calls/${loser.callId}/end`);
    await until(async () => (await words(pair, loser.callId)).filter((word) => word === 'hangup').length === 1,
      { what: 'its hang-up' });
    await post(a, pair.callee, `/api/calls/${winner.callId}/reject`);
    assert.deepEqual(await rowOf(winner.callId).then((row) => row.status), 'declined');
  });
}

test('with another daemon about and its lease run out: what begins without the database is told to the room',
  { ...limit, skip: !process.env.LONG_TESTS && 'takes half a minute: LONG_TESTS=1' }, async (t) => {
    if (!b.runs) await b.start();
    const [before, pair] = [await stack.newPair(), await stack.newPair()];
    const old = await start(a, before, { ringSeconds: 120 }); // no offer yet: its invite waits
    assert.equal((await seen(a, before.caller, old.callId)).matrixSignalling, 'waiting_for_offer');
    const alice = await Tab.open(a.origin, before.caller);
    database.signalAll('SIGSTOP');
    t.after(() => database.signalAll('SIGCONT'));
    const since = Date.now();
    await until(() => Date.now() - since > 28000, { what: 'the lease to run out', seconds: 40 });
    const made = await start(a, pair, { offer: offerOf('a') });
    assert.equal(made.matrixSignalling, 'sent');
    await until(async () => (await words(pair, made.callId)).length === 1, { what: 'its invite' });
    await alice.command('join-call', { callId: old.callId });
    await alice.command('webrtc-offer', { callId: old.callId, offer: offerOf('b') });
    assert.equal((await seen(a, before.caller, old.callId)).matrixSignalling, 'waiting_for_offer');
    await post(a, pair.caller, `/api/calls/${made.callId}/end`);
    await until(async () => (await words(pair, made.callId)).at(-1) === 'hangup', { what: 'its hang-up' });
    assert.deepEqual(await words(before, old.callId), [], 'another daemon may have it');
    database.signalAll('SIGCONT');
    await untilDegraded(a, []);
    await until(async () => (await words(before, old.callId)).length === 1, { what: 'the invite that waited' });
    assert.equal((await rowOf(made.callId)).status, 'canceled');
    alice.close();
  });
