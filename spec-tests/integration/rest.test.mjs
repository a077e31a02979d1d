// The REST API against a real homeserver and database: a call's whole life, and what every bad request is answered.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import test, { after, before } from 'node:test';
import { rawRequest, settledCount } from '../lib/raw-http.mjs';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { startStack } from '../lib/stack.mjs';
import { candidatesOf, expectRecord, expectTimeline, untilSent } from '../lib/timeline.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;

before(async () => {
  stack = await startStack();
}, limit);

after(() => stack?.stop(), limit);

const path = (call, rest = '') => `/api/calls/${encodeURIComponent(call.callId)}${rest}`;

/** Fails unless the reply has this status; its body. */
function body(reply, status = 200) {
  assert.equal(reply.status, status, JSON.stringify(reply.body));
  return reply.body;
}

function refused(reply, status, errcode) {
  assert.equal(reply.status, status, JSON.stringify(reply.body));
  if (errcode instanceof RegExp) assert.match(reply.body.errcode, errcode, JSON.stringify(reply.body));
  else assert.equal(reply.body.errcode, errcode, JSON.stringify(reply.body));
  assert.equal(typeof reply.body.error, 'string');
  return reply.body;
}

/** Two new users with REST clients and a ringing call. */
async function ringing(request = {}) {
  const pair = await stack.newPair();
  const caller = stack.as(pair.caller);
  const callee = stack.as(pair.callee);
  const call = body(await caller.post('/api/calls/initiate', { roomId: pair.roomId, ...request }), 201);
  return { ...pair, asCaller: caller, asCallee: callee, call };
}

test("a call's whole life by REST alone", limit, async () => {
  const offer = offerOf('caller');
  const answer = answerOf('callee');
  const { caller, callee, roomId, asCaller, asCallee, call } = await ringing({ callType: 'video', offer });
  assert.match(call.callId, /^z[0-9a-f]{32}$/);
  assert.equal(call.status, 'ringing');
  assert.equal(call.phase, 'ringing');
  assert.equal(call.kind, 'direct');
  assert.equal(call.origin, 'rest');
  assert.equal(call.callType, 'video');
  assert.equal(call.caller, caller.userId);
  assert.equal(call.callee, callee.userId);
  assert.equal(call.ringSeconds, 60);
  assert.equal(call.ringExpiresAt - call.initiatedAt, 60000);
  assert.ok(call.partyId);
  assert.deepEqual(call.participants.map((one) => one.userId).sort(), [caller.userId, callee.userId].sort());
  assert.deepEqual(call.offer, offer);

  const { calls } = body(await asCallee.get('/api/calls/active'));
  assert.deepEqual(calls.map((one) => one.callId), [call.callId]);
  body(await asCaller.post(path(call, '/ice-candidate'), { candidates: [candidateOf(1), candidateOf(2)] }));
  await until(async () => candidatesOf(await callee.callEvents(roomId, call.callId), caller.userId).length === 2,
    { what: 'candidates in the room' });

  const answered = body(await asCallee.post(path(call, '/answer'), { answer }));
  assert.equal(answered.status, 'accepted');
  assert.equal(answered.phase, 'active');
  assert.ok(answered.acceptedAt >= answered.initiatedAt);
  assert.ok(answered.partyId && answered.partyId !== call.partyId);
  const again = body(await asCallee.post(path(call, '/accept'), { answer }));
  assert.equal(again.acceptedAt, answered.acceptedAt);
  assert.equal(again.seq, answered.seq);

  const { missed } = body(await asCaller.get(path(call, `/events?after=${call.seq}`)));
  const heard = missed.find((event) => event.event === 'call-answered');
  assert.equal(heard.userId, callee.userId);
  assert.deepEqual(heard.answer, answer);
  const numbers = missed.map((event) => event.seq);
  assert.deepEqual(numbers, [...numbers].sort((a, b) => a - b));

  const { seq } = body(await asCallee.post(path(call, '/ice-candidate'), { candidate: candidateOf(3) }));
  const signals = body(await asCaller.get(path(call, `/events?after=${seq - 1}`))).missed;
  assert.equal(signals[0].event, 'ice-candidate');
  assert.equal(signals[0].from, callee.userId);
  assert.equal(signals[0].fromParty, answered.partyId);
  assert.deepEqual(signals[0].candidate ?? signals[0].candidates[0], candidateOf(3));

  const connected = body(await asCaller.post(path(call, '/connected')));
  assert.equal(connected.status, 'connected');
  const repeated = body(await asCallee.post(path(call, '/connected')));
  assert.equal(repeated.connectedAt, connected.connectedAt);

  for (const [route, request, audioEnabled, videoEnabled] of [['/toggle-audio', undefined, false, true],
    ['/toggle-video', { enabled: false }, false, false], ['/toggle-audio', { enabled: true }, true, false]]) {
    const toggled = body(await asCaller.post(path(call, route), request));
    assert.deepEqual([toggled.userId, toggled.audioEnabled, toggled.videoEnabled],
      [caller.userId, audioEnabled, videoEnabled]);
  }

  const renegotiated = body(await asCaller.post(path(call, '/offer'), { offer: offerOf('again') }));
  const confirmed = body(await asCallee.post(path(call, '/answer-sdp'), { answer: answerOf('again') }));
  assert.ok(confirmed.seq > renegotiated.seq);

  const seen = body(await asCallee.get(path(call, '/status')));
  assert.equal(seen.status, 'connected');
  assert.equal(seen.participants.find((one) => one.userId === caller.userId).videoEnabled, false);
  assert.deepEqual(body(await asCaller.get(path(call))).callId, call.callId);

  const ended = body(await asCallee.post(path(call, '/end')));
  assert.equal(ended.status, 'ended');
  assert.equal(ended.phase, 'ended');
  assert.equal(ended.endReason, 'user_hangup');
  assert.equal(ended.endedBy, callee.userId);
  assert.equal(typeof ended.durationSeconds, 'number');
  assert.equal(ended.offer, undefined);
  assert.equal(ended.iceServers, undefined);
  const unchanged = body(await asCaller.post(path(call, '/end'), { reason: 'ice_failed' }));
  assert.equal(unchanged.endedAt, ended.endedAt);
  assert.equal(unchanged.endReason, 'user_hangup');
  assert.deepEqual(body(await asCaller.get('/api/calls/active')).calls, []);

  await untilSent(stack, call.callId);
  const events = await expectTimeline(callee, roomId, call.callId, [
    { type: 'invite', sender: caller }, { type: 'answer', sender: callee },
    { type: 'select_answer', sender: caller }, { type: 'hangup', sender: callee, reason: 'user_hangup' },
  ]);
  assert.equal(events[0].content.offer.sdp, offer.sdp);
  assert.equal(events[0].content.lifetime, 60000);
  assert.deepEqual(candidatesOf(events, caller.userId), [candidateOf(1).candidate, candidateOf(2).candidate]);
  await expectRecord(stack, call.callId,
    { caller, callee, roomId, status: 'ended', endReason: 'user_hangup', endedBy: callee });
});

test('TURN credentials are those that coturn accepts', limit, async () => {
  const { caller, asCaller, call } = await ringing();
  const { iceServers, iceServersTtlSeconds } = body(await asCaller.get('/api/calls/ice-servers'));
  const relay = iceServers.find((server) => server.username);
  assert.deepEqual(relay.urls, stack.info.turnUris);
  assert.equal(relay.credential,
    createHmac('sha1', stack.info.turnSecret).update(relay.username).digest('base64'));
  const expiry = Number(relay.username.split(':')[0]);
  assert.ok(Math.abs(expiry - Date.now() / 1000 - iceServersTtlSeconds) < 120);
  assert.ok(call.iceServers.some((server) => server.username));
  for (const version of ['v3', 'r0']) {
    const turn = body(await asCaller.get(`/_matrix/client/${version}/voip/turnServer`));
    assert.deepEqual(turn.uris, stack.info.turnUris);
    assert.equal(turn.password, createHmac('sha1', stack.info.turnSecret).update(turn.username).digest('base64'));
    assert.equal(typeof turn.ttl, 'number');
  }
  body(await asCaller.post(path(call, '/end')));
  assert.equal(body(await asCaller.get(path(call))).endedBy, caller.userId);
});

test('cancel, decline and busy', limit, async () => {
  const first = await ringing({ offer: offerOf('first') });
  assert.equal(body(await first.asCaller.post(path(first.call, '/end'))).status, 'canceled');

  const second = await ringing({ callType: 'audio', offer: offerOf('second', { video: false }) });
  assert.equal(second.call.callType, 'audio');
  const declined = body(await second.asCallee.post(path(second.call, '/reject')));
  assert.equal(declined.status, 'declined');
  assert.equal(declined.phase, 'rejected');
  assert.equal(declined.endReason, 'declined');
  body(await second.asCallee.post(path(second.call, '/decline')));
  refused(await second.asCaller.post(path(second.call, '/reject')), 403, 'M_FORBIDDEN');
  refused(await second.asCallee.post(path(second.call, '/answer')), 409, 'ORG.CALLD.INVALID_STATE');

  const third = await ringing({ offer: offerOf('third') });
  const busy = body(await third.asCallee.post(path(third.call, '/reject'), { reason: 'user_busy' }));
  assert.equal(busy.endReason, 'user_busy');
  for (const { call, caller, callee, roomId } of [second, third]) {
    await untilSent(stack, call.callId);
    await expectTimeline(caller, roomId, call.callId, [{ type: 'invite', sender: caller },
      { type: 'reject', sender: callee }, { type: 'select_answer', sender: caller }]);
  }
});

test('a call that is answered before any offer never reaches the room', limit, async () => {
  const { caller, callee, roomId, asCaller, asCallee, call } = await ringing();
  assert.equal(call.matrixSignalling, 'waiting_for_offer');
  body(await asCallee.post(path(call, '/answer')));
  body(await asCaller.post(path(call, '/offer'), { offer: offerOf('late') }));
  body(await asCallee.post(path(call, '/answer-sdp'), { answer: answerOf('late') }));
  body(await asCaller.post(path(call, '/end')));
  await untilSent(stack, call.callId);
  assert.deepEqual(await callee.callEvents(roomId, call.callId), []);
  await expectRecord(stack, call.callId, { caller, callee, roomId, status: 'ended', endReason: 'user_hangup',
    connected: false });
});

test('one live call for two people in a room', limit, async () => {
  const { roomId, asCaller, asCallee, call } = await ringing();
  for (const client of [asCaller, asCallee]) {
    const refusal = refused(await client.post('/api/calls/start', { roomId }), 409, 'ORG.CALLD.CALL_EXISTS');
    assert.equal(refusal.callId, call.callId);
  }
  body(await asCaller.post(path(call, '/end')));
  const next = body(await asCallee.post('/api/calls/start', { roomId }), 201);
  assert.notEqual(next.callId, call.callId);
  body(await asCallee.post(path(next, '/end')));
});

test('simultaneous starts: exactly one call begins', limit, async () => {
  const pair = await stack.newPair();
  const clients = [stack.as(pair.caller), stack.as(pair.callee)];
  await Promise.all(clients.map((client) => client.get('/api/calls/active')));
  const replies = await Promise.all(Array.from({ length: 8 }, (_, index) =>
    clients[index % 2].post('/api/calls/initiate', { roomId: pair.roomId })));
  const begun = replies.filter((reply) => reply.status === 201);
  assert.equal(begun.length, 1, JSON.stringify(replies.map((reply) => [reply.status, reply.body])));
  for (const reply of replies.filter((other) => other !== begun[0])) {
    assert.equal(refused(reply, 409, 'ORG.CALLD.CALL_EXISTS').callId, begun[0].body.callId);
  }
});

test('Idempotency-Key: the same request again is the same call, another one is refused', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const client = stack.as(caller);
  const headers = { 'idempotency-key': 'b2f1' };
  const first = body(await client.post('/api/calls/initiate', { roomId, callType: 'audio' }, { headers }), 201);
  const second = body(await client.post('/api/calls/initiate', { roomId, callType: 'audio' }, { headers }), 201);
  assert.equal(second.callId, first.callId);
  refused(await client.post('/api/calls/initiate', { roomId, callType: 'video' }, { headers }), 422,
    'ORG.CALLD.IDEMPOTENCY_MISMATCH');
  const other = await stack.as(callee).post('/api/calls/initiate', { roomId, callType: 'audio' }, { headers });
  refused(other, 409, 'ORG.CALLD.CALL_EXISTS');
});

test('public routes, CORS and request ids', limit, async () => {
  for (const route of ['/health', '/ready', '/version', '/api/calls/config']) {
    body(await rawRequest(stack.daemon, 'GET', route));
  }
  const config = (await rawRequest(stack.daemon, 'GET', '/api/calls/config')).body;
  assert.doesNotMatch(JSON.stringify(config), new RegExp(stack.info.turnSecret));
  const preflight = await rawRequest(stack.daemon, 'OPTIONS', '/api/calls/initiate', { headers: {
    origin: 'https://app.example', 'access-control-request-method': 'POST',
    'access-control-request-headers': 'authorization,content-type,idempotency-key' } });
  assert.ok([200, 204].includes(preflight.status));
  assert.equal(preflight.headers['access-control-allow-origin'], '*');
  assert.equal(preflight.headers['access-control-allow-credentials'], undefined);
  assert.match(preflight.headers['access-control-allow-headers'].toLowerCase(), /authorization/);
  const failure = await rawRequest(stack.daemon, 'GET', '/api/calls/active', { headers: {
    origin: 'https://app.example', 'x-request-id': 'r-17' } });
  refused(failure, 401, 'M_MISSING_TOKEN');
  assert.equal(failure.headers['access-control-allow-origin'], '*');
  assert.equal(failure.headers['x-request-id'], 'r-17');
  const page = await rawRequest(stack.daemon, 'GET', '/call-test.html');
  assert.equal(page.status, 200);
  assert.match(page.headers['content-security-policy'], /default-src 'none'/);
});

test('bad input: each request gets its documented answer, and no call changes', limit, async (t) => {
  const { roomId, caller, callee, asCaller, call } = await ringing({ offer: offerOf('bad') });
  const stranger = await stack.newUser();
  const guest = await stack.newUser({ guest: true });
  const loggedOut = await callee.logIn('GONE');
  await loggedOut.logOut();
  const crowd = await stack.newUser();
  const crowdRoom = await caller.roomWith(callee, crowd);
  const inCrowd = body(await asCaller.post('/api/calls/initiate', { roomId: crowdRoom, invitees: [callee.userId] }), 201);
  const before = body(await asCaller.get(path(call)));
  const deep = `{"roomId":${'['.repeat(100)}${']'.repeat(100)}}`;
  const good = JSON.stringify({ roomId });
  const ownToken = caller.token;
  // Failed tokens count by address: these requests come from an address of their own.
  const from = '127.0.0.2';
  const cases = [
    ['no token', 'GET', '/api/calls/active', {}, 401, 'M_MISSING_TOKEN'],
    ['another scheme', 'GET', '/api/calls/active', { headers: { authorization: 'Basic YTpi' } }, 401, 'M_MISSING_TOKEN'],
    ['a wrong token', 'GET', '/api/calls/active', { token: 'syt_d3Jvbmc_abcdefghijklmnopqrst_0aBcDe' }, 401,
      'M_UNKNOWN_TOKEN'],
    ['a token that was logged out', 'GET', '/api/calls/active', { token: loggedOut.token }, 401, 'M_UNKNOWN_TOKEN'],
    ['a token of impossible letters', 'GET', '/api/calls/active', { token: 'a"b<c>' }, 401, 'M_UNKNOWN_TOKEN'],
    ['a token of impossible length', 'GET', '/api/calls/active', { token: 'a'.repeat(5000) }, 401, 'M_UNKNOWN_TOKEN'],
    ['a forged session token', 'GET', '/api/calls/active', { token: 'calld_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' }, 401,
      'M_UNKNOWN_TOKEN'],
    ["a guest's token", 'GET', '/api/calls/active', { token: guest.token }, 403, 'M_GUEST_ACCESS_FORBIDDEN'],
    ['a token in the query', 'GET', `/api/calls/active?access_token=${ownToken}`, {}, 401, 'M_MISSING_TOKEN'],
    ['no such call', 'GET', '/api/calls/z0190a0b0c0d0e0f00000000000000000', { token: ownToken }, 404, 'M_NOT_FOUND'],
    ['bytes that are no call id', 'POST', '/api/calls/%00%ff/end', { token: ownToken, body: '{}' }, 400,
      'M_INVALID_PARAM'],
    ['a call in a room of others', 'GET', path(call), { token: stranger.token }, 404, 'M_NOT_FOUND'],
    ['ending a call in a room of others', 'POST', path(call, '/end'), { token: stranger.token, body: '{}' }, 404,
      'M_NOT_FOUND'],
    ['starting a call in a room of others', 'POST', '/api/calls/initiate', { token: stranger.token, body: good }, 404,
      'M_NOT_FOUND'],
    ['a member of the room, not of the call', 'POST', path(inCrowd, '/end'), { token: crowd.token, body: '{}' }, 403,
      'M_FORBIDDEN'],
    ['three in the room and no invitees', 'POST', '/api/calls/initiate', { token: crowd.token,
      body: JSON.stringify({ roomId: crowdRoom }) }, 400, 'M_MISSING_PARAM'],
    ['inviting someone who is not in the room', 'POST', '/api/calls/initiate', { token: ownToken,
      body: JSON.stringify({ roomId: crowdRoom, invitees: [stranger.userId] }) }, 400, 'M_INVALID_PARAM'],
    ['answering a call of one’s own', 'POST', path(call, '/answer'), { token: ownToken, body: '{}' }, 403, 'M_FORBIDDEN'],
    ['broken JSON', 'POST', '/api/calls/initiate', { token: ownToken, body: '{"roomId":' }, 400, 'M_NOT_JSON'],
    ['JSON and more', 'POST', '/api/calls/initiate', { token: ownToken, body: `${good}x` }, 400, 'M_NOT_JSON'],
    ['not UTF-8', 'POST', '/api/calls/initiate', { token: ownToken,
      body: Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xc3, 0x28, 0x22, 0x7d]) }, 400, 'M_NOT_JSON'],
    ['an array', 'POST', '/api/calls/initiate', { token: ownToken, body: '[]' }, 400, 'M_BAD_JSON'],
    ['nested too deeply', 'POST', '/api/calls/initiate', { token: ownToken, body: deep }, 400,
      /^M_(NOT|BAD)_JSON$/],
    ['no room', 'POST', '/api/calls/initiate', { token: ownToken, body: '{}' }, 400, 'M_MISSING_PARAM'],
    ['an empty body', 'POST', '/api/calls/initiate', { token: ownToken, body: '' }, 400, 'M_MISSING_PARAM'],
    ['a number for a room', 'POST', '/api/calls/initiate', { token: ownToken, body: '{"roomId":5}' }, 400, 'M_BAD_JSON'],
    ['an unknown call type', 'POST', '/api/calls/initiate', { token: ownToken,
      body: JSON.stringify({ roomId, callType: 'fax' }) }, 400, 'M_INVALID_PARAM'],
    ['ringing too short', 'POST', '/api/calls/initiate', { token: ownToken,
      body: JSON.stringify({ roomId, ringSeconds: 1 }) }, 400, 'M_INVALID_PARAM'],
    ['an offer without SDP', 'POST', path(call, '/offer'), { token: ownToken, body: '{"offer":{"type":"offer"}}' }, 400,
      'M_BAD_JSON'],
    ['an offer that is an answer', 'POST', path(call, '/offer'), { token: ownToken,
      body: JSON.stringify({ offer: answerOf('wrong') }) }, 400, 'M_INVALID_PARAM'],
    ['a candidate that is a text', 'POST', path(call, '/ice-candidate'), { token: ownToken,
      body: '{"candidate":"candidate:1"}' }, 400, 'M_BAD_JSON'],
    ['enabled as a text', 'POST', path(call, '/toggle-audio'), { token: ownToken, body: '{"enabled":"yes"}' }, 400, 'M_BAD_JSON'],
    ['an unknown reason', 'POST', path(call, '/end'), { token: ownToken, body: '{"reason":"whatever"}' }, 400,
      'M_INVALID_PARAM'],
    ['a body that is too large', 'POST', '/api/calls/initiate', { token: ownToken,
      body: `{"roomId":"${'x'.repeat(300 * 1024)}"}` }, 413, 'M_TOO_LARGE'],
    ['an SDP that is too large', 'POST', path(call, '/offer'), { token: ownToken,
      body: JSON.stringify({ offer: { type: 'offer', sdp: `v=0\r\n${'a=x:1\r\n'.repeat(10000)}` } }) }, 413, 'M_TOO_LARGE'],
    ['a wrong method', 'DELETE', '/api/calls/active', { token: ownToken }, 405, 'M_UNRECOGNIZED'],
    ['no such route', 'GET', '/api/nothing', { token: ownToken }, 404, 'M_UNRECOGNIZED'],
    ['the homeserver’s routes on the public port', 'PUT', '/_matrix/app/v1/transactions/1', { body: '{"events":[]}' }, 404,
      'M_UNRECOGNIZED'],
    ['connected before anyone answered', 'POST', path(call, '/connected'), { token: ownToken, body: '{}' }, 409,
      'ORG.CALLD.INVALID_STATE'],
    ['media: sfu', 'POST', '/api/calls/initiate', { token: ownToken, body: JSON.stringify({ roomId, media: 'sfu' }) }, 400,
      'M_INVALID_PARAM'],
  ];
  for (const [name, method, route, options, status, errcode] of cases) {
    await t.test(name, async () => {
      const reply = await rawRequest(stack.daemon, method, route, { from, ...options });
      refused(reply, status, errcode);
      if (status === 405) assert.match(reply.headers.allow, /GET/);
      assert.equal(reply.headers['access-control-allow-origin'], '*');
    });
  }
  assert.deepEqual(body(await asCaller.get(path(call))), { ...before,
    iceServers: (await asCaller.get(path(call))).body.iceServers });
  body(await asCaller.post(path(call, '/end')));
});

test('a flood of bogus tokens: the homeserver is asked ten times at most', limit, async () => {
  const asked = () => settledCount(() => stack.log('synapse'), /GET \/_matrix\/client\/[^ ]*\/account\/whoami/g);
  const { asCaller } = await ringing();
  const before = await asked();
  const replies = [];
  for (let index = 0; index < 60; index++) {
    replies.push(await rawRequest(stack.daemon, 'GET', '/api/calls/active',
      { token: `syt_Ym9ndXM_${String(index).padStart(20, 'q')}_0aBcDe`, from: '127.0.0.3' }));
  }
  const unknown = replies.filter((reply) => reply.status === 401);
  assert.equal(unknown.length, 10);
  for (const reply of replies.slice(10)) {
    const refusal = refused(reply, 429, 'M_LIMIT_EXCEEDED');
    assert.ok(refusal.retry_after_ms > 0);
    assert.ok(Number(reply.headers['retry-after']) > 0);
  }
  assert.ok(await asked() - before <= 10);
  body(await asCaller.get('/api/calls/active'));
});
