// Calls between a socket or REST user and a Matrix client, whose events this file writes by hand: versions, senders,
// rooms and orders that a well-behaved client library would never produce.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import test, { after, before } from 'node:test';
import { rawRequest } from '../lib/raw-http.mjs';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { startStack } from '../lib/stack.mjs';
import { candidatesOf, expectRecord, expectTimeline, recordOf, untilSent } from '../lib/timeline.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;
let silent;
let open = [];

before(async () => {
  // A room that existed, and said nothing more, before the homeserver had heard of us.
  const plain = await startStack({ appservice: false, liftRateLimits: true, users: 4 });
  const [, , caller, callee] = plain.users;
  silent = { roomId: await caller.roomWith(callee), caller: 2, callee: 3 };
  await plain.stop({ keep: true });
  stack = await startStack({ directory: plain.directory, liftRateLimits: true, users: 4 });
}, { timeout: 180000 });

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

/** A Matrix client's side of one call: sends m.call.* as `user`. */
class Party {
  constructor(user, roomId, { callId = `m${randomUUID()}`, partyId = `P${randomUUID().slice(0, 8)}`, version = '1' } = {}) {
    Object.assign(this, { user, roomId, callId, partyId, version });
  }

  send(type, content = {}, roomId = this.roomId) {
    return this.user.send(roomId, `m.call.${type}`, { call_id: this.callId, version: this.version,
      ...(this.version === 0 ? {} : { party_id: this.partyId }), ...content });
  }

  invite(content = {}) {
    return this.send('invite', { lifetime: 60000, offer: offerOf('matrix'), ...content });
  }
}

/** Our event of that type in the room, once it is there. */
function ours(reader, roomId, callId, type, sender) {
  return until(async () => (await reader.callEvents(roomId, callId))
    .find((event) => event.type === `m.call.${type}` && event.sender === sender.userId), { what: `m.call.${type}` });
}

/** A Matrix client calls a socket user. */
async function matrixCalls(options, invite) {
  const pair = await stack.newPair();
  const b = await tab(pair.callee);
  const party = new Party(pair.caller, pair.roomId, options);
  await party.invite(invite);
  const ring = await b.next('call-ringing');
  return { ...pair, b, party, ring, callId: ring.callId };
}

/** A socket user calls a Matrix client. */
async function callsMatrix() {
  const pair = await stack.newPair();
  const a = await tab(pair.caller);
  const call = await a.command('call-initiate', { roomId: pair.roomId, offer: offerOf('socket') });
  const invite = await ours(pair.callee, pair.roomId, call.callId, 'invite', pair.caller);
  const party = new Party(pair.callee, pair.roomId, { callId: call.callId });
  return { ...pair, a, call, callId: call.callId, invite, party };
}

/** Waits until an event that we sent after `what` has been applied: events of a room come in order. */
async function settled(user) {
  const other = await stack.newUser();
  const roomId = await other.roomWith(user);
  const listener = await tab(user);
  const probe = new Party(other, roomId);
  await probe.invite();
  const ring = await listener.next('call-ringing', undefined, (one) => one.roomId === roomId);
  await probe.send('hangup', { reason: 'user_hangup' });
  await listener.next('call-ended', ring.callId);
}

test('a Matrix client calls, a socket user answers, the caller hangs up', limit, async () => {
  const { caller, callee, roomId, b, party, ring, callId } = await matrixCalls();
  assert.equal(ring.origin, 'matrix');
  assert.equal(ring.matrixCallId, party.callId);
  assert.equal(ring.caller, caller.userId);
  assert.equal(ring.callee, callee.userId);
  assert.equal(ring.callType, 'video');
  assert.deepEqual(ring.offer, offerOf('matrix'));
  await party.send('candidates', { candidates: [candidateOf(1), candidateOf(2)] });
  await b.command('join-call', { callId });
  await b.command('call-answer', { callId, answer: answerOf('socket') });
  const answer = await ours(caller, roomId, party.callId, 'answer', callee);
  assert.equal(answer.content.answer.sdp, answerOf('socket').sdp);
  await party.send('select_answer', { selected_party_id: answer.content.party_id });
  await party.send('candidates', { candidates: [candidateOf(3)] });
  await b.next('ice-candidate', callId, (event) =>
    JSON.stringify(event).includes(candidateOf(3).candidate) && event.from === caller.userId);
  await b.command('ice-candidate', { callId, candidates: [candidateOf(4), { candidate: '' }] });
  await until(async () => candidatesOf(await caller.callEvents(roomId, party.callId), callee.userId).length === 2,
    { what: 'our candidates in the room' });
  await b.command('call-connected', { callId });
  await party.send('hangup', { reason: 'user_hangup' });
  const end = await b.next('call-ended', callId);
  assert.equal(end.endedBy, caller.userId);
  await expectTimeline(caller, roomId, party.callId, [
    { type: 'invite', sender: caller }, { type: 'answer', sender: callee },
    { type: 'select_answer', sender: caller }, { type: 'hangup', sender: caller },
  ]);
  await expectRecord(stack, party.callId, { caller, callee, roomId, status: 'ended', endReason: 'user_hangup',
    endedBy: caller });
});

test('a Matrix client of version 0 calls; the refusal is a hangup, as it understands it', limit, async () => {
  const { caller, callee, roomId, b, party, callId } = await matrixCalls({ version: 0 });
  await b.command('call-reject', { callId });
  const hangup = await ours(caller, roomId, party.callId, 'hangup', callee);
  assert.ok(hangup);
  await untilSent(stack, party.callId);
  assert.deepEqual((await caller.callEvents(roomId, party.callId)).map((event) => event.type),
    ['m.call.invite', 'm.call.hangup']);
});

test('an invite for someone else, an invite that is too old: nothing rings', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const b = await tab(callee);
  await new Party(caller, roomId).invite({ invitee: '@nobody:calld.localhost' });
  await new Party(caller, roomId).invite({ lifetime: 0 });
  await settled(callee);
  assert.deepEqual(b.all('call-ringing').filter((ring) => ring.roomId === roomId), []);
});

test('a room that was silent before the registration was loaded rings too', limit, async () => {
  const [caller, callee] = [stack.users[silent.caller], stack.users[silent.callee]];
  const b = await tab(callee);
  const party = new Party(caller, silent.roomId);
  await party.invite();
  const ring = await b.next('call-ringing');
  assert.equal(ring.matrixCallId, party.callId);
  await party.send('hangup', { reason: 'user_hangup' });
  assert.equal((await b.next('call-ended', ring.callId)).status, 'canceled');
});

test('a socket user calls, a Matrix client answers and hangs up', limit, async () => {
  const { caller, callee, roomId, a, callId, party, invite } = await callsMatrix();
  assert.equal(invite.content.invitee, callee.userId);
  await party.send('answer', { answer: answerOf('matrix') });
  const heard = await a.next('call-answered', callId);
  assert.equal(heard.userId, callee.userId);
  assert.deepEqual(heard.answer, answerOf('matrix'));
  const select = await ours(callee, roomId, callId, 'select_answer', caller);
  assert.equal(select.content.selected_party_id, party.partyId);
  // A second device that answers too late was not selected: it moves nothing.
  await new Party(callee, roomId, { callId }).send('answer', { answer: answerOf('late') });
  await new Party(callee, roomId, { callId }).send('hangup', { reason: 'user_hangup' });
  await party.send('candidates', { candidates: [candidateOf(1)] });
  await a.next('ice-candidate', callId);
  assert.equal((await recordOf(stack, callId)).session.status, 'accepted');
  await a.command('call-connected', { callId });
  await party.send('hangup', { reason: 'ice_failed' });
  const end = await a.next('call-ended', callId);
  assert.equal(end.status, 'failed');
  assert.equal(end.endReason, 'ice_failed');
  await untilSent(stack, callId);
  assert.equal((await callee.callEvents(roomId, callId)).filter((event) => event.sender === caller.userId)
    .map((event) => event.type).filter((type) => type !== 'm.call.candidates').join(), 'm.call.invite,m.call.select_answer');
});

test('a Matrix client rejects', limit, async () => {
  const { caller, callee, roomId, a, callId, party } = await callsMatrix();
  await party.send('reject');
  const end = await a.next('call-rejected', callId);
  assert.equal(end.endedBy, callee.userId);
  await untilSent(stack, callId);
  await expectTimeline(callee, roomId, callId, [{ type: 'invite', sender: caller }, { type: 'reject', sender: callee },
    { type: 'select_answer', sender: caller }]);
});

test("a hangup of version 1 from the callee's side before an answer is ignored", limit, async () => {
  const { callee, a, callId, party } = await callsMatrix();
  await party.send('hangup', { reason: 'invite_timeout' });
  await settled(callee);
  assert.equal((await recordOf(stack, callId)).session.status, 'ringing');
  await a.command('call-end', { callId });
});

test('the same call id in two rooms: two calls, and events from the wrong room move neither', limit, async () => {
  const first = await matrixCalls();
  const { caller, callee, b, party } = first;
  const otherRoom = await caller.roomWith(callee);
  const twin = new Party(caller, otherRoom, { callId: party.callId });
  await twin.invite();
  const ring = await b.next('call-ringing', undefined, (one) => one.roomId === otherRoom);
  assert.notEqual(ring.callId, first.callId);
  const stranger = await stack.newUser();
  const foreignRoom = await stranger.roomWith(callee);
  for (const type of ['hangup', 'reject', 'answer', 'select_answer', 'candidates', 'negotiate']) {
    await new Party(stranger, foreignRoom, { callId: party.callId, partyId: party.partyId }).send(type, {
      reason: 'user_hangup', answer: answerOf('foreign'), selected_party_id: 'x', candidates: [candidateOf(1)],
      description: offerOf('foreign'), lifetime: 60000 });
  }
  await settled(callee);
  for (const id of [first.callId, ring.callId]) {
    assert.equal((await recordOf(stack, id)).session.status, 'ringing');
    assert.deepEqual(b.all('ice-candidate', id), []);
  }
  await twin.send('hangup', { reason: 'user_hangup' });
  await b.next('call-ended', ring.callId);
  assert.equal((await recordOf(stack, first.callId)).session.status, 'ringing');
  await party.send('hangup', { reason: 'user_hangup' });
  await b.next('call-ended', first.callId);
});

test('others in the room cannot answer, end or steer a call', limit, async () => {
  const [caller, callee, other] = await Promise.all([stack.newUser(), stack.newUser(), stack.newUser()]);
  const roomId = await caller.roomWith(callee, other);
  const a = await tab(caller);
  const b = await tab(callee);
  const { callId } = await a.command('call-initiate', { roomId, invitees: [callee.userId], offer: offerOf('three') });
  await b.next('call-ringing', callId);
  await ours(callee, roomId, callId, 'invite', caller);
  const intruder = new Party(other, roomId, { callId });
  await intruder.send('answer', { answer: answerOf('intruder') });
  await intruder.send('reject');
  await intruder.send('hangup', { reason: 'user_hangup' });
  await intruder.send('candidates', { candidates: [candidateOf(1)] });
  await settled(callee);
  assert.equal((await recordOf(stack, callId)).session.status, 'ringing');
  await a.drain();
  assert.deepEqual([a.all('call-answered', callId), a.all('ice-candidate', callId)], [[], []]);
  await a.command('call-end', { callId });
});

test('a Matrix client answers elsewhere: the tab of the same user stops ringing', limit, async () => {
  const pair = await stack.newPair();
  const [a, b] = await Promise.all([tab(pair.caller), tab(pair.callee)]);
  const { callId } = await a.command('call-initiate', { roomId: pair.roomId, offer: offerOf('both') });
  await b.next('call-ringing', callId);
  await ours(pair.callee, pair.roomId, callId, 'invite', pair.caller);
  await new Party(pair.callee, pair.roomId, { callId }).send('answer', { answer: answerOf('phone') });
  assert.deepEqual((await a.next('call-answered', callId)).answer, answerOf('phone'));
  assert.equal((await b.next('ring-stopped', callId)).reason, 'answered_elsewhere');
  await a.command('call-end', { callId });
});

test('in an encrypted room nothing of a call is said, and the call works between sockets', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  await caller.setState(roomId, 'm.room.encryption', { algorithm: 'm.megolm.v1.aes-sha2' });
  const [a, b] = await Promise.all([tab(caller), tab(callee)]);
  const { callId } = await a.command('call-initiate', { roomId, offer: offerOf('secret') });
  await b.next('call-ringing', callId);
  await b.command('call-answer', { callId, answer: answerOf('secret') });
  await a.next('call-answered', callId);
  const status = await until(async () => {
    const { body } = await stack.as(caller).get(`/api/calls/${callId}`);
    return body.matrixSignalling === 'unavailable_encrypted_room' && body;
  }, { what: 'matrixSignalling' });
  assert.equal(status.status, 'accepted');
  await a.command('call-end', { callId });
  await b.next('call-ended', callId);
  await untilSent(stack, callId);
  assert.deepEqual(await callee.callEvents(roomId, callId), []);
});

test("the homeserver's transactions: tokens, repetition, nonsense", limit, async () => {
  const registration = readFileSync(stack.info.registration, 'utf8');
  const field = (name) => new RegExp(`^${name}:\\s*["']?([^"'\\s]+)`, 'm').exec(registration)[1];
  const origin = field('url').replace(/\/$/, '');
  const token = field('hs_token');
  const path = `/_matrix/app/v1/transactions/${randomUUID()}`;
  const { caller, callee, roomId } = await stack.newPair();
  const b = await tab(callee);
  const event = { type: 'm.call.invite', room_id: roomId, sender: caller.userId, event_id: `$${randomUUID()}`,
    origin_server_ts: Date.now(), unsigned: { age: 10 }, content: { call_id: randomUUID(), version: '1',
      party_id: 'DIRECT', lifetime: 60000, offer: offerOf('direct') } };
  const body = JSON.stringify({ events: [event] });
  assert.equal((await rawRequest(origin, 'PUT', path, { body })).status, 401);
  assert.equal((await rawRequest(origin, 'PUT', path, { body, token: 'wrong' })).status, 403);
  assert.equal((await rawRequest(origin, 'GET', '/api/calls/active', { token })).status, 404);
  for (let round = 0; round < 3; round++) {
    const reply = await rawRequest(origin, 'PUT', path, { body, token });
    assert.equal(reply.status, 200);
    assert.deepEqual(reply.body, {});
  }
  // The same event under another transaction id is still the same event.
  assert.equal((await rawRequest(origin, 'PUT', `${path}x`, { body, token })).status, 200);
  const ring = await b.next('call-ringing');
  await settled(callee);
  assert.deepEqual(b.all('call-ringing').filter((one) => one.roomId === roomId), [ring]);
  for (const bad of [{ events: [{}] }, { events: [{ ...event, event_id: `$${randomUUID()}`, content: null }] },
    { events: [{ ...event, event_id: `$${randomUUID()}`, content: { call_id: 5, version: [], offer: 'no' } }] }]) {
    const reply = await rawRequest(origin, 'PUT', `/_matrix/app/v1/transactions/${randomUUID()}`,
      { body: JSON.stringify(bad), token });
    assert.equal(reply.status, 200, 'a poisonous event does not block the queue');
  }
  const broken = await rawRequest(origin, 'PUT', `/_matrix/app/v1/transactions/${randomUUID()}`, { body: '{"events":', token });
  assert.equal(broken.status, 400);
});
