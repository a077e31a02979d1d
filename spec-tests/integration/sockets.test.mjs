// The stock socket.io-client against the daemon: connecting, parties and seats, acks, what was missed, and what
// every socket of the two users hears of a call.

import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { startStack } from '../lib/stack.mjs';
import { expectRecord, untilSent } from '../lib/timeline.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
const seatSeconds = 5;
let stack;
let open = [];

before(async () => {
  stack = await startStack({ set: { 'calls.seat_seconds': seatSeconds } });
}, limit);

after(() => stack?.stop(), limit);

test.afterEach(() => {
  for (const tab of open) tab.close();
  open = [];
});

async function tab(user, options) {
  const opened = await Tab.open(stack.daemon, user, options);
  open.push(opened);
  return opened;
}

function finals(tabs, callId) {
  return tabs.map((one) => ['call-rejected', 'call-missed', 'call-ended'].flatMap((name) => one.all(name, callId)));
}

/** Two users with a tab each, and a call that rings. */
async function ringing(payload = {}) {
  const pair = await stack.newPair();
  const [a, b] = await Promise.all([tab(pair.caller), tab(pair.callee)]);
  const call = await a.command('call-initiate', { roomId: pair.roomId, ...payload });
  await b.next('call-ringing', call.callId);
  return { ...pair, a, b, call, callId: call.callId };
}

async function answered() {
  const ring = await ringing({ offer: offerOf('caller') });
  const ack = await ring.b.command('call-answer', { callId: ring.callId, answer: answerOf('callee') });
  await ring.a.next('call-answered', ring.callId);
  return { ...ring, calleeParty: ack.partyId };
}

test('default options: long polling first, then the upgrade', limit, async () => {
  const { caller } = await stack.newPair();
  const a = new Tab(stack.daemon, caller);
  open.push(a);
  assert.equal(a.socket.io.engine.transport.name, 'polling');
  await a.connected();
  await until(() => a.socket.io.engine.transport.name === 'websocket', { what: 'the upgrade' });
  await a.refused('call-end', { callId: 'none' }, 'M_NOT_FOUND');
});

test('a socket that leaves while its command is under way gives its seat up', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const [a, b] = await Promise.all([tab(caller, { transports: ['websocket'] }), tab(callee)]);
  a.socket.emit('call-initiate', { roomId });
  a.socket.disconnect(); // the room is still being asked about
  const { callId } = await b.next('call-ringing');
  const over = await b.next('call-ended', callId);
  assert.equal(over.status, 'canceled');
});

for (const transport of ['polling', 'websocket']) {
  test(`${transport} alone carries a call`, limit, async () => {
    const { caller, callee, roomId } = await stack.newPair();
    const a = await tab(caller, { transports: [transport] });
    const b = await tab(callee, { transports: [transport] });
    const { callId } = await a.command('call-initiate', { roomId, offer: offerOf(transport) });
    await b.next('call-ringing', callId);
    await b.command('call-answer', { callId, answer: answerOf(transport) });
    assert.deepEqual((await a.next('call-answered', callId)).answer, answerOf(transport));
    await a.command('call-end', { callId });
    await b.next('call-ended', callId);
    assert.equal(a.socket.io.engine.transport.name, transport);
  });
}

test('connections without a good token are refused with a reason', limit, async () => {
  const guest = await stack.newUser({ guest: true });
  const refusals = [[{}, 'M_MISSING_TOKEN'], [{ token: 'syt_d3Jvbmc_abcdefghijklmnopqrst_0aBcDe' }, 'M_UNKNOWN_TOKEN'],
    [{ token: guest.token }, 'M_GUEST_ACCESS_FORBIDDEN']];
  for (const [auth, errcode] of refusals) {
    const refused = new Tab(stack.daemon, guest, { auth });
    open.push(refused);
    const data = await refused.refusal();
    assert.equal(data.errcode, errcode);
    assert.equal(typeof data.error, 'string');
  }
});

test("a whole call: what both users' tabs hear", limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const [a, b, other] = await Promise.all([tab(caller), tab(callee), tab(callee)]);
  const call = await a.command('call-initiate', { roomId, callType: 'video', offer: offerOf('caller') });
  const { callId } = call;
  assert.equal(call.status, 'ringing');
  assert.equal(call.origin, 'socket');
  for (const one of [b, other]) {
    const ring = await one.next('call-ringing', callId);
    assert.equal(ring.caller, caller.userId);
    assert.deepEqual(ring.offer, offerOf('caller'));
    assert.ok(ring.iceServers.length > 0);
  }
  const ack = await b.command('call-answer', { callId, answer: answerOf('callee') });
  assert.equal(ack.status, 'accepted');
  assert.ok(ack.partyId && ack.partyId !== call.partyId);
  const heard = await a.next('call-answered', callId);
  assert.equal(heard.userId, callee.userId);
  assert.deepEqual(heard.answer, answerOf('callee'));
  assert.equal((await other.next('ring-stopped', callId)).reason, 'answered_elsewhere');

  const sent = await a.command('ice-candidate', { callId, candidate: candidateOf(1) });
  const candidate = await b.next('ice-candidate', callId);
  assert.equal(candidate.seq, sent.seq);
  assert.equal(candidate.from, caller.userId);
  assert.equal(candidate.fromParty, call.partyId);
  assert.deepEqual(candidate.candidate, candidateOf(1));
  await b.command('ice-candidate', { callId, candidates: [candidateOf(2), { candidate: '' }], targetUserId: caller.userId });
  assert.equal((await a.next('ice-candidate', callId)).candidates.length, 2);
  await b.command('webrtc-offer', { callId, offer: offerOf('again'), to: call.partyId });
  assert.deepEqual((await a.next('webrtc-offer', callId)).offer, offerOf('again'));
  await a.command('webrtc-answer', { callId, answer: answerOf('again') });
  assert.deepEqual((await b.next('webrtc-answer', callId)).answer, answerOf('again'));

  const connected = await b.command('call-connected', { callId });
  for (const one of [a, b]) assert.equal((await one.next('call-connected', callId)).connectedAt, connected.connectedAt);
  await a.command('toggle-audio', { callId, enabled: false });
  assert.equal((await b.next('audio-toggled', callId)).enabled, false);
  await b.command('toggle-video', { callId, enabled: false });
  assert.equal((await a.next('video-toggled', callId)).userId, callee.userId);
  await a.command('toggle-screen', { callId, enabled: true });
  assert.equal((await b.next('screen-toggled', callId)).enabled, true);

  await a.command('call-end', { callId });
  for (const one of [a, b, other]) {
    const end = await one.next('call-ended', callId);
    assert.equal(end.status, 'ended');
    assert.equal(end.endReason, 'user_hangup');
    assert.equal(end.endedBy, caller.userId);
  }
  for (const one of [a, b, other]) await one.drain();
  for (const heardAt of finals([a, b, other], callId)) assert.equal(heardAt.length, 1, 'one final event');
  assert.deepEqual(other.all('ice-candidate'), [], 'a tab without a seat hears no signalling');
  assert.equal(a.all('webrtc-answer').length, 0, 'nobody hears its own signals');
  for (const one of [a, b]) {
    const numbers = one.heard.filter((event) => event.callId === callId && event.seq).map((event) => event.seq);
    assert.deepEqual(numbers, [...numbers].sort((x, y) => x - y), 'events arrive in order');
  }
  await untilSent(stack, callId);
  await expectRecord(stack, callId, { caller, callee, roomId, status: 'ended', endReason: 'user_hangup',
    endedBy: caller });
});

test('a declined call', limit, async () => {
  const { a, b, callId, callee } = await ringing();
  const other = await tab(callee);
  await b.command('call-reject', { callId, reason: 'user_busy' });
  for (const one of [a, b, other]) {
    const end = await one.next('call-rejected', callId);
    assert.equal(end.status, 'declined');
    assert.equal(end.endReason, 'user_busy');
  }
  assert.equal((await other.next('ring-stopped', callId)).reason, 'rejected_elsewhere');
  await b.refused('call-answer', { callId }, 'ORG.CALLD.INVALID_STATE');
});

test('a canceled call', limit, async () => {
  const { a, b, callId } = await ringing();
  await a.command('call-end', { callId });
  assert.equal((await b.next('ring-stopped', callId)).reason, 'canceled');
  assert.equal((await b.next('call-ended', callId)).status, 'canceled');
});

test('a missed call', limit, async () => {
  const { a, b, callId } = await ringing({ ringSeconds: 15 });
  for (const one of [a, b]) {
    const end = await one.next('call-missed', callId, undefined, 40);
    assert.equal(end.status, 'missed');
    assert.equal(end.endReason, 'invite_timeout');
  }
  assert.equal((await b.next('ring-stopped', callId)).reason, 'timeout');
  for (const heardAt of finals([a, b], callId)) assert.equal(heardAt.length, 1);
});

test('who joins late gets what was missed, in order, signals too', limit, async () => {
  const { a, b, callId } = await ringing({ offer: offerOf('caller') });
  for (const number of [1, 2, 3]) await a.command('ice-candidate', { callId, candidate: candidateOf(number) });
  const joined = await b.command('join-call', { callId });
  assert.equal(joined.call.callId, callId);
  assert.deepEqual(joined.call.offer, offerOf('caller'));
  assert.ok(joined.partyId);
  const candidates = joined.missed.filter((event) => event.event === 'ice-candidate');
  assert.deepEqual(candidates.map((event) => event.candidate ?? event.candidates[0]), [1, 2, 3].map(candidateOf));
  const numbers = joined.missed.map((event) => event.seq);
  assert.deepEqual(numbers, [...numbers].sort((x, y) => x - y));
  const rest = await b.command('join-call', { callId, lastSeq: candidates[1].seq });
  assert.deepEqual(rest.missed.map((event) => event.seq), [candidates[2].seq]);
  const fourth = await a.command('ice-candidate', { callId, candidate: candidateOf(4) });
  assert.equal((await b.next('ice-candidate', callId)).seq, fourth.seq);
  const ack = await b.command('call-answer', { callId, answer: answerOf('callee') });
  assert.equal(ack.partyId, joined.partyId, 'the seat that joined answers');
});

test('one seat a user: another tab is refused, unless it takes over', limit, async () => {
  const { a, b, callId, call, caller } = await answered();
  const second = await tab(caller);
  await second.refused('join-call', { callId }, 'ORG.CALLD.SEAT_TAKEN');
  const taken = await second.command('join-call', { callId, takeOver: true });
  assert.equal(taken.partyId, call.partyId, 'the seat keeps its party');
  assert.equal((await a.next('user-left', callId)).reason, 'replaced');
  await b.command('ice-candidate', { callId, candidate: candidateOf(9) });
  await second.next('ice-candidate', callId);
  await a.drain();
  assert.deepEqual(a.all('ice-candidate', callId), []);
  await second.command('call-end', { callId });
  await b.next('call-ended', callId);
});

test('a call begun over REST: the first tab that joins sits on its seat', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const reply = await stack.as(caller).post('/api/calls/initiate', { roomId, offer: offerOf('rest') });
  assert.equal(reply.status, 201);
  const { callId, partyId } = reply.body;
  const a = await tab(caller);
  assert.equal((await a.command('join-call', { callId })).partyId, partyId);
  const b = await tab(callee);
  const joined = await b.command('join-call', { callId });
  const answer = await stack.as(callee).post(`/api/calls/${callId}/answer`, { answer: answerOf('rest') });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.deepEqual((await a.next('call-answered', callId)).answer, answerOf('rest'));
  assert.ok(joined.partyId);
  await a.command('call-end', { callId });
});

test('an unreachable callee is told to the caller at once', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const a = await tab(caller);
  const { callId } = await a.command('call-initiate', { roomId });
  assert.equal((await a.next('peer-offline', callId)).userId, callee.userId);
  const b = await tab(callee);
  const { calls } = (await stack.as(callee).get('/api/calls/active')).body;
  assert.deepEqual(calls.map((call) => call.callId), [callId]);
  await b.command('call-reject', { callId });
  await a.next('call-rejected', callId);
});

test('a dropped tab keeps its seat for a while, and comes back to it', limit, async () => {
  const { a, b, callId, callee, calleeParty } = await answered();
  b.close();
  const gone = await a.next('peer-reconnecting', callId);
  assert.equal(gone.userId, callee.userId);
  assert.equal(gone.graceSeconds, seatSeconds);
  const sent = await a.command('ice-candidate', { callId, candidate: candidateOf(5) });
  const back = await tab(callee);
  const joined = await back.command('join-call', { callId, partyId: calleeParty });
  assert.equal(joined.partyId, calleeParty);
  assert.ok(joined.missed.some((event) => event.seq === sent.seq));
  await a.command('ice-candidate', { callId, candidate: candidateOf(6) });
  await back.next('ice-candidate', callId);
  back.close();
  const left = await a.next('user-left', callId);
  assert.equal(left.userId, callee.userId);
  const end = await a.next('call-ended', callId);
  assert.equal(end.status, 'failed');
  assert.equal(end.endReason, 'peer_lost');
});

test('leaving a direct call ends it', limit, async () => {
  const { a, b, callId } = await answered();
  await b.command('leave-call', { callId });
  assert.equal((await a.next('call-ended', callId)).status, 'ended');
});

test('refusals: with an ack in the ack, without one as call-error', limit, async () => {
  const { a, b, callId } = await ringing();
  await a.refused('call-end', {}, 'M_MISSING_PARAM');
  await a.refused('call-end', { callId: 7 }, 'M_BAD_JSON');
  await a.refused('call-answer', { callId }, 'M_FORBIDDEN');
  await a.refused('call-connected', { callId }, 'ORG.CALLD.INVALID_STATE');
  await a.refused('ice-candidate', { callId, candidate: 'text' }, 'M_BAD_JSON');
  await a.refused('no-such-event', { callId }, 'M_UNRECOGNIZED');
  const stranger = await tab(await stack.newUser());
  await stranger.refused('join-call', { callId }, 'M_NOT_FOUND');
  a.socket.emit('call-connected', { callId });
  const error = await a.next('call-error', callId);
  assert.equal(error.errcode, 'ORG.CALLD.INVALID_STATE');
  assert.equal(error.about, 'call-connected');
  assert.equal((await b.command('join-call', { callId })).call.status, 'ringing', 'nothing changed');
});
