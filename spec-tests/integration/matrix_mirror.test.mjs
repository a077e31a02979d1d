// What the daemon writes into rooms, and what it makes of Matrix clients' events, on a homeserver with its default rate
// limits: order, contents, batches, glare, renegotiation, and what must never be sent.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import test, { after, before } from 'node:test';
import { rawRequest } from '../lib/raw-http.mjs';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { startStack } from '../lib/stack.mjs';
import { candidatesOf, expectTimeline } from '../lib/timeline.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;
let open = [];

before(async () => { stack = await startStack(); }, { timeout: 180000 });
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

/** A POST that must succeed; its JSON. */
async function post(user, path, body) {
  const reply = await stack.as(user).post(path, body);
  assert.ok(reply.status < 300, `${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
  return reply.body;
}

/** What a Matrix client sends in one call. */
function party(user, roomId, callId = `m${randomUUID()}`, partyId = `P${randomUUID().slice(0, 8)}`) {
  return {
    callId,
    partyId,
    send: (type, content = {}) => user.send(roomId, `m.call.${type}`,
      { call_id: callId, version: '1', party_id: partyId, ...content }),
    invite: (content = {}) => user.send(roomId, 'm.call.invite', { call_id: callId, version: '1', party_id: partyId,
      lifetime: 60000, offer: offerOf('matrix'), ...content }),
  };
}

const modern = { capabilities: { 'm.call.dtmf': false, 'm.call.transferee': false } };

/** The first event of that type from that sender, once it is in the room. */
function sent(reader, roomId, callId, type, sender, matches = () => true) {
  return until(async () => (await reader.callEvents(roomId, callId)).find((event) =>
    event.type === `m.call.${type}` && event.sender === sender.userId && matches(event)), { what: `m.call.${type}` });
}

async function statusOf(user, callId) {
  return (await stack.as(user).get(`/api/calls/${callId}/status`)).body;
}

function untilStatus(user, callId, status) {
  return until(async () => {
    const call = await statusOf(user, callId);
    return call.status === status && call;
  }, { what: `status ${status}` });
}

/** A REST user without any socket calls a Matrix client, which has seen the invite. */
async function callsMatrix(body = {}) {
  const pair = await stack.newPair();
  const call = await post(pair.caller, '/api/calls/initiate', { roomId: pair.roomId, offer: offerOf('rest'), ...body });
  const invite = await sent(pair.callee, pair.roomId, call.callId, 'invite', pair.caller);
  return { ...pair, call, callId: call.callId, invite, client: party(pair.callee, pair.roomId, call.callId) };
}

/** A Matrix client calls a user with a tab open, where it rings. */
async function matrixCalls(content = {}) {
  const pair = await stack.newPair();
  const b = await tab(pair.callee);
  const client = party(pair.caller, pair.roomId);
  await client.invite(content);
  const ring = await b.next('call-ringing');
  return { ...pair, b, client, ring, callId: ring.callId };
}

test('REST alone calls a Matrix client: invite, candidates, select_answer, hangup', limit, async () => {
  const { caller, callee, roomId, call, callId, invite, client } = await callsMatrix();
  const { content } = invite;
  assert.equal(content.invitee, callee.userId);
  assert.equal(content.party_id, call.partyId);
  assert.ok(content.lifetime > 50000 && content.lifetime <= 60000, `lifetime ${content.lifetime}`);
  assert.deepEqual(content.offer, offerOf('rest'));
  assert.deepEqual(Object.keys(content.sdp_stream_metadata), ['stream-rest']);
  assert.deepEqual(content.sdp_stream_metadata['stream-rest'],
    { purpose: 'm.usermedia', audio_muted: false, video_muted: false });
  assert.equal((await untilStatus(caller, callId, 'ringing')).matrixSignalling, 'sent');
  const end = { candidate: '', sdpMid: null, sdpMLineIndex: null, usernameFragment: null };
  for (const candidate of [...[1, 2, 3].map(candidateOf), end]) {
    await post(caller, `/api/calls/${callId}/ice-candidate`, { candidate });
  }
  await client.send('answer', { answer: answerOf('client') });
  await client.send('candidates', { candidates: [candidateOf(7), { candidate: '' }] });
  const answered = await untilStatus(caller, callId, 'accepted');
  assert.deepEqual(answered.answer, answerOf('client'));
  const select = await sent(callee, roomId, callId, 'select_answer', caller);
  assert.equal(select.content.selected_party_id, client.partyId);
  const missed = await until(async () => {
    const { body } = await stack.as(caller).get(`/api/calls/${callId}/events`);
    const found = body.missed.filter((event) => event.event === 'ice-candidate');
    return found.length > 0 && found;
  }, { what: "the client's candidates" });
  assert.deepEqual(missed.flatMap((event) => event.candidates), [candidateOf(7), { candidate: '' }]);
  assert.equal(missed[0].from, callee.userId);
  await until(async () => candidatesOf(await callee.callEvents(roomId, callId), caller.userId).length === 4,
    { what: 'our candidates' });
  await post(caller, `/api/calls/${callId}/connected`);
  await post(caller, `/api/calls/${callId}/end`);
  const events = await expectTimeline(callee, roomId, callId, [{ type: 'invite', sender: caller },
    { type: 'answer', sender: callee }, { type: 'select_answer', sender: caller },
    { type: 'hangup', sender: caller, reason: 'user_hangup' }]);
  assert.deepEqual(candidatesOf(events, caller.userId), [1, 2, 3].map((n) => candidateOf(n).candidate).concat(''));
  assert.ok(!JSON.stringify(events).includes('null'));
});

test('a Matrix client calls REST alone: answer, candidates both ways, hangup by REST', limit, async () => {
  const { caller, callee, roomId, callId, client } = await matrixCalls();
  const other = (await stack.as(callee).get('/api/calls/active')).body.calls.find((call) => call.callId === callId);
  assert.equal(other.status, 'ringing');
  await client.send('candidates', { candidates: [candidateOf(1)] });
  await post(callee, `/api/calls/${callId}/answer`, { answer: answerOf('rest') });
  const answer = await sent(caller, roomId, client.callId, 'answer', callee);
  assert.deepEqual(answer.content.answer, answerOf('rest'));
  assert.deepEqual(Object.keys(answer.content.sdp_stream_metadata), ['stream-rest']);
  await client.send('select_answer', { selected_party_id: answer.content.party_id });
  await post(callee, `/api/calls/${callId}/ice-candidate`, { candidates: [candidateOf(2)] });
  await until(async () => candidatesOf(await caller.callEvents(roomId, client.callId), callee.userId).length === 1,
    { what: 'our candidate' });
  await post(callee, `/api/calls/${callId}/end`, { reason: 'ice_failed' });
  await expectTimeline(caller, roomId, client.callId, [{ type: 'invite', sender: caller },
    { type: 'answer', sender: callee }, { type: 'select_answer', sender: caller },
    { type: 'hangup', sender: callee, reason: 'ice_failed' }]);
});

test('between two of our users the room tells all that other devices must know, and no candidates', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const call = await post(caller, '/api/calls/initiate', { roomId, offer: offerOf('a') });
  const { callId } = call;
  await sent(callee, roomId, callId, 'invite', caller);
  await post(callee, `/api/calls/${callId}/answer`, {});
  await post(callee, `/api/calls/${callId}/answer-sdp`, { answer: answerOf('b') });
  await post(caller, `/api/calls/${callId}/ice-candidate`, { candidate: candidateOf(1) });
  await post(callee, `/api/calls/${callId}/ice-candidate`, { candidate: candidateOf(2) });
  await post(caller, `/api/calls/${callId}/offer`, { offer: offerOf('again') });
  const answer = await sent(caller, roomId, callId, 'answer', callee);
  const select = await sent(caller, roomId, callId, 'select_answer', caller);
  assert.equal(select.content.selected_party_id, answer.content.party_id);
  await post(callee, `/api/calls/${callId}/end`);
  const events = await expectTimeline(caller, roomId, callId, [{ type: 'invite', sender: caller },
    { type: 'answer', sender: callee }, { type: 'select_answer', sender: caller },
    { type: 'hangup', sender: callee, reason: 'user_hangup' }]);
  assert.deepEqual(events.filter((event) => event.type === 'm.call.candidates'), []);
});

test('answered before an offer existed: the room never hears of the call', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const { callId, matrixSignalling } = await post(caller, '/api/calls/initiate', { roomId });
  assert.equal(matrixSignalling, 'waiting_for_offer');
  await post(callee, `/api/calls/${callId}/answer`, {});
  await post(caller, `/api/calls/${callId}/offer`, { offer: offerOf('late') });
  await post(callee, `/api/calls/${callId}/answer-sdp`, { answer: answerOf('late') });
  await post(callee, `/api/calls/${callId}/end`);
  // An event of another call of the same users that came after: so this one's would stand before it.
  const next = await post(caller, '/api/calls/initiate', { roomId, offer: offerOf('next') });
  await sent(callee, roomId, next.callId, 'invite', caller);
  assert.deepEqual(await callee.callEvents(roomId, callId), []);
  await post(caller, `/api/calls/${next.callId}/end`);
});

test('ended at once: either nothing, or an invite and its hangup', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const { callId } = await post(caller, '/api/calls/initiate', { roomId, offer: offerOf('short') });
  await post(caller, `/api/calls/${callId}/end`);
  const next = await post(caller, '/api/calls/initiate', { roomId, offer: offerOf('next') });
  await sent(callee, roomId, next.callId, 'invite', caller);
  await until(async () => {
    const types = (await callee.callEvents(roomId, callId)).map((event) => event.type).join();
    return ['', 'm.call.invite,m.call.hangup'].includes(types);
  }, { what: 'a clean end' });
  await post(caller, `/api/calls/${next.callId}/end`);
});

test('nobody answers: the daemon hangs up in the caller\'s name', limit, async () => {
  const { caller, callee, roomId, callId } = await callsMatrix({ ringSeconds: 15 });
  await untilStatus(caller, callId, 'missed');
  await expectTimeline(callee, roomId, callId, [{ type: 'invite', sender: caller },
    { type: 'hangup', sender: caller, reason: 'invite_timeout' }]);
});

test('busy: a reject with that reason, and the caller\'s choice of it', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const { callId } = await post(caller, '/api/calls/initiate', { roomId, offer: offerOf('a') });
  await sent(callee, roomId, callId, 'invite', caller);
  await post(callee, `/api/calls/${callId}/reject`, { reason: 'user_busy' });
  const events = await expectTimeline(caller, roomId, callId, [{ type: 'invite', sender: caller },
    { type: 'reject', sender: callee, reason: 'user_busy' }, { type: 'select_answer', sender: caller }]);
  assert.equal(events[2].content.selected_party_id, events[1].content.party_id);
});

test('a refusal to a Matrix caller is a reject, never a hangup', limit, async () => {
  const { caller, callee, roomId, b, client, callId } = await matrixCalls();
  await b.command('call-end', { callId });
  await expectTimeline(caller, roomId, client.callId, [{ type: 'invite', sender: caller },
    { type: 'reject', sender: callee }]);
  assert.equal((await statusOf(callee, callId)).status, 'declined');
});

test('mute and renegotiation reach a client that knows them, and come back from it', limit, async () => {
  const { caller, callee, roomId, b, client, callId } = await matrixCalls({ ...modern,
    sdp_stream_metadata: { 'stream-matrix': { purpose: 'm.usermedia', audio_muted: false, video_muted: true } } });
  const { participants } = await statusOf(callee, callId);
  assert.equal(participants.find((one) => one.userId === caller.userId).videoEnabled, false);
  await b.command('join-call', { callId });
  await b.command('call-answer', { callId, answer: answerOf('tab') });
  await sent(caller, roomId, client.callId, 'answer', callee);
  await b.command('toggle-audio', { callId, enabled: false });
  const metadata = await sent(caller, roomId, client.callId, 'sdp_stream_metadata_changed', callee);
  assert.equal(metadata.content.sdp_stream_metadata['stream-tab'].audio_muted, true);
  assert.equal(metadata.content.sdp_stream_metadata['stream-tab'].video_muted, false);
  await client.send('sdp_stream_metadata_changed', { sdp_stream_metadata: { 'stream-matrix':
    { purpose: 'm.usermedia', audio_muted: true, video_muted: true } } });
  const toggled = await b.next('audio-toggled', callId);
  assert.deepEqual([toggled.userId, toggled.enabled], [caller.userId, false]);
  await client.send('negotiate', { description: offerOf('again'), lifetime: 60000 });
  assert.deepEqual((await b.next('webrtc-offer', callId)).offer, offerOf('again'));
  await b.command('webrtc-answer', { callId, answer: answerOf('again') });
  const negotiate = await sent(caller, roomId, client.callId, 'negotiate', callee);
  assert.deepEqual(negotiate.content.description, answerOf('again'));
  // Neither another device of the caller nor the callee's own other device speaks for the parties.
  for (const stranger of [party(caller, roomId, client.callId), party(callee, roomId, client.callId)]) {
    await stranger.send('negotiate', { description: offerOf('evil'), lifetime: 60000 });
    await stranger.send('hangup', { reason: 'user_hangup' });
  }
  await client.send('candidates', { candidates: [candidateOf(9)] });
  await b.next('ice-candidate', callId);
  assert.equal(b.all('webrtc-offer', callId).length, 1);
  assert.equal((await statusOf(callee, callId)).status, 'accepted');
  await client.send('hangup', { reason: 'user_hangup' });
  await b.next('call-ended', callId);
});

test('a client that never showed it knows negotiate gets none', limit, async () => {
  const { caller, callee, roomId, b, client, callId } = await matrixCalls();
  await b.command('call-answer', { callId, answer: answerOf('tab') });
  await sent(caller, roomId, client.callId, 'answer', callee);
  await b.command('toggle-video', { callId, enabled: false });
  await b.command('webrtc-offer', { callId, offer: offerOf('again') });
  await b.command('call-end', { callId });
  await expectTimeline(caller, roomId, client.callId, [{ type: 'invite', sender: caller },
    { type: 'answer', sender: callee }, { type: 'hangup', sender: callee }]);
});

test('both call each other: the client\'s call stays, ours is replaced', limit, async () => {
  const { caller, callee, roomId, callId } = await callsMatrix();
  const a = await tab(caller);
  const client = party(callee, roomId, `1${Date.now()}`);
  await client.invite();
  const ring = await a.next('call-ringing', undefined, (one) => one.matrixCallId === client.callId);
  assert.equal(ring.caller, callee.userId);
  const ours = await untilStatus(caller, callId, 'canceled');
  assert.equal(ours.endReason, 'replaced');
  await expectTimeline(callee, roomId, callId, [{ type: 'invite', sender: caller },
    { type: 'hangup', sender: caller }]);
  await a.command('call-answer', { callId: ring.callId, answer: answerOf('tab') });
  await sent(callee, roomId, client.callId, 'answer', caller);
  await client.send('hangup', { reason: 'user_hangup' });
  await a.next('call-ended', ring.callId);
});

test('answered without a description and given up: a reject, for a hangup would mean nothing', limit, async () => {
  const { caller, callee, roomId, b, client, callId } = await matrixCalls();
  await b.command('call-answer', { callId });
  await b.command('call-end', { callId });
  await expectTimeline(caller, roomId, client.callId, [{ type: 'invite', sender: caller },
    { type: 'reject', sender: callee }]);
});

test('muted while it rang: the client that answers is told', limit, async () => {
  const { caller, callee, roomId, callId, client } = await callsMatrix();
  await post(caller, `/api/calls/${callId}/toggle-audio`, { enabled: false });
  await client.send('answer', { answer: answerOf('client'), ...modern });
  const metadata = await sent(callee, roomId, callId, 'sdp_stream_metadata_changed', caller);
  assert.equal(metadata.content.sdp_stream_metadata['stream-rest'].audio_muted, true);
  await post(caller, `/api/calls/${callId}/end`);
});

test('the caller chose another device: ours leaves quietly', limit, async () => {
  const { caller, callee, roomId, b, client, callId } = await matrixCalls();
  await b.command('call-answer', { callId, answer: answerOf('tab') });
  await sent(caller, roomId, client.callId, 'answer', callee);
  await client.send('select_answer', { selected_party_id: 'another' });
  const left = await until(async () => (await statusOf(callee, callId)).participants
    .find((one) => one.userId === callee.userId && one.leaveReason === 'answered_elsewhere'), { what: 'leaving' });
  assert.ok(left);
  await client.send('hangup', { reason: 'user_hangup' });
  await b.next('call-ended', callId);
  await expectTimeline(caller, roomId, client.callId, [{ type: 'invite', sender: caller },
    { type: 'answer', sender: callee }, { type: 'select_answer', sender: caller }, { type: 'hangup', sender: caller }]);
});

test('the caller\'s ring timer is a missed call; leaving the room ends one', limit, async () => {
  const first = await matrixCalls();
  await first.client.send('hangup', { reason: 'invite_timeout' });
  assert.equal((await first.b.next('call-missed', first.callId)).endReason, 'invite_timeout');
  const { caller, callee, roomId, callId } = await callsMatrix();
  await callee.leave(roomId);
  const ended = await untilStatus(caller, callId, 'declined');
  assert.equal(ended.endReason, 'left_room');
  await sent(caller, roomId, callId, 'hangup', caller);
});

test('two Matrix clients call each other: recorded, connected by their choice, and we stay silent', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const b = await tab(callee);
  const one = party(caller, roomId);
  const two = party(callee, roomId, one.callId);
  await one.invite();
  const found = await b.next('call-ringing');
  await two.send('answer', { answer: answerOf('two') });
  assert.equal((await b.next('ring-stopped', found.callId)).reason, 'answered_elsewhere');
  await one.send('select_answer', { selected_party_id: two.partyId });
  const connected = await untilStatus(callee, found.callId, 'connected');
  assert.equal(connected.connectedInferred, true);
  await two.send('hangup', { reason: 'user_hangup' });
  await untilStatus(callee, found.callId, 'ended');
  await expectTimeline(caller, roomId, one.callId, [{ type: 'invite', sender: caller },
    { type: 'answer', sender: callee }, { type: 'select_answer', sender: caller }, { type: 'hangup', sender: callee }]);
});

test('a call that was over before we heard of it does not ring', limit, async () => {
  const registration = readFileSync(stack.info.registration, 'utf8');
  const field = (name) => new RegExp(`^${name}:\\s*["']?([^"'\\s]+)`, 'm').exec(registration)[1];
  const { caller, callee, roomId } = await stack.newPair();
  const b = await tab(callee);
  const event = (callId, type, content) => ({ type: `m.call.${type}`, room_id: roomId, sender: caller.userId,
    event_id: `$${randomUUID()}`, origin_server_ts: Date.now(), unsigned: { age: 10 },
    content: { call_id: callId, version: '1', party_id: 'DIRECT', ...content } });
  const [over, live, broken] = [randomUUID(), randomUUID(), randomUUID()];
  const invite = { lifetime: 60000, offer: offerOf('direct') };
  const reply = await rawRequest(field('url').replace(/\/$/, ''), 'PUT',
    `/_matrix/app/v1/transactions/${randomUUID()}`, { token: field('hs_token'), body: JSON.stringify({ events: [
      event(over, 'invite', invite), event(over, 'candidates', { candidates: [candidateOf(1)] }),
      event(broken, 'invite', { lifetime: 60000, offer: 5 }), event(live, 'invite', { ...invite, lifetime: 60000.0 }),
      event(live, 'candidates', { candidates: [candidateOf(2), null, { candidate: 5 }] }),
      event(over, 'hangup', { reason: 'user_hangup' })] }) });
  assert.equal(reply.status, 200);
  const ring = await b.next('call-ringing');
  assert.equal(ring.matrixCallId, live);
  const join = await b.command('join-call', { callId: ring.callId });
  assert.deepEqual(join.missed.filter((one) => one.event === 'ice-candidate').flatMap((one) => one.candidates),
    [candidateOf(2)]);
  await b.command('call-reject', { callId: ring.callId });
  await b.next('call-rejected', ring.callId);
  assert.deepEqual(b.all('call-ringing').map((one) => one.matrixCallId), [live]);
});
