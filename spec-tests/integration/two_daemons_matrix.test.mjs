// Two daemons, one call: what one of them wrote into the room, the other must know before it says more there. What a
// signal makes due moves no call, so that nothing tells the other one of it.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import test, { after, before } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { startStack } from '../lib/stack.mjs';
import { candidatesOf, untilSent } from '../lib/timeline.mjs';
import { Node, haveMet } from '../lib/two-daemons.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;
let near;
let far;

before(async () => {
  stack = await startStack({ daemon: false, liftRateLimits: true, set: { 'limits.candidates': 10 } });
  near = await new Node(stack, 'near', true).start();
  far = await new Node(stack, 'far', false).start();
  await haveMet([near, far]);
}, { timeout: 180000 });

after(async () => {
  for (const node of [near, far]) await node?.stop();
  await stack?.stop();
}, limit);

async function post(node, user, path, body) {
  const reply = await node.as(user).post(path, body);
  assert.ok(reply.status < 300, `${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
  return reply.body;
}

/** The m.call.* events of a call in the room, and who sent each, once `last` is among them and nothing else waits. */
async function room({ callee, roomId, caller }, matrixId, last) {
  const name = (event) => `${event.type.slice('m.call.'.length)} ${event.sender === caller.userId ? 'caller' : 'callee'}`;
  await until(async () => (await callee.callEvents(roomId, matrixId)).some((event) => name(event) === last), { what: last });
  await untilSent(stack, matrixId);
  return (await callee.callEvents(roomId, matrixId)).map(name);
}

/** Our caller calls without an offer; the far daemon has read the call before the offer comes to `at`. */
async function offersLate(at = near) {
  const pair = await stack.newPair();
  const { callId } = await post(near, pair.caller, '/api/calls/initiate', { roomId: pair.roomId });
  assert.equal((await far.as(pair.callee).get(`/api/calls/${callId}/status`)).body.status, 'ringing');
  await post(at, pair.caller, `/api/calls/${callId}/offer`, { offer: offerOf('late') });
  assert.deepEqual(await room(pair, callId, 'invite caller'), ['invite caller']);
  return { ...pair, callId };
}

/** A Matrix client calls; the far daemon has read the call while it rang. */
async function matrixCalls() {
  const pair = await stack.newPair();
  const matrixId = `m${randomUUID()}`;
  await near.as(pair.callee).get('/api/calls/active'); // known from here on
  await pair.caller.send(pair.roomId, 'm.call.invite', { call_id: matrixId, version: '1', party_id: 'M', lifetime: 60000,
    offer: offerOf('matrix') });
  const call = await until(async () => (await near.as(pair.callee).get('/api/calls/active')).body.calls
    .find((one) => one.caller === pair.caller.userId), { what: 'their call' });
  assert.equal((await far.as(pair.callee).get(`/api/calls/${call.callId}/status`)).body.status, 'ringing');
  return { ...pair, matrixId, callId: call.callId };
}

test('an invite that one daemon wrote late gets its hang-up from the other', limit, async () => {
  const call = await offersLate();
  await post(far, call.caller, `/api/calls/${call.callId}/end`, {});
  assert.deepEqual(await room(call, call.callId, 'hangup caller'), ['invite caller', 'hangup caller']);
});

test('an invite that one daemon wrote late is answered at the other: the room hears of it', limit, async () => {
  const call = await offersLate();
  await post(far, call.callee, `/api/calls/${call.callId}/answer`, { answer: answerOf('far') });
  const answered = ['invite caller', 'answer callee', 'select_answer caller'];
  assert.deepEqual(await room(call, call.callId, 'select_answer caller'), answered);
  await post(near, call.callee, `/api/calls/${call.callId}/end`, {});
  assert.deepEqual(await room(call, call.callId, 'hangup callee'), [...answered, 'hangup callee']);
});

test('an invite that the far daemon wrote gets its hang-up from the owner', limit, async () => {
  const call = await offersLate(far);
  await post(near, call.caller, `/api/calls/${call.callId}/end`, {});
  assert.deepEqual(await room(call, call.callId, 'hangup caller'), ['invite caller', 'hangup caller']);
});

test('an answer that one daemon gave is followed by a hang-up of the other, not by a reject', limit, async () => {
  const call = await matrixCalls();
  await post(near, call.callee, `/api/calls/${call.callId}/answer`, { answer: answerOf('near') });
  assert.deepEqual(await room(call, call.matrixId, 'answer callee'), ['invite caller', 'answer callee']);
  await post(far, call.callee, `/api/calls/${call.callId}/end`, {});
  assert.deepEqual(await room(call, call.matrixId, 'hangup callee'), ['invite caller', 'answer callee', 'hangup callee']);
});

test('taken at one daemon without an answer for the room, ended at the other: whatever the caller knows ends it', limit,
  async () => {
    const call = await matrixCalls();
    await post(near, call.callee, `/api/calls/${call.callId}/answer`, {});
    await post(far, call.callee, `/api/calls/${call.callId}/end`, {});
    assert.deepEqual(await room(call, call.matrixId, 'hangup callee'), ['invite caller', 'reject callee', 'hangup callee']);
  });

test('an invite that the homeserver refused: what the other daemon says of the call is not said, either', limit, async () => {
  const pair = await stack.newPair();
  pair.roomId = (await pair.caller.api('POST', '/createRoom', { preset: 'private_chat', invite: [pair.callee.userId],
    power_level_content_override: { events: { 'm.call.invite': 50 } } })).room_id; // its creator may all the same
  await pair.callee.join(pair.roomId);
  const { callId } = await post(near, pair.callee, '/api/calls/initiate', { roomId: pair.roomId, offer: offerOf('o') });
  await until(() => near.said.includes('event.refused'), { what: 'the refusal' });
  await post(far, pair.caller, `/api/calls/${callId}/answer`, { answer: answerOf('far') });
  await untilSent(stack, callId);
  await post(far, pair.callee, `/api/calls/${callId}/end`, {});
  await untilSent(stack, callId);
  assert.deepEqual(await pair.callee.callEvents(pair.roomId, callId), []);
});

test('an answer of one daemon and an end at the other, at once: whichever comes first, the caller hears of the end', limit,
  async () => {
    for (let round = 0; round < 8; round++) {
      const call = await matrixCalls();
      await post(near, call.callee, `/api/calls/${call.callId}/answer`, {});
      const answer = far.as(call.callee).post(`/api/calls/${call.callId}/answer-sdp`, { answer: answerOf('far') });
      await setTimeout(round % 4);
      await post(near, call.callee, `/api/calls/${call.callId}/end`, {});
      assert.ok([200, 409].includes((await answer).status));
      const words = await room(call, call.matrixId, 'hangup callee');
      assert.ok(words.includes('answer callee') || words.includes('reject callee'), words.join());
    }
  });

test('who looks again and again may not write more candidates for that', limit, async () => {
  const call = await matrixCalls();
  await post(far, call.callee, `/api/calls/${call.callId}/answer`, { answer: answerOf('far') });
  for (let round = 0; round < 4; round++) {
    const candidates = Array.from({ length: 5 }, (_, n) => candidateOf(round * 5 + n + 1));
    await post(far, call.callee, `/api/calls/${call.callId}/ice-candidate`, { candidates });
    await far.as(call.callee).get(`/api/calls/${call.callId}/status`);
  }
  await until(async () => candidatesOf(await call.callee.callEvents(call.roomId, call.matrixId), call.callee.userId).length >= 10,
    { what: 'ten candidates' });
  await post(far, call.callee, `/api/calls/${call.callId}/end`, {});
  await room(call, call.matrixId, 'hangup callee');
  assert.equal(candidatesOf(await call.callee.callEvents(call.roomId, call.matrixId), call.callee.userId).length, 10);
});

test('whoever takes a call over has the offer that came meanwhile', limit, async () => {
  const call = await offersLate();
  await near.stop();
  await until(() => /lease\.taken/.test(far.said), { what: 'the claim', seconds: 60 });
  const { missed } = await until(async () => {
    const { body } = await far.as(call.callee).get(`/api/calls/${call.callId}/events?since=0`);
    return body.missed.length > 0 && body;
  }, { what: 'the offer' });
  assert.deepEqual(missed.map(({ event }) => event), ['webrtc-offer']);
  await post(far, call.callee, `/api/calls/${call.callId}/answer`, { answer: answerOf('far') });
  await post(far, call.caller, `/api/calls/${call.callId}/end`, {});
  assert.deepEqual(await room(call, call.callId, 'hangup caller'),
    ['invite caller', 'answer callee', 'select_answer caller', 'hangup caller']);
});
