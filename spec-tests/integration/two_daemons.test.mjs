// Two daemons on one database and one homeserver: commands for one call may come to either, or to both at once, and
// nothing happens twice.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import test, { after, before } from 'node:test';
import { answerOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { quote, startStack } from '../lib/stack.mjs';
import { Node, haveMet } from '../lib/two-daemons.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: process.env.LONG_TESTS ? 600000 : 150000 };
const calls = process.env.LONG_TESTS ? 480 : 24; // the homeserver takes half a second for a call's events
let stack;
let a;
let b;

before(async () => {
  stack = await startStack({ daemon: false, liftRateLimits: true, set: { 'limits.starts_per_hour': 0,
    'limits.requests_per_second': 0, 'limits.user_requests_per_second': 0, 'limits.room_starts_per_hour': 0 } });
  a = await new Node(stack, 'a', true).start();
  b = await new Node(stack, 'b', false).start();
  await haveMet([a, b]);
}, { timeout: 180000 });

after(async () => {
  for (const node of [a, b]) await node?.stop();
  await stack?.stop();
}, limit);

/** All m.call.* events of a call but candidates, as one word each. */
const words = async (reader, roomId, callId) => (await reader.callEvents(roomId, callId))
  .map((event) => event.type.slice('m.call.'.length)).filter((type) => type !== 'candidates');

const rowsOf = async (callId) => (await stack.query(`SELECT event_type FROM call_events
  WHERE call_session_id = ${quote(callId)} AND event_type <> 'connected' ORDER BY id`)).map((row) => row.event_type);

const statusOf = async (callId) => (await stack.query(`SELECT status FROM call_sessions
  WHERE id = ${quote(callId)}`))[0].status;

const settled = (callId) => until(async () => {
  const [row] = await stack.query(`SELECT count(*)::int AS n FROM matrix_outbox WHERE call_session_id = ${quote(callId)}`);
  return row.n === 0;
}, { what: 'an empty outbox', seconds: 60 });

async function ring(node, pair, extra = {}) {
  const { status, body } = await node.as(pair.caller).post('/api/calls/initiate',
    { roomId: pair.roomId, offer: offerOf('rest'), ...extra });
  assert.equal(status, 201, JSON.stringify(body));
  return body.callId;
}

/** At most one of each, in the order in which a Matrix client must see them. */
function assertOrder(seen, what) {
  const order = ['invite', 'answer', 'select_answer', 'reject', 'hangup'];
  assert.deepEqual(seen, [...new Set(seen)].sort((x, y) => order.indexOf(x) - order.indexOf(y)), what);
}

test('many calls, each command at both daemons at once: nothing happens twice', limit, async () => {
  const pairs = await Promise.all(Array.from({ length: 6 }, () => stack.newPair()));
  const lives = pairs.map(async (pair, index) => {
    const made = [];
    for (let round = 0; round < calls / pairs.length; round++) {
      const [near, far] = (round + index) % 2 ? [a, b] : [b, a];
      const id = await ring(near, pair);
      const kind = round % 3;
      const answer = kind === 2 ? [] : await Promise.all([near, far].map((node) =>
        node.as(pair.callee).post(`/api/calls/${id}/answer`, { answer: answerOf(node.name) })));
      assert.ok(answer.length === 0 || answer.some((reply) => reply.status === 200), JSON.stringify(answer));
      for (const reply of answer) assert.ok([200, 409].includes(reply.status), JSON.stringify(reply.body));
      const ends = await Promise.all([near, far, far].map((node, which) =>
        node.as(which === 1 && kind !== 2 ? pair.callee : pair.caller).post(`/api/calls/${id}/end`)));
      for (const reply of ends) assert.equal(reply.status, 200, JSON.stringify(reply.body));
      made.push({ id, pair, answered: kind !== 2 });
    }
    return made;
  });
  const made = (await Promise.all(lives)).flat();
  for (const { id, answered } of made) {
    assert.deepEqual(await rowsOf(id), answered ? ['initiated', 'answered', 'ended'] : ['initiated', 'canceled'], id);
    assert.equal(await statusOf(id), answered ? 'ended' : 'canceled');
    await settled(id);
  }
  for (const pair of pairs) {
    const timeline = await pair.callee.callEvents(pair.roomId);
    for (const { id, answered } of made.filter((one) => one.pair === pair)) {
      const seen = timeline.filter((event) => event.content.call_id === id)
        .map((event) => event.type.slice('m.call.'.length)).filter((type) => type !== 'candidates');
      assertOrder(seen, id);
      if (seen.length > 0) assert.equal(seen[0], 'invite');
      if (seen.includes('invite')) assert.equal(seen.at(-1), 'hangup', `${id}: ${seen}`);
      if (answered && seen.includes('answer')) assert.ok(seen.includes('select_answer'), `${id}: ${seen}`);
    }
  }
});

test('the same Idempotency-Key at both at once: one effect and one answer; another body is refused', limit, async () => {
  const pair = await stack.newPair();
  for (let round = 0; round < 10; round++) {
    const headers = { 'idempotency-key': `start-${randomUUID()}` };
    const body = { roomId: pair.roomId, offer: offerOf('rest') };
    const [first, second] = await Promise.all([a, b].map((node) =>
      node.as(pair.caller).post('/api/calls/initiate', body, { headers })));
    assert.deepEqual([first.status, second.status], [201, 201], JSON.stringify([first.body, second.body]));
    assert.equal(first.body.callId, second.body.callId);
    const other = await b.as(pair.caller).post('/api/calls/initiate', { ...body, ringSeconds: 20 }, { headers });
    assert.equal(other.status, 422);
    const key = { headers: { 'idempotency-key': `end-${randomUUID()}` } };
    const ends = await Promise.all([a, b].map((node) =>
      node.as(pair.caller).post(`/api/calls/${first.body.callId}/end`, {}, key)));
    assert.deepEqual(ends.map((reply) => reply.status), [200, 200], JSON.stringify(ends.map((reply) => reply.body)));
    assert.equal(ends[0].body.endedAt, ends[1].body.endedAt);
    const otherEnd = await a.as(pair.caller).post(`/api/calls/${first.body.callId}/end`, { reason: 'user_busy' }, key);
    assert.equal(otherEnd.status, 422, JSON.stringify(otherEnd.body));
  }
});

test('a toggle under the same Idempotency-Key at both at once flips the switch once', limit, async () => {
  const pair = await stack.newPair();
  const callId = await ring(a, pair);
  let audio = true;
  for (let round = 0; round < 12; round++) {
    const key = { headers: { 'idempotency-key': `toggle-${randomUUID()}` } };
    const replies = await Promise.all([a, b].map((node) =>
      node.as(pair.caller).post(`/api/calls/${callId}/toggle-audio`, {}, key)));
    audio = !audio;
    for (const { status, body } of replies) {
      assert.equal(status, 200, JSON.stringify(body));
      assert.equal(body.audioEnabled, audio, JSON.stringify(body));
    }
  }
  assert.equal((await a.as(pair.caller).post(`/api/calls/${callId}/end`)).status, 200);
});

test('simultaneous starts at both: one begins, the other is told which', limit, async () => {
  const pair = await stack.newPair();
  for (let round = 0; round < 10; round++) {
    const replies = await Promise.all([a, b].map((node, which) => node.as(which ? pair.callee : pair.caller)
      .post('/api/calls/initiate', { roomId: pair.roomId })));
    assert.deepEqual(replies.map((reply) => reply.status).sort(), [201, 409], JSON.stringify(replies));
    const [won, lost] = replies[0].status === 201 ? replies : [replies[1], replies[0]];
    assert.equal(lost.body.callId, won.body.callId);
    assert.equal((await b.as(pair.callee).post(`/api/calls/${won.body.callId}/end`)).status, 200);
  }
});

test('what happens at one daemon is told to the sockets of the call at its owner', limit, async () => {
  const pair = await stack.newPair();
  const tab = await Tab.open(a.origin, pair.caller);
  const { callId } = (await tab.command('call-initiate', { roomId: pair.roomId, offer: offerOf('tab') }));
  assert.equal((await b.as(pair.callee).post(`/api/calls/${callId}/answer`, { answer: answerOf('far') })).status, 200);
  await tab.next('call-answered', callId);
  assert.equal((await b.as(pair.callee).post(`/api/calls/${callId}/end`)).status, 200);
  assert.equal((await tab.next('call-ended', callId)).status, 'ended');
  assert.equal(tab.all('call-ended', callId).length, 1);
  tab.close();
  await settled(callId);
  assert.deepEqual(await words(pair.callee, pair.roomId, callId), ['invite', 'answer', 'select_answer', 'hangup']);
});
