// [limits]: what is one too many is refused with its own answer, and what fits is not.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import test from 'node:test';
import { rawRequest } from '../lib/raw-http.mjs';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { until } from '../lib/until.mjs';
import { body, callPath, refused, startDaemon } from './config_kit.mjs';
import { Raw } from './transport.mjs';

const limit = { timeout: 60000 };

test('starts_per_hour: only calls that did start count', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.starts_per_hour': 2 });
  const { caller, callee, roomId } = daemon.newPair();
  const client = daemon.as(caller);
  for (const round of [1, 2]) {
    refused(await client.post('/api/calls/initiate', {}), 400, 'M_MISSING_PARAM');
    const call = body(await client.post('/api/calls/initiate', { roomId }), 201);
    refused(await client.post('/api/calls/initiate', { roomId }), round === 1 ? 409 : 429,
      round === 1 ? 'ORG.CALLD.CALL_EXISTS' : 'M_LIMIT_EXCEEDED');
    body(await client.post(callPath(call, '/end')));
  }
  const reply = await client.post('/api/calls/initiate', { roomId });
  assert.ok(refused(reply, 429, 'M_LIMIT_EXCEEDED').retry_after_ms > 0);
  assert.ok(Number(reply.headers.get('retry-after')) > 0);
  body(await daemon.as(callee).post('/api/calls/initiate', { roomId }), 201);
});

test('a call that changes without end is refused as a state, not as a rate', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.user_requests_per_second': 0, 'limits.requests_per_second': 0 });
  const { caller, roomId } = daemon.newPair();
  const call = body(await daemon.as(caller).post('/api/calls/initiate', { roomId }), 201);
  const toggle = async (left) => {
    const reply = await daemon.as(caller).post(callPath(call, '/toggle-audio'), { enabled: left % 2 === 0 });
    return reply.status === 200 && left > 0 ? toggle(left - 1) : reply;
  };
  refused(await toggle(6000), 409, 'ORG.CALLD.INVALID_STATE');
  body(await daemon.as(caller).post(callPath(call, '/end')));
});

test('room_starts_per_hour: whoever starts them; SIGHUP brings another number', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.room_starts_per_hour': 2 });
  const { caller, callee, roomId } = daemon.newPair();
  for (const user of [caller, callee]) {
    const call = body(await daemon.as(user).post('/api/calls/initiate', { roomId }), 201);
    body(await daemon.as(user).post(callPath(call, '/end')));
  }
  const reply = await daemon.as(caller).post('/api/calls/initiate', { roomId });
  assert.ok(refused(reply, 429, 'M_LIMIT_EXCEEDED').retry_after_ms > 0);
  assert.match(reply.body.error, /room/);
  const other = daemon.newPair();
  body(await daemon.as(other.caller).post('/api/calls/initiate', { roomId: other.roomId }), 201);
  await daemon.reload({ 'limits.room_starts_per_hour': 0 });
  body(await daemon.as(callee).post('/api/calls/initiate', { roomId }), 201);
});

/** Asks until it is refused with 429; how often it was not. */
async function untilLimited(ask, most) {
  for (let passed = 0; passed <= most; passed++) {
    const reply = await ask();
    if (reply.status !== 429) continue;
    assert.ok(refused(reply, 429, 'M_LIMIT_EXCEEDED').retry_after_ms > 0);
    const header = (name) => reply.headers.get?.(name) ?? reply.headers[name];
    assert.ok(Number(header('retry-after')) >= 1);
    assert.equal(header('access-control-allow-origin'), '*');
    return passed;
  }
  throw new Error(`${most} requests, and none refused`);
}

test('requests_per_second: ten seconds\' worth at once, then 429 for that address alone', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.requests_per_second': 2, 'limits.connections_per_ip': 0 });
  const ask = (from) => rawRequest(daemon.url, 'GET', '/api/calls/config', { from });
  const passed = await untilLimited(() => ask('127.0.0.1'), 200);
  assert.ok(passed >= 20, `${passed} passed`);
  body(await ask('127.0.0.2'));
  assert.equal((await daemon.control('/metrics')).status, 200, 'the control socket has no such limit');
  assert.ok(await daemon.metric('rate_limited_total') >= 1);
  await daemon.reload({ 'limits.requests_per_second': 0 });
  body(await ask('127.0.0.1'));
});

test('requests_per_second counts for the client that a trusted proxy names, and for nobody it does not trust', limit,
  async (t) => {
    const trusting = await startDaemon(t, { 'limits.requests_per_second': 1, 'server.trust_proxy': '127.0.0.1/32' });
    const ask = (daemon, from, name) => rawRequest(daemon.url, 'GET', '/api/calls/config',
      { from, headers: { 'x-forwarded-for': name } });
    await untilLimited(() => ask(trusting, '127.0.0.1', '198.51.100.1'), 100);
    body(await ask(trusting, '127.0.0.1', '198.51.100.2'));
    // A proxy may append a line of its own: the last one is what it says, the first what the client made up.
    refused(await ask(trusting, '127.0.0.1', ['198.51.100.3', '198.51.100.1']), 429, 'M_LIMIT_EXCEEDED');
    let host = 0; // who has an IPv6 network has all its addresses
    await untilLimited(() => ask(trusting, '127.0.0.1', `2001:db8:0:1::${(++host).toString(16)}`), 100);
    body(await ask(trusting, '127.0.0.1', '2001:db8:0:2::1'));
    let number = 0; // another name each time does not help somebody who is no proxy of ours
    await untilLimited(() => ask(trusting, '127.0.0.2', `198.51.100.${++number % 250}`), 100);
  });

test('user_requests_per_second: the user, from whatever address', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.user_requests_per_second': 2 });
  const { caller, callee } = daemon.newPair();
  const passed = await untilLimited(() => daemon.as(caller).get('/api/calls/active'), 200);
  assert.ok(passed >= 20, `${passed} passed`);
  const headers = { authorization: `Bearer ${caller.token}` };
  refused(await rawRequest(daemon.url, 'GET', '/api/calls/active', { from: '127.0.0.2', headers }), 429, 'M_LIMIT_EXCEEDED');
  body(await daemon.as(callee).get('/api/calls/active'));
});

test('events_per_second: the socket that sends more is told so, and stays', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.events_per_second': 3 });
  const { a, b, callId } = await daemon.answered();
  const acks = await Promise.all(Array.from({ length: 60 },
    (_, number) => a.ask('ice-candidate', { callId, candidate: candidateOf(number) })));
  const late = acks.filter((ack) => !ack.ok);
  assert.ok(late.length > 0 && late.length <= 31, `${late.length} refused`);
  for (const ack of late) assert.deepEqual([ack.errcode, ack.retry_after_ms > 0], ['M_LIMIT_EXCEEDED', true]);
  await b.command('ice-candidate', { callId, candidate: candidateOf(1) }); // another socket
  await until(async () => (await a.ask('call-connected', { callId })).ok, { what: 'it to pass' });
});

test('buffered_signals and buffered_bytes: the oldest go, the first descriptions stay', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.buffered_signals': 16, 'limits.buffered_bytes': 16384 });
  for (const fill of [0, 3000]) {
    const { a, b, callId } = await daemon.answered();
    for (let number = 0; number < 60; number++) {
      await a.command('ice-candidate', { callId, candidate: { ...candidateOf(number), usernameFragment: 'u'.repeat(fill) } });
    }
    const { missed } = await b.command('join-call', { callId });
    const least = fill ? 5 : 20; // of the two seats together
    assert.ok(missed.length >= least && missed.length <= (fill ? 14 : 32), `${missed.length} kept`);
    assert.ok(missed.some((event) => event.event === 'webrtc-offer'), 'the first offer');
    assert.equal(missed.at(-1).candidate.candidate, candidateOf(59).candidate);
  }
});

test('failed_tokens_per_minute = 0 judges every token', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.failed_tokens_per_minute': 0 });
  for (let index = 0; index < 30; index++) {
    refused(await daemon.as({ token: `syt_${randomUUID()}` }).get('/api/calls/active'), 401, 'M_UNKNOWN_TOKEN');
  }
});

test('sockets_per_user: one more is refused, another user is not', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.sockets_per_user': 2 });
  const { caller, callee } = daemon.newPair();
  const first = await daemon.tab(caller);
  await daemon.tab(caller);
  const third = new Tab(daemon.url, caller);
  daemon.tabs.push(third);
  assert.equal((await third.refusal()).errcode, 'M_LIMIT_EXCEEDED');
  await daemon.tab(callee);
  first.close();
  await until(async () => (await daemon.metric('sockets')) === 2, { what: 'the place of the tab that left' });
  await daemon.tab(caller);
});

test('connections_per_ip: one more is told so, another address is served', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.connections_per_ip': 3 });
  const { port } = new URL(daemon.url);
  const held = [];
  for (let index = 0; index < 3; index++) {
    const raw = await Raw.connect({ host: '127.0.0.1', port });
    await raw.write('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.equal((await raw.response()).status, 200);
    held.push(raw);
  }
  const ask = (from) => rawRequest(daemon.url, 'GET', '/health', { from });
  refused(await ask('127.0.0.1'), 429, 'M_LIMIT_EXCEEDED');
  body(await ask('127.0.0.2'));
  held[0].destroy();
  await until(async () => (await ask('127.0.0.1')).status === 200, { what: 'the place of the connection that left' });
  for (const raw of held) raw.destroy();
});

test('max_connections holds for all addresses together', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.max_connections': 64, 'limits.connections_per_ip': 0 });
  const { port } = new URL(daemon.url);
  const held = [];
  const refusal = await until(async () => {
    const raw = await Raw.connect({ host: '127.0.0.1', port });
    held.push(raw);
    await raw.write('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
    const response = await raw.response();
    return response.status !== 200 && response;
  }, { what: 'a refusal', everyMs: 0 });
  assert.equal(refusal.status, 503);
  assert.equal(refusal.json().errcode, 'ORG.CALLD.OVERLOADED');
  assert.ok(held.length >= 64 && held.length <= 66, `${held.length} connections`);
  assert.equal((await daemon.control('/health')).status, 200);
  for (const raw of held) raw.destroy();
});

test('whoami_in_flight, whoami_wait_ms: the homeserver is asked about one token at a time', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.whoami_in_flight': 1, 'limits.whoami_wait_ms': 700 });
  const users = [daemon.newUser(), daemon.newUser()];
  daemon.homeserver.fault(/account\/whoami/, 'hang', 1);
  const first = daemon.as(users[0]).get('/api/calls/active');
  await until(() => daemon.homeserver.held.length === 1, { what: 'the first question' });
  const second = await daemon.as(users[1]).get('/api/calls/active');
  assert.equal(second.status, 503, 'it waited its turn for as long as one may');
  assert.equal(second.body.retry_after_ms, 700);
  assert.equal(daemon.homeserver.seen(/account\/whoami/).length, 1);
  daemon.homeserver.release();
  body(await first);
  body(await daemon.as(users[1]).get('/api/calls/active'));
});

test('sdp_bytes, signal_bytes and json_depth, over REST and sockets', limit, async (t) => {
  const daemon = await startDaemon(t,
    { 'limits.sdp_bytes': 2048, 'limits.signal_bytes': 1024, 'limits.json_depth': 5 });
  const { a, callId, caller } = await daemon.answered();
  const client = daemon.as(caller);
  const sdp = (size) => ({ type: 'offer', sdp: `v=0\r\n${'a=x:1\r\n'.repeat(size / 7)}` });
  const candidate = (size) => ({ ...candidateOf(1), usernameFragment: 'u'.repeat(size) });
  const call = { callId };
  body(await client.post(callPath(call, '/offer'), { offer: sdp(1400) }));
  refused(await client.post(callPath(call, '/offer'), { offer: sdp(2100) }), 413, 'M_TOO_LARGE');
  await a.refused('webrtc-offer', { callId, offer: sdp(2100) }, 'M_TOO_LARGE');
  body(await client.post(callPath(call, '/ice-candidate'), { candidate: candidate(500) }));
  refused(await client.post(callPath(call, '/ice-candidate'), { candidate: candidate(1100) }), 413, 'M_TOO_LARGE');
  await a.refused('ice-candidate', { callId, candidate: candidate(1100) }, 'M_TOO_LARGE');
  const nested = (depth) => ({ ...JSON.parse(`{"x":${'['.repeat(depth)}${']'.repeat(depth)}}`) });
  body(await client.post(callPath(call, '/connected'), nested(3)));
  assert.equal((await client.post(callPath(call, '/connected'), nested(6))).status, 400);
  await a.command('call-connected', { callId, ...nested(3) });
  assert.equal((await a.ask('call-connected', { callId, ...nested(6) })).ok, false);
});

test('candidates: so many at one time, and so many kept for who joins late', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.candidates': 3 });
  const pair = daemon.newPair();
  const a = await daemon.tab(pair.caller);
  const { callId } = await a.command('call-initiate', { roomId: pair.roomId, offer: offerOf('a') });
  const many = [1, 2, 3, 4].map(candidateOf);
  await a.refused('ice-candidate', { callId, candidates: many }, 'M_INVALID_PARAM');
  for (const candidate of many) await a.command('ice-candidate', { callId, candidate });
  const b = await daemon.tab(pair.callee);
  const { missed } = await b.command('join-call', { callId });
  assert.equal(missed.filter((event) => event.event === 'ice-candidate').length, 3);
  await a.command('ice-candidate', { callId, candidate: candidateOf(5) });
  assert.deepEqual((await b.next('ice-candidate', callId)).candidate, candidateOf(5), 'still relayed');
});

/** A client that polls by hand, and so reads when the test wants it to. @returns {() => Promise<string>} a poll */
async function poller(daemon, user) {
  const base = '/socket.io/?EIO=4&transport=polling';
  const { sid } = JSON.parse((await (await daemon.get(base)).text()).slice(1));
  const send = (text) => daemon.get(`${base}&sid=${sid}`, { method: 'POST', body: text });
  const poll = async () => daemon.get(`${base}&sid=${sid}`);
  await send(`40${JSON.stringify({ token: user.token })}`);
  assert.match(await (await poll()).text(), /^40/);
  return { poll, send };
}

/** Fills the queue of a client in a call that does not read. */
async function flood(t, settings, signal) {
  const daemon = await startDaemon(t, settings);
  const pair = daemon.newPair();
  const a = await daemon.tab(pair.caller);
  const slow = await poller(daemon, pair.callee);
  const { callId } = await a.command('call-initiate', { roomId: pair.roomId, offer: offerOf('a') });
  await slow.send(`420["call-answer",${JSON.stringify({ callId, answer: answerOf('b') })}]`);
  await a.next('call-answered', callId);
  await (await slow.poll()).text();
  let sent = 0;
  await until(async () => {
    await a.command(...signal(callId, sent++));
    return a.all('peer-reconnecting', callId).length > 0;
  }, { what: 'the slow client let go', everyMs: 0 });
  assert.equal(await daemon.metric('sockets_closed_slow_total'), 1);
  await until(async () => (await slow.poll()).status === 400, { what: 'its session gone' });
  return sent;
}

test('socket_queue_messages: who lets more wait is disconnected', limit, async (t) => {
  const sent = await flood(t, { 'limits.socket_queue_messages': 16 },
    (callId, number) => ['ice-candidate', { callId, candidate: candidateOf(number) }]);
  assert.ok(sent >= 14 && sent <= 20, `${sent} messages`);
});

test('socket_queue_bytes: the same by size', limit, async (t) => {
  const offer = offerOf('big');
  offer.sdp += `a=x-fill:${'f'.repeat(20000)}\r\n`;
  const sent = await flood(t, { 'limits.socket_queue_bytes': 65536 }, (callId) => ['webrtc-offer', { callId, offer }]);
  assert.ok(sent >= 3 && sent <= 6, `${sent} offers`);
});
