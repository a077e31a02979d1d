// [calls] and [ice]: what they change in answers, and what becomes of calls.

import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import test from 'node:test';
import { offerOf } from '../lib/sdp.mjs';
import { body, callPath, refused, startDaemon } from './config_kit.mjs';

const limit = { timeout: 60000 };

test('calls.enabled = no: no new calls, and running ones finish', limit, async (t) => {
  const daemon = await startDaemon(t, { 'calls.enabled': 'yes' });
  const { asCaller, asCallee, call, roomId, caller } = await daemon.ringing();
  await daemon.reload({ 'calls.enabled': 'no' });
  assert.equal((await (await daemon.get('/api/calls/config')).json()).callsEnabled, false);
  refused(await daemon.as(daemon.newPair().caller).post('/api/calls/initiate', { roomId: '!x:fake.test' }), 503,
    'ORG.CALLD.CALLS_DISABLED');
  const tab = await daemon.tab(caller);
  await tab.refused('call-initiate', { roomId }, 'ORG.CALLD.CALLS_DISABLED');
  body(await asCallee.post(callPath(call, '/answer')));
  assert.equal(body(await asCaller.post(callPath(call, '/end'))).status, 'ended');
  await daemon.reload({ 'calls.enabled': 'yes' });
  body(await asCaller.post('/api/calls/initiate', { roomId }), 201);
});

test('calls.enabled = no: what Matrix clients start is recorded, and does not ring', limit, async (t) => {
  const daemon = await startDaemon(t, { 'calls.enabled': 'no' });
  const { caller, callee, roomId } = daemon.newPair();
  const invite = () => ({ type: 'm.call.invite', room_id: roomId, sender: caller.userId, event_id: `$${randomUUID()}`,
    origin_server_ts: Date.now(), content: { call_id: randomUUID(), version: '1', party_id: 'ONE', lifetime: 60000,
      invitee: callee.userId, offer: offerOf('matrix') } });
  const tab = await daemon.tab(callee);
  assert.equal((await daemon.transaction([invite()])).status, 200);
  assert.equal(await daemon.metric('calls_created_total'), 1);
  await daemon.reload({ 'calls.enabled': 'yes' });
  const second = invite();
  assert.equal((await daemon.transaction([second])).status, 200);
  // What comes later is told later: the first one it hears of is the second.
  assert.equal((await tab.next('call-ringing')).matrixCallId, second.content.call_id);
  assert.equal(tab.heard.filter(({ event }) => event === 'call-ringing').length, 1);
});

test('calls.ring_seconds is how long a call rings when nobody says otherwise', limit, async (t) => {
  const daemon = await startDaemon(t, { 'calls.ring_seconds': 20 });
  const { call } = await daemon.ringing();
  assert.equal(call.ringSeconds, 20);
  assert.equal(call.ringExpiresAt - call.initiatedAt, 20000);
  assert.equal((await daemon.ringing({ ringSeconds: 45 })).call.ringSeconds, 45);
});

test('calls.seat_seconds is told to the peer, and then the call is over', limit, async (t) => {
  const daemon = await startDaemon(t, { 'calls.seat_seconds': 5 });
  const { a, b, callId } = await daemon.answered();
  b.close();
  assert.equal((await a.next('peer-reconnecting', callId)).graceSeconds, 5);
  const end = await a.next('call-ended', callId);
  assert.equal(end.endReason, 'peer_lost');
});

const turn = { 'ice.turn_urls': 'turn:turn.example.org:3478?transport=udp,turns:turn.example.org:5349',
  'ice.stun_urls': 'stun:stun.example.org:3478' };
const turnUrls = turn['ice.turn_urls'].split(',');
const stunServer = { urls: ['stun:stun.example.org:3478'] };
const fixed = { 'ice.turn_username': 'fixed', 'ice.turn_credential': 'hidden"word' };

/** What clients are told: in answers of calls, on their own route, and in Matrix's shape. */
async function told(daemon) {
  const { asCaller, call } = await daemon.ringing({ offer: offerOf('ice') });
  const asked = body(await asCaller.get('/api/calls/ice-servers'));
  const strip = (list) => list.map(({ urls }) => urls);
  assert.deepEqual(strip(call.iceServers), strip(asked.iceServers), 'the call says the same');
  assert.equal(call.iceTransportPolicy, asked.iceTransportPolicy);
  return { ...asked, matrix: body(await asCaller.get('/_matrix/client/v3/voip/turnServer')) };
}

test('ice.turn_mode = off: nothing; stun: STUN alone', limit, async (t) => {
  const off = await told(await startDaemon(t, { 'ice.turn_mode': 'off', ...turn }));
  assert.deepEqual([off.iceServers, off.matrix], [[], {}]);
  const stun = await told(await startDaemon(t, { 'ice.turn_mode': 'stun', ...turn }));
  assert.deepEqual([stun.iceServers, stun.matrix], [[stunServer], {}]);
});

test('ice.turn_mode = custom: one user for all; ice.policy and ice.ttl_seconds are told', limit, async (t) => {
  const settings = { 'ice.turn_mode': 'custom', ...turn, ...fixed, 'ice.policy': 'relay', 'ice.ttl_seconds': 600 };
  const custom = await told(await startDaemon(t, settings));
  const credential = fixed['ice.turn_credential'];
  assert.deepEqual(custom.iceServers, [stunServer, { urls: turnUrls, username: 'fixed', credential }]);
  assert.equal(custom.iceServersTtlSeconds, 600);
  assert.equal(custom.iceTransportPolicy, 'relay');
  assert.deepEqual(custom.matrix, { username: 'fixed', password: credential, uris: turnUrls, ttl: 600 });
});

test('ice.turn_mode = secret: credentials of their own that end after ice.ttl_seconds', limit, async (t) => {
  const settings = { 'ice.turn_mode': 'secret', ...turn, 'ice.turn_secret': 'between us', 'ice.ttl_seconds': 120 };
  const before = Math.floor(Date.now() / 1000);
  const secret = await told(await startDaemon(t, settings));
  const [, relay] = secret.iceServers;
  const expiry = Number(relay.username.split(':')[0]);
  assert.ok(expiry >= before + 120 && expiry <= Date.now() / 1000 + 120);
  assert.equal(relay.credential, createHmac('sha1', 'between us').update(relay.username).digest('base64'));
  assert.equal(secret.iceTransportPolicy, 'all');
  assert.equal(secret.matrix.ttl, 120);
});

test('the names of other systems do the same', limit, async (t) => {
  const env = { TURN_MODE: 'custom', TURN_URLS: turnUrls.join(','), STUN_URLS: 'stun:stun.example.org:3478',
    TURN_USERNAME: 'fixed', TURN_CREDENTIAL: 'word' };
  const custom = await told(await startDaemon(t, {}, { env }));
  assert.deepEqual(custom.iceServers, [stunServer, { urls: turnUrls, username: 'fixed', credential: 'word' }]);
  const { TURN_URLS, ...others } = env;
  const alias = await told(await startDaemon(t, {}, { env: { ...others, TURN_SERVER_URL: TURN_URLS } }));
  assert.deepEqual(alias.iceServers, custom.iceServers);
  const secret = await told(await startDaemon(t, {}, { env: { TURN_MODE: 'secret', TURN_URLS, TURN_SECRET: 'x' } }));
  assert.equal(secret.iceServers[0].username.split(':').length > 1, true);
});
