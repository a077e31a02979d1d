// Session tokens: they work on REST, Socket.IO and /ws, also while homeserver and database are away and after a
// restart; they end when they say, or when the homeserver refuses the Matrix token they were made from.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import test, { after, before } from 'node:test';
import WebSocket from 'ws';
import { startDev } from '../lib/dev-daemon.mjs';
import { answerOf, offerOf } from '../lib/sdp.mjs';
import { severable } from '../lib/severable.mjs';
import { Tab } from '../lib/sockets.mjs';
import { CallClient, binary, startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 150000 };
let stack;
let daemon;
let homeserver;
let database;

async function start() {
  daemon = spawn(binary, ['-c', stack.info.config], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env,
    CALLD_MATRIX_HOMESERVER_URL: homeserver.url, CALLD_DATABASE_URL: database.url } });
  const lines = createInterface({ input: daemon.stdout });
  const [line] = await Promise.race([once(lines, 'line'), once(daemon, 'exit').then(() => ['(ended)'])]);
  assert.equal(line, 'ready');
}

async function stop(signal) {
  const ended = once(daemon, 'exit');
  daemon.kill(signal);
  return (await ended)[0];
}

before(async () => {
  stack = await startStack({ daemon: false });
  homeserver = await severable(stack.homeserver);
  database = await severable(stack.info.databaseUrl);
  await start();
}, { timeout: 180000 });

after(async () => {
  if (daemon?.exitCode === null && daemon.signalCode === null) await stop('SIGTERM');
  await homeserver?.close();
  await database?.close();
  await stack?.stop();
}, limit);

test.afterEach(async () => {
  await homeserver.restore();
  await database.restore();
});

/** A session token of that client; fails when there is none. */
async function mint(client) {
  const { status, body } = await client.post('/api/calls/session-token');
  assert.equal(status, 200, JSON.stringify(body));
  assert.match(body.token, /^calld_[A-Za-z0-9_-]{80,}$/);
  assert.ok(body.expiresAt > Date.now());
  return body.token;
}

const session = (origin, token) => new CallClient(origin, token);

async function refused(client, status, errcode, text) {
  const answer = await client.get('/api/calls/active');
  assert.deepEqual([answer.status, answer.body.errcode], [status, errcode], JSON.stringify(answer.body));
  assert.match(answer.body.error, text);
}

/** Connects to /ws and says who: the answer to CONNECT. */
async function connectWs(origin, token) {
  const ws = new WebSocket(`${origin.replace('http', 'ws')}/ws`);
  await once(ws, 'open');
  ws.send(JSON.stringify({ type: 'connect', auth: { token } }));
  const [data] = await once(ws, 'message');
  ws.close();
  return JSON.parse(data);
}

test('it asks for nothing, in well-formed JSON', limit, async () => {
  const ask = async (body) => {
    const reply = await fetch(`${stack.daemon}/api/calls/session-token`, { method: 'POST', body,
      headers: { authorization: `Bearer ${stack.users[0].token}`, 'content-type': 'application/json' } });
    return [reply.status, (await reply.json()).errcode];
  };
  assert.deepEqual(await ask('{"later": "field"}'), [200, undefined]);
  for (const body of ['[]', '1', '"x"']) assert.deepEqual(await ask(body), [400, 'M_BAD_JSON'], body);
  assert.deepEqual(await ask('{'), [400, 'M_NOT_JSON']);
});

test('with homeserver and database both away', limit, async () => {
  const [user, other] = stack.users;
  const token = await mint(stack.as(user));
  await homeserver.cut();
  await database.cut();
  // The fault is there: a Matrix token that was not asked about before cannot be checked, nothing can be written.
  await refused(stack.as(other), 503, 'ORG.CALLD.HOMESERVER_UNAVAILABLE', /homeserver/);
  const { degraded } = await (await fetch(`${stack.daemon}/ready`)).json();
  assert.ok(degraded.includes('homeserver'), JSON.stringify(degraded));

  const client = session(stack.daemon, token);
  assert.equal((await client.get('/api/calls/active')).status, 200);
  assert.equal((await client.get('/api/calls/ice-servers')).status, 200);
  const tab = await Tab.open(stack.daemon, { token });
  const polling = await Tab.open(stack.daemon, { token }, { transports: ['polling'] });
  assert.equal((await connectWs(stack.daemon, token)).type, 'connect');
  await tab.command('auth-refresh', { token });
  tab.close();
  polling.close();
  await refused(session(stack.daemon, `${token}x`), 401, 'M_UNKNOWN_TOKEN', /not a session token/);
});

test('after kill -9, without the homeserver; renewed by Matrix tokens only', limit, async () => {
  const token = await mint(stack.as(stack.users[0]));
  assert.equal(await stop('SIGKILL'), null);
  await start();
  await homeserver.cut();
  const client = session(stack.daemon, token);
  assert.equal((await client.get('/api/calls/active')).status, 200);
  const again = await client.post('/api/calls/session-token');
  assert.deepEqual([again.status, again.body.errcode], [403, 'M_FORBIDDEN']);
  assert.match(again.body.error, /Matrix access token/);
});

test('a call that rang before the daemon died and the homeserver went is answered and ended all the same', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const [a, b] = await Promise.all([caller, callee].map(async (user) =>
    session(stack.daemon, await mint(stack.as(user)))));
  const { body: { callId } } = await a.post('/api/calls/initiate', { roomId });
  assert.equal(await stop('SIGKILL'), null);
  await homeserver.cut(); // nobody can be asked any more who is in the room
  await start();
  for (const [client, command, status] of [[b, 'answer', 'accepted'], [a, 'connected', 'connected'], [b, 'end', 'ended']]) {
    const reply = await client.post(`/api/calls/${callId}/${command}`);
    assert.deepEqual([reply.status, reply.body.status], [200, status], `${command}: ${JSON.stringify(reply.body)}`);
  }
  const stranger = await a.post('/api/calls/initiate', { roomId });
  assert.deepEqual([stranger.status, stranger.body.errcode], [503, 'ORG.CALLD.HOMESERVER_UNAVAILABLE'], 'a new call must ask');
});

test('a whole call of two people who have only session tokens reaches the room', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const [a, b] = await Promise.all([caller, callee].map(async (user) =>
    session(stack.daemon, await mint(stack.as(user)))));
  const call = await a.post('/api/calls/initiate', { roomId, offer: offerOf('caller') });
  assert.equal(call.status, 201, JSON.stringify(call.body));
  const { callId } = call.body;
  assert.equal((await b.post(`/api/calls/${callId}/answer`, { answer: answerOf('callee') })).status, 200);
  assert.equal((await a.post(`/api/calls/${callId}/end`)).status, 200);
  // Sent with the Matrix tokens behind them.
  await until(async () => {
    const types = (await caller.callEvents(roomId, callId)).map((event) => event.type);
    return ['invite', 'answer', 'hangup'].every((name) => types.includes(`m.call.${name}`));
  }, { what: 'the events in the room' });
});

test('logging out ends the session tokens, as soon as the homeserver has refused the Matrix token', limit, async () => {
  const { caller, roomId } = await stack.newPair();
  const token = await mint(stack.as(caller));
  const client = session(stack.daemon, token);
  const tab = await Tab.open(stack.daemon, { token });
  assert.equal((await client.post('/api/calls/initiate', { roomId })).status, 201); // now it is known who is joined
  await caller.api('POST', '/logout', {});
  const [call] = (await client.get('/api/calls/active')).body.calls; // nobody has told the daemon yet
  await client.post(`/api/calls/${call.callId}/offer`, { offer: offerOf('caller') }); // sending the invite will
  await until(async () => (await client.get('/api/calls/active')).status === 401, { what: 'the refusal' });
  await refused(client, 401, 'M_UNKNOWN_TOKEN', /refused by the homeserver/);
  await tab.next('auth-required');
  tab.close();
});

test('it ends when it says; a socket is asked for a new one, then closed', limit, async () => {
  const dev = await startDev({ env: { CALLD_CALLS_SESSION_TOKEN_SECONDS: '5' } });
  try {
    const token = await mint(dev.as('alice'));
    const tab = await Tab.open(dev.origin, { token });
    const kept = await Tab.open(dev.origin, { token });
    assert.equal((await tab.next('auth-required')).graceSeconds, 60);
    await refused(session(dev.origin, token), 401, 'M_UNKNOWN_TOKEN', /expired/);
    await tab.refused('auth-refresh', { token }, 'M_UNKNOWN_TOKEN');
    await tab.command('auth-refresh', { token: await mint(dev.as('alice')) });
    await tab.refused('auth-refresh', { token: await mint(dev.as('bob')) }, 'M_FORBIDDEN');
    const ws = await connectWs(dev.origin, token);
    assert.equal(ws.data.errcode, 'M_UNKNOWN_TOKEN', JSON.stringify(ws));
    tab.close();
    kept.close();
  } finally {
    assert.equal(await dev.stop(), 0);
  }
});

test('forged ones count as failed tokens of their address, and good ones pass all the same', limit, async () => {
  const dev = await startDev({ env: { CALLD_LIMITS_FAILED_TOKENS_PER_MINUTE: '3' } });
  try {
    const token = await mint(dev.as('alice'));
    const forged = session(dev.origin, `${token.slice(0, -8)}AAAAAAAA`);
    for (let i = 0; i < 3; i++) await refused(forged, 401, 'M_UNKNOWN_TOKEN', /not a session token/);
    const { status, body } = await forged.get('/api/calls/active');
    assert.equal(status, 429);
    assert.ok(body.retry_after_ms > 0);
    assert.equal((await session(dev.origin, token).get('/api/calls/active')).status, 200);
  } finally {
    assert.equal(await dev.stop(), 0);
  }
});
