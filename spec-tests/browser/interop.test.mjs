// call-test.html against a plain matrix-js-sdk client on the same homeserver, both ways, hung up from either side;
// and two plain clients, whose call the daemon only records.

import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { launchProfiles, SdkClient } from '../lib/browser.mjs';
import { CallPage } from '../lib/call-page.mjs';
import { serveSdkPage } from '../lib/sdk-page.mjs';
import { startStack } from '../lib/stack.mjs';
import { expectCandidates, expectRecord, expectTimeline, untilMirrored, untilSent } from '../lib/timeline.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;
let site;
let profiles = [];

before(async () => {
  // matrix-js-sdk loses its own select_answer and hang-up to the default message limit and never repeats them.
  stack = await startStack({ liftRateLimits: true });
  site = await serveSdkPage();
  profiles = await launchProfiles(2);
}, limit);

after(async () => {
  await Promise.all(profiles.map((profile) => profile.close()));
  await site?.close();
  await stack?.stop();
}, limit);

async function open(callerKind, calleeKind, options) {
  const pair = await stack.newPair();
  const client = (kind, profile, user) => (kind === 'page'
    ? CallPage.open(profile, stack, user, pair.roomId, options)
    : SdkClient.open(profile, site.url, user, pair.roomId, options));
  const [a, b] = await Promise.all([client(callerKind, profiles[0], pair.caller),
    client(calleeKind, profiles[1], pair.callee)]);
  return { ...pair, a, b, close: () => Promise.all([a.close(), b.close()]) };
}

async function connect({ a, b }, options) {
  await a.place(options);
  await b.waitForIncoming();
  await b.answer();
  await Promise.all([a.waitForState('connected'), b.waitForState('connected')]);
  await Promise.all([a.expectMedia(options), b.expectMedia(options)]);
}

/** The Matrix call id: that of the only invite in the room. */
async function invitedCall(reader, roomId) {
  const invites = (await reader.callEvents(roomId)).filter((event) => event.type === 'm.call.invite');
  assert.equal(invites.length, 1);
  return invites[0].content.call_id;
}

for (const [callerKind, calleeKind] of [['page', 'sdk'], ['sdk', 'page']]) {
  for (const ender of ['caller', 'callee']) {
    test(`${callerKind} calls ${calleeKind}, the ${ender} hangs up`, limit, async () => {
      const pair = await open(callerKind, calleeKind);
      const { a, b, caller, callee, roomId } = pair;
      await connect(pair);
      const matrixCallId = await invitedCall(callee, roomId);
      const [page, pageUser] = callerKind === 'page' ? [a, caller] : [b, callee];
      await untilMirrored(callee, roomId, matrixCallId, pageUser, page);
      const gathered = await page.gathered();
      await (ender === 'caller' ? a : b).hangUp();
      await Promise.all([a.waitForState('ended'), b.waitForState('ended')]);
      const enderUser = ender === 'caller' ? caller : callee;
      const events = await expectTimeline(callee, roomId, matrixCallId, [
        { type: 'invite', sender: caller }, { type: 'answer', sender: callee },
        { type: 'select_answer', sender: caller }, { type: 'hangup', sender: enderUser, reason: 'user_hangup' },
      ]);
      expectCandidates(events, pageUser, gathered);
      await expectRecord(stack, matrixCallId, { caller, callee, roomId, status: 'ended', endReason: 'user_hangup',
        endedBy: enderUser });
      await pair.close();
    });
  }
}

test('relay only: the page and a matrix-js-sdk client meet at coturn', limit, async () => {
  const pair = await open('page', 'sdk', { relayOnly: true });
  await connect(pair);
  assert.equal(await pair.a.localCandidateType(), 'relay');
  assert.equal(await pair.b.localCandidateType(), 'relay');
  await pair.a.hangUp();
  await Promise.all([pair.a.waitForState('ended'), pair.b.waitForState('ended')]);
  await pair.close();
});

test('mute and camera cross between the page and matrix-js-sdk', limit, async () => {
  const pair = await open('page', 'sdk');
  const { a: page, b: sdk, caller, callee, roomId } = pair;
  await connect(pair);
  await sdk.setMicrophoneMuted(true);
  await page.waitForRemote('audio', false);
  await sdk.setCameraOff(true);
  await page.waitForRemote('video', false);
  await page.click('mute');
  await until(async () => (await sdk.mutes()).audio === true, { what: 'the SDK hears of the mute' });
  await page.click('camera');
  await until(async () => (await sdk.mutes()).video === true, { what: 'the SDK hears of the camera' });
  await page.hangUp();
  await sdk.waitForState('ended');
  const events = await callee.callEvents(roomId, await invitedCall(callee, roomId));
  assert.ok(events.some((event) => event.type === 'm.call.sdp_stream_metadata_changed' &&
    event.sender === caller.userId));
  await pair.close();
});

test('matrix-js-sdk rejects the call of the page', limit, async () => {
  const pair = await open('page', 'sdk');
  const { a, b, caller, callee, roomId } = pair;
  const callId = await a.place();
  await b.waitForIncoming();
  await b.reject();
  assert.equal((await a.waitForEnd()).status, 'declined');
  await untilSent(stack, callId);
  await expectTimeline(callee, roomId, callId, [
    { type: 'invite', sender: caller }, { type: 'reject', sender: callee }, { type: 'select_answer', sender: caller },
  ]);
  await expectRecord(stack, callId, { caller, callee, roomId, status: 'declined', endReason: 'declined',
    endedBy: callee, answered: false });
  await pair.close();
});

test('the page declines the call of matrix-js-sdk', limit, async () => {
  const pair = await open('sdk', 'page');
  const { a, b, caller, callee, roomId } = pair;
  await a.place();
  await b.waitForIncoming();
  await b.reject();
  await a.waitForState('ended');
  const matrixCallId = await invitedCall(callee, roomId);
  const events = await until(async () => {
    const found = await callee.callEvents(roomId, matrixCallId);
    return found.some((event) => event.type === 'm.call.reject') && found;
  }, { what: 'the reject' });
  assert.equal(events.find((event) => event.type === 'm.call.reject').sender, callee.userId);
  await expectRecord(stack, matrixCallId, { caller, callee, roomId, status: 'declined', endReason: 'declined',
    endedBy: callee, answered: false });
  await pair.close();
});

test('matrix-js-sdk cancels while the page rings', limit, async () => {
  const pair = await open('sdk', 'page');
  const { a, b, caller, callee, roomId } = pair;
  await a.place();
  await b.waitForIncoming();
  await until(async () => (await a.sdk()).state === 'invite_sent', { what: 'the invite is sent' });
  await a.hangUp();
  assert.equal((await b.waitForEnd()).status, 'canceled');
  await expectRecord(stack, await invitedCall(callee, roomId), { caller, callee, roomId, status: 'canceled',
    endReason: 'canceled', endedBy: caller, answered: false });
  await pair.close();
});

test('a call between two plain Matrix clients is recorded, and nothing is sent for it', limit, async () => {
  const pair = await open('sdk', 'sdk');
  const { a, b, caller, callee, roomId } = pair;
  await connect(pair);
  await a.hangUp();
  await b.waitForState('ended');
  const matrixCallId = await invitedCall(callee, roomId);
  await expectTimeline(callee, roomId, matrixCallId, [
    { type: 'invite', sender: caller }, { type: 'answer', sender: callee },
    { type: 'select_answer', sender: caller }, { type: 'hangup', sender: caller, reason: 'user_hangup' },
  ]);
  const { session } = await expectRecord(stack, matrixCallId, { caller, callee, roomId, status: 'ended',
    endReason: 'user_hangup', endedBy: caller });
  assert.equal(session.origin, 'matrix');
  await pair.close();
});
