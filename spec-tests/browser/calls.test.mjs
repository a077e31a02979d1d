// Two people on call-test.html, each in a Chromium of their own: real homeserver with its default rate limits,
// real database, real relay. Each test states what the room and the database hold afterwards.

import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { launchProfiles } from '../lib/browser.mjs';
import { CallPage } from '../lib/call-page.mjs';
import { startStack } from '../lib/stack.mjs';
import { expectCandidates, expectRecord, expectTimeline, untilMirrored, untilSent } from '../lib/timeline.mjs';

const limit = { timeout: 120000 };
let stack;
let profiles = [];

before(async () => {
  stack = await startStack({ set: { 'calls.ring_seconds': 15 } });
  profiles = await launchProfiles(2);
}, limit);

after(async () => {
  await Promise.all(profiles.map((profile) => profile.close()));
  await stack?.stop();
}, limit);

/** Two new users on a page each. */
async function open(options) {
  const pair = await stack.newPair();
  const [a, b] = await Promise.all([
    CallPage.open(profiles[0], stack, pair.caller, pair.roomId, options),
    CallPage.open(profiles[1], stack, pair.callee, pair.roomId, options),
  ]);
  return { ...pair, a, b, close: () => Promise.all([a.close(), b.close()]) };
}

async function connect(pair, options) {
  const callId = await pair.a.place(options);
  assert.equal(await pair.b.waitForIncoming(), callId);
  await untilMirrored(pair.callee, pair.roomId, callId, pair.caller, pair.a);
  const gathered = await pair.a.gathered();
  await pair.b.answer();
  await Promise.all([pair.a.waitForState('connected'), pair.b.waitForState('connected')]);
  await Promise.all([pair.a.expectMedia(options), pair.b.expectMedia(options)]);
  return { callId, gathered };
}

test('a video call: media both ways, mute and camera reach the other side, the caller ends it', limit, async () => {
  const pair = await open();
  const { a, b, caller, callee, roomId } = pair;
  const { callId, gathered } = await connect(pair);
  await a.click('mute');
  await b.waitForRemote('audio', false);
  await a.click('mute');
  await b.waitForRemote('audio', true);
  await b.click('camera');
  await a.waitForRemote('video', false);
  await b.click('camera');
  await a.waitForRemote('video', true);
  await a.hangUp();
  for (const page of [a, b]) {
    const end = await page.waitForEnd();
    assert.equal(end.status, 'ended');
    assert.equal(end.endReason, 'user_hangup');
  }
  await untilSent(stack, callId);
  const events = await expectTimeline(callee, roomId, callId, [
    { type: 'invite', sender: caller }, { type: 'answer', sender: callee },
    { type: 'select_answer', sender: caller }, { type: 'hangup', sender: caller, reason: 'user_hangup' },
  ]);
  expectCandidates(events, caller, gathered);
  assert.equal(events[0].content.invitee, callee.userId);
  assert.equal(events[0].content.lifetime, 15000);
  assert.equal(events.find((event) => event.type === 'm.call.select_answer').content.selected_party_id,
    events.find((event) => event.type === 'm.call.answer').content.party_id);
  await expectRecord(stack, callId,
    { caller, callee, roomId, status: 'ended', endReason: 'user_hangup', endedBy: caller });
  await pair.close();
});

test('an audio call that the callee ends', limit, async () => {
  const pair = await open();
  const { a, b, caller, callee, roomId } = pair;
  const { callId } = await connect(pair, { video: false });
  await b.hangUp();
  assert.equal((await a.waitForEnd()).status, 'ended');
  assert.equal((await b.waitForEnd()).status, 'ended');
  await untilSent(stack, callId);
  await expectTimeline(callee, roomId, callId, [
    { type: 'invite', sender: caller }, { type: 'answer', sender: callee },
    { type: 'select_answer', sender: caller }, { type: 'hangup', sender: callee, reason: 'user_hangup' },
  ]);
  await expectRecord(stack, callId, { caller, callee, roomId, callType: 'audio', status: 'ended',
    endReason: 'user_hangup', endedBy: callee });
  await pair.close();
});

test('relay only: media goes through coturn with credentials that the daemon minted', limit, async () => {
  const pair = await open({ relayOnly: true });
  const { a, b, caller, callee, roomId } = pair;
  const { callId, gathered } = await connect(pair);
  assert.equal(await a.localCandidateType(), 'relay');
  assert.equal(await b.localCandidateType(), 'relay');
  assert.ok(gathered.filter(Boolean).every((line) => line.includes(' typ relay')), 'nothing but relay candidates');
  await a.hangUp();
  await Promise.all([a.waitForEnd(), b.waitForEnd()]);
  await untilSent(stack, callId);
  const events = await expectTimeline(callee, roomId, callId, [
    { type: 'invite', sender: caller }, { type: 'answer', sender: callee },
    { type: 'select_answer', sender: caller }, { type: 'hangup', sender: caller, reason: 'user_hangup' },
  ]);
  expectCandidates(events, caller, gathered);
  await expectRecord(stack, callId, { caller, callee, roomId, status: 'ended', endReason: 'user_hangup' });
  await pair.close();
});

test('a declined call', limit, async () => {
  const pair = await open();
  const { a, b, caller, callee, roomId } = pair;
  const callId = await a.place();
  assert.equal(await b.waitForIncoming(), callId);
  await untilMirrored(pair.callee, pair.roomId, callId, pair.caller, pair.a);
  await b.reject();
  for (const page of [a, b]) {
    const end = await page.waitForEnd();
    assert.equal(end.status, 'declined');
    assert.equal(end.endReason, 'declined');
  }
  await untilSent(stack, callId);
  await expectTimeline(callee, roomId, callId, [
    { type: 'invite', sender: caller }, { type: 'reject', sender: callee }, { type: 'select_answer', sender: caller },
  ]);
  await expectRecord(stack, callId, { caller, callee, roomId, status: 'declined', endReason: 'declined',
    endedBy: callee, answered: false });
  await pair.close();
});

test('a call that the caller cancels while it rings', limit, async () => {
  const pair = await open();
  const { a, b, caller, callee, roomId } = pair;
  const callId = await a.place();
  assert.equal(await b.waitForIncoming(), callId);
  await untilMirrored(pair.callee, pair.roomId, callId, pair.caller, pair.a);
  await a.hangUp();
  for (const page of [a, b]) assert.equal((await page.waitForEnd()).status, 'canceled');
  await untilSent(stack, callId);
  await expectTimeline(callee, roomId, callId, [
    { type: 'invite', sender: caller }, { type: 'hangup', sender: caller, reason: 'user_hangup' },
  ]);
  await expectRecord(stack, callId, { caller, callee, roomId, status: 'canceled', endReason: 'canceled',
    endedBy: caller, answered: false });
  await pair.close();
});

test('a call that nobody answers', limit, async () => {
  const pair = await open();
  const { a, b, caller, callee, roomId } = pair;
  const callId = await a.place();
  assert.equal(await b.waitForIncoming(), callId);
  for (const page of [a, b]) {
    const end = await page.waitForEnd();
    assert.equal(end.status, 'missed');
    assert.equal(end.endReason, 'invite_timeout');
  }
  await untilSent(stack, callId);
  await expectTimeline(callee, roomId, callId, [
    { type: 'invite', sender: caller }, { type: 'hangup', sender: caller, reason: 'invite_timeout' },
  ]);
  const { session } = await expectRecord(stack, callId, { caller, callee, roomId, status: 'missed',
    endReason: 'invite_timeout', endedBy: null, answered: false });
  assert.ok(session.ended_ms - session.initiated_ms >= 15000, 'it rang for as long as it was set to');
  await pair.close();
});
