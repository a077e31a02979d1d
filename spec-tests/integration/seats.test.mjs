// Only the seat speaks for its user's party: what other tabs, replaced tabs and strangers to the call may not do;
// and that an answer repeated under its Idempotency-Key is the answer that was given.

import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { startStack } from '../lib/stack.mjs';

const limit = { timeout: 120000 };
let stack;
let open = [];

before(async () => { stack = await startStack(); }, limit);
after(() => stack?.stop(), limit);
test.afterEach(() => {
  for (const tab of open) tab.close();
  open = [];
});

async function tab(user) {
  const opened = await Tab.open(stack.daemon, user);
  open.push(opened);
  return opened;
}

async function answered() {
  const pair = await stack.newPair();
  const [a, b] = await Promise.all([tab(pair.caller), tab(pair.callee)]);
  const { callId } = await a.command('call-initiate', { roomId: pair.roomId, offer: offerOf('caller') });
  await b.next('call-ringing', callId);
  await b.command('call-answer', { callId, answer: answerOf('callee') });
  await a.next('call-answered', callId);
  return { ...pair, a, b, callId };
}

const status = async (call) => (await stack.as(call.caller).get(`/api/calls/${call.callId}/status`)).body.status;

test('a tab that does not sit in the call can neither leave it, nor report, toggle or signal', limit, async () => {
  const call = await answered();
  const other = await tab(call.caller);
  for (const [event, payload] of [['leave-call', {}], ['call-connected', {}], ['toggle-audio', { enabled: false }],
    ['ice-candidate', { candidate: candidateOf('caller', 1) }]]) {
    await other.refused(event, { callId: call.callId, ...payload }, 'ORG.CALLD.SEAT_TAKEN');
  }
  assert.equal(await status(call), 'accepted');
  await other.command('call-end', { callId: call.callId }); // ending is every client's right
  assert.equal(await status(call), 'ended');
});

test('a replaced tab that tidies up does not end the call', limit, async () => {
  const call = await answered();
  const other = await tab(call.caller);
  await other.command('join-call', { callId: call.callId, takeOver: true });
  assert.equal((await call.a.next('user-left', call.callId)).reason, 'replaced');
  await call.a.refused('leave-call', { callId: call.callId }, 'ORG.CALLD.SEAT_TAKEN');
  assert.equal(await status(call), 'accepted');
  await other.command('leave-call', { callId: call.callId });
  assert.equal(await status(call), 'ended');
});

test('while nobody sits there a socket must join before it signals', limit, async () => {
  const call = await answered();
  call.b.close();
  await call.a.next('peer-reconnecting', call.callId);
  const fresh = await tab(call.callee);
  await fresh.refused('webrtc-offer', { callId: call.callId, offer: offerOf('callee') }, 'M_FORBIDDEN');
  await fresh.command('join-call', { callId: call.callId });
  await fresh.command('webrtc-offer', { callId: call.callId, offer: offerOf('callee') });
});

test('a signal is addressed to somebody else in the call, or refused', limit, async () => {
  const call = await answered();
  for (const to of ['nobody', '@zz:elsewhere', call.caller.userId]) {
    await call.a.refused('ice-candidate', { callId: call.callId, candidate: candidateOf('caller', 1), to },
      'M_INVALID_PARAM');
  }
  await call.a.command('ice-candidate', { callId: call.callId, candidate: candidateOf('caller', 1), to: call.callee.userId });
});

test('a report of being connected is judged by the state: 409 before the answer and after the end', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const rest = stack.as(caller);
  const { body: { callId } } = await rest.post('/api/calls/initiate', { roomId });
  for (const user of [caller, callee]) {
    const early = await stack.as(user).post(`/api/calls/${callId}/connected`);
    assert.deepEqual([early.status, early.body.errcode], [409, 'ORG.CALLD.INVALID_STATE']);
  }
  await rest.post(`/api/calls/${callId}/end`);
  const late = await rest.post(`/api/calls/${callId}/connected`);
  assert.deepEqual([late.status, late.body.errcode, late.body.status], [409, 'ORG.CALLD.INVALID_STATE', 'canceled']);
});

// What time and other events may change between two looks.
function lasting({ iceServers, seq, ...rest }) {
  return { ...rest, servers: iceServers?.length };
}

test('a repeated key gives the answer that was given, SDP and party included', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  let callId;
  const twice = async (user, path, body, key) => {
    const options = { headers: { 'Idempotency-Key': key } };
    const first = await stack.as(user).post(path, body, options);
    const second = await stack.as(user).post(path, body, options);
    assert.equal(second.status, first.status, path);
    assert.deepEqual(lasting(second.body), lasting(first.body), path);
    return first.body;
  };
  ({ callId } = await twice(caller, '/api/calls/initiate', { roomId, offer: offerOf('caller') }, 'k1'));
  const answer = await twice(callee, `/api/calls/${callId}/answer`, { answer: answerOf('callee') }, 'k2');
  assert.equal(answer.offer.sdp, offerOf('caller').sdp);
  const flipped = await twice(caller, `/api/calls/${callId}/toggle-audio`, {}, 'k3');
  assert.equal(flipped.audioEnabled, false);
  assert.equal((await stack.as(caller).get(`/api/calls/${callId}/status`)).body.participants[0].audioEnabled, false);
  await twice(caller, `/api/calls/${callId}/connected`, {}, 'k4');
  await twice(caller, `/api/calls/${callId}/end`, {}, 'k5');
});
