// Daemons on one database, of which three go away: one stops as it should, one is killed, one sleeps longer than its
// lease and wakes up again. The fourth rings out and hangs up for each, once.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { offerOf } from '../lib/sdp.mjs';
import { quote, startStack } from '../lib/stack.mjs';
import { Node } from '../lib/two-daemons.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 150000 };
let stack;
let survivor;
const nodes = [];

const another = async (name) => {
  nodes.push(new Node(stack, name, nodes.length === 0));
  return nodes.at(-1).start();
};

const words = async (reader, roomId, callId) => (await reader.callEvents(roomId, callId))
  .map((event) => event.type.slice('m.call.'.length)).filter((type) => type !== 'candidates');

const statusOf = async (callId) => (await stack.query(`SELECT status FROM call_sessions
  WHERE id = ${quote(callId)}`))[0].status;

/** A call that rings, and whose invite is in the room. */
async function ring(node, ringSeconds) {
  const pair = await stack.newPair();
  const { status, body } = await node.as(pair.caller).post('/api/calls/initiate',
    { roomId: pair.roomId, offer: offerOf('rest'), ringSeconds });
  assert.equal(status, 201, JSON.stringify(body));
  await until(async () => (await words(pair.callee, pair.roomId, body.callId)).length === 1, { what: 'the invite' });
  return { ...pair, callId: body.callId };
}

/** Waits until it is missed; fails unless that happened, and was told, once. */
async function missedOnce({ callee, roomId, callId }) {
  await until(async () => (await statusOf(callId)) === 'missed', { what: 'missed', seconds: 90 });
  await until(async () => (await stack.query(`SELECT 1 FROM matrix_outbox
    WHERE call_session_id = ${quote(callId)}`)).length === 0, { what: 'an empty outbox', seconds: 60 });
  assert.deepEqual(await words(callee, roomId, callId), ['invite', 'hangup']);
  assert.deepEqual((await stack.query(`SELECT event_type FROM call_events WHERE call_session_id = ${quote(callId)}
    ORDER BY id`)).map((row) => row.event_type), ['initiated', 'missed']);
}

before(async () => {
  stack = await startStack({ daemon: false, liftRateLimits: true });
  survivor = await another('survivor');
}, { timeout: 180000 });

after(async () => {
  for (const node of nodes) await node.stop();
  await stack?.stop();
}, limit);

describe('of several daemons one goes away', { concurrency: 3 }, () => {
  test('it stops: the others have its calls at once', limit, async () => {
    const node = await another('stops');
    const call = await ring(node, 15);
    assert.equal(await node.stop(), 0);
    await until(async () => (await stack.query(`SELECT 1 FROM call_sessions s JOIN store_writers w USING (owner)
      WHERE s.id = ${quote(call.callId)} AND NOT w.has_left`)).length === 1, { what: 'another owner', seconds: 20 });
    await missedOnce(call);
  });

  test('it is killed: once its lease has run out another rings out and hangs up', limit, async () => {
    const node = await another('killed');
    const call = await ring(node, 20);
    await node.stop('SIGKILL');
    await missedOnce(call);
  });

  test('it sleeps longer than its lease: it finds out, and nothing is doubled', limit, async () => {
    const node = await another('sleeps');
    const calls = await Promise.all([ring(node, 25), ring(node, 25)]);
    node.child.kill('SIGSTOP');
    for (const call of calls) {
      await until(async () => (await statusOf(call.callId)) === 'missed', { what: 'missed', seconds: 90 });
    }
    node.child.kill('SIGCONT');
    await until(() => /lease\.lost/.test(node.said), { what: 'the woken daemon to find out' });
    for (const call of calls) {
      await missedOnce(call);
      assert.equal((await node.as(call.caller).get(`/api/calls/${call.callId}`)).body.status, 'missed');
    }
    // and it goes on as one of them
    const next = await ring(node, 60);
    assert.equal((await survivor.as(next.caller).post(`/api/calls/${next.callId}/end`)).status, 200);
    await until(async () => (await node.as(next.caller).get(`/api/calls/${next.callId}`)).body.status === 'canceled',
      { what: 'the end, at its owner' });
  });
});
