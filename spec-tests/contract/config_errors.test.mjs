// Errors that need a homeserver which fails, lies or is gone.

import assert from 'node:assert/strict';
import test from 'node:test';
import { offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { until } from '../lib/until.mjs';
import { body, callPath, refused, startDaemon } from './config_kit.mjs';

const limit = { timeout: 60000 };

test('a homeserver that is away is no reason to call a token wrong', limit, async (t) => {
  const daemon = await startDaemon(t);
  const { asCaller, call, callee } = await daemon.ringing();
  await daemon.homeserver.goAway();
  const stranger = daemon.newUser();
  refused(await daemon.as(stranger).get('/api/calls/active'), 503, 'ORG.CALLD.HOMESERVER_UNAVAILABLE');
  const tab = new Tab(daemon.url, stranger);
  daemon.tabs.push(tab);
  assert.equal((await tab.refusal()).errcode, 'ORG.CALLD.HOMESERVER_UNAVAILABLE');
  assert.equal(body(await asCaller.get(callPath(call))).status, 'ringing', 'who was checked goes on');
  await daemon.homeserver.comeBack();
  body(await daemon.as(stranger).get('/api/calls/active'));
  body(await daemon.as(callee).post(callPath(call, '/reject')));
});

test('a guest, by REST and by socket', limit, async (t) => {
  const daemon = await startDaemon(t);
  const guest = daemon.newUser({ guest: true });
  refused(await daemon.as(guest).get('/api/calls/active'), 403, 'M_GUEST_ACCESS_FORBIDDEN');
  const tab = new Tab(daemon.url, guest);
  daemon.tabs.push(tab);
  assert.equal((await tab.refusal()).errcode, 'M_GUEST_ACCESS_FORBIDDEN');
});

test('a homeserver that answers nonsense is one that could not be asked', limit, async (t) => {
  const daemon = await startDaemon(t);
  const user = daemon.newUser();
  const nonsense = [{ status: 200, raw: '<html>' }, { status: 502, body: {} }, 'truncate', { status: 200, body: {} }];
  for (const answer of nonsense) {
    daemon.homeserver.fault(/account\/whoami/, answer);
    refused(await daemon.as(user).get('/api/calls/active'), 503, 'ORG.CALLD.HOMESERVER_UNAVAILABLE');
    daemon.homeserver.heal();
  }
  body(await daemon.as(user).get('/api/calls/active'));
});

test('auth-refresh: a new token of the same user, not one of another', limit, async (t) => {
  const daemon = await startDaemon(t);
  const { caller, callee } = daemon.newPair();
  const tab = await daemon.tab(caller);
  await tab.refused('auth-refresh', {}, 'M_MISSING_PARAM');
  await tab.refused('auth-refresh', { token: callee.token }, 'M_FORBIDDEN');
  await tab.refused('auth-refresh', { token: 'syt_bm9ib2R5_aaaaaaaaaaaaaaaaaaaa_000000' }, 'M_UNKNOWN_TOKEN');
  await tab.command('auth-refresh', { token: daemon.homeserver.addToken(caller.userId, { deviceId: 'DEV' }) });
});

test('a token that the homeserver refuses in mid-call: auth-required, and a new one goes on', limit, async (t) => {
  const daemon = await startDaemon(t);
  const { caller, callee, roomId } = daemon.newPair();
  const a = await daemon.tab(caller);
  const b = await daemon.tab(callee);
  const { callId } = await a.command('call-initiate', { roomId });
  daemon.homeserver.tokens.delete(caller.token);
  await a.command('webrtc-offer', { callId, offer: offerOf('a') });
  assert.ok((await a.next('auth-required')).graceSeconds > 0);
  assert.deepEqual(daemon.homeserver.rooms.get(roomId).timeline, []);
  await a.command('auth-refresh', { token: daemon.homeserver.addToken(caller.userId, { deviceId: 'DEV' }) });
  const invite = await until(() => daemon.homeserver.rooms.get(roomId).timeline[0], { what: 'the invite' });
  assert.deepEqual([invite.type, invite.sender, invite.content.call_id], ['m.call.invite', caller.userId, callId]);
  await b.command('call-reject', { callId });
  await a.next('call-rejected', callId);
});

test('who joins a call is announced to who is there', limit, async (t) => {
  const daemon = await startDaemon(t);
  const { caller, callee, roomId } = daemon.newPair();
  const a = await daemon.tab(caller);
  const { callId } = await a.command('call-initiate', { roomId, offer: offerOf('a') });
  body(await daemon.as(callee).post(callPath({ callId }, '/answer')));
  const b = await daemon.tab(callee);
  await b.command('join-call', { callId });
  const joined = await a.next('user-joined', callId);
  assert.equal(joined.userId, callee.userId);
  assert.equal(typeof joined.displayName, 'string');
});

test('Idempotency-Key holds for every POST, and for its whole request', limit, async (t) => {
  const daemon = await startDaemon(t);
  const { asCaller, call } = await daemon.ringing();
  const headers = { 'idempotency-key': 'once' };
  const first = body(await asCaller.post(callPath(call, '/toggle-audio'), {}, { headers }));
  assert.deepEqual(body(await asCaller.post(callPath(call, '/toggle-audio'), {}, { headers })), first);
  refused(await asCaller.post(callPath(call, '/toggle-audio'), { enabled: true }, { headers }), 422,
    'ORG.CALLD.IDEMPOTENCY_MISMATCH');
});
