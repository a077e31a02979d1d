// What a restart must not break: a ringing call that Matrix clients heard of is hung up in time, with the sealed token
// of a caller who is gone; an accepted one goes on; what was said while the daemon was away is not lost.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import test, { after, before } from 'node:test';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { binary, startStack } from '../lib/stack.mjs';
import { candidatesOf, expectTimeline } from '../lib/timeline.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 150000 };
let stack;
let daemon;

async function start() {
  daemon = spawn(binary, ['-c', stack.info.config], { stdio: ['ignore', 'pipe', 'inherit'] });
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
  await start();
}, { timeout: 180000 });

after(async () => {
  if (daemon?.exitCode === null && daemon.signalCode === null) await stop('SIGTERM');
  await stack?.stop();
}, limit);

async function post(user, path, body) {
  const reply = await stack.as(user).post(path, body);
  assert.ok(reply.status < 300, `${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
  return reply.body;
}

const party = (user, roomId, callId) => {
  const partyId = `P${randomUUID().slice(0, 8)}`;
  return { callId, partyId, send: (type, content) => user.send(roomId, `m.call.${type}`,
    { call_id: callId, version: '1', party_id: partyId, ...content }) };
};

async function ringing(ringSeconds) {
  const pair = await stack.newPair();
  const { callId } = await post(pair.caller, '/api/calls/initiate',
    { roomId: pair.roomId, offer: offerOf('rest'), ringSeconds });
  await until(async () => (await pair.callee.callEvents(pair.roomId, callId)).length > 0, { what: 'the invite' });
  return { ...pair, callId };
}

test('killed while it rings: after the restart the caller hangs up at the end of the ring time', limit, async () => {
  const { caller, callee, roomId, callId } = await ringing(20);
  await stop('SIGKILL');
  await start();
  await expectTimeline(callee, roomId, callId, [{ type: 'invite', sender: caller }]);
  await until(async () => (await stack.as(caller).get(`/api/calls/${callId}`)).body.status === 'missed',
    { what: 'status missed', seconds: 40 });
  await expectTimeline(callee, roomId, callId, [{ type: 'invite', sender: caller },
    { type: 'hangup', sender: caller, reason: 'invite_timeout' }]);
});

test('killed in a call with a Matrix client: candidates and the hangup go on', limit, async () => {
  const { caller, callee, roomId, callId } = await ringing(60);
  const client = party(callee, roomId, callId);
  await client.send('answer', { answer: answerOf('client') });
  await until(async () => (await callee.callEvents(roomId, callId))
    .some((event) => event.type === 'm.call.select_answer'), { what: 'select_answer' });
  await stop('SIGKILL');
  // What was sent while nobody listened is delivered by the homeserver afterwards.
  await client.send('candidates', { candidates: [candidateOf(1)] });
  await start();
  await until(async () => {
    const { body } = await stack.as(caller).get(`/api/calls/${callId}/events`);
    return body.missed.some((event) => event.event === 'ice-candidate');
  }, { what: "the client's candidate", seconds: 60 });
  await post(caller, `/api/calls/${callId}/ice-candidate`, { candidate: candidateOf(2) });
  await until(async () => candidatesOf(await callee.callEvents(roomId, callId), caller.userId).length === 1,
    { what: 'our candidate' });
  await client.send('hangup', { reason: 'user_hangup' });
  await until(async () => (await stack.as(caller).get(`/api/calls/${callId}`)).body.status === 'ended',
    { what: 'the end' });
  await expectTimeline(callee, roomId, callId, [{ type: 'invite', sender: caller }, { type: 'answer', sender: callee },
    { type: 'select_answer', sender: caller }, { type: 'hangup', sender: callee }]);
});

for (const command of ['reject', 'end']) {
  test(`killed with the callee's ${command} not sent yet: it arrives without anybody coming back`, limit, async () => {
    const { caller, callee, roomId, callId } = await ringing(60);
    assert.equal((await stack.as(callee).get(`/api/calls/${callId}`)).status, 200); // its token is known from now on
    const synapse = stack.info.pids.Synapse;
    process.kill(synapse, 'SIGSTOP');
    try {
      await post(callee, `/api/calls/${callId}/${command}`, {});
      await stop('SIGKILL');
    } finally {
      process.kill(synapse, 'SIGCONT');
    }
    await start();
    await expectTimeline(callee, roomId, callId, [{ type: 'invite', sender: caller }, { type: 'reject', sender: callee },
      { type: 'select_answer', sender: caller }]);
    await until(async () => (await stack.query(`SELECT user_id FROM sealed_tokens
      WHERE user_id IN ('${caller.userId}', '${callee.userId}')`)).length === 0, { what: 'no token to be kept' });
  });
}

test('after a restart a late reader gets what the others heard: answered, toggled, connected', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const { callId } = await post(caller, '/api/calls/initiate', { roomId, offer: offerOf('rest') });
  const { partyId } = await post(callee, `/api/calls/${callId}/answer`, { answer: answerOf('rest') });
  await post(callee, `/api/calls/${callId}/toggle-audio`, { enabled: false });
  await post(caller, `/api/calls/${callId}/connected`);
  const read = async (user) => (await stack.as(user).get(`/api/calls/${callId}/events`)).body.missed;
  const kinds = ['call-answered', 'call-connected', 'audio-toggled'];
  const records = async (user) => (await read(user)).filter(({ event }) => kinds.includes(event));
  const before = [await records(caller), await records(callee)];
  assert.deepEqual(before.map((list) => list.length), [3, 1]);
  await stop('SIGKILL');
  await start();
  assert.deepEqual([await records(caller), await records(callee)], before);
  const numbers = (await read(caller)).map(({ seq }) => seq);
  assert.deepEqual(numbers, [...numbers].sort((a, b) => a - b));
  const tab = await Tab.open(stack.daemon, callee);
  const ack = await tab.command('join-call', { callId, partyId, lastSeq: 0 });
  assert.deepEqual(ack.missed.filter(({ event }) => kinds.includes(event)), before[1]);
  await post(caller, `/api/calls/${callId}/end`, {});
  tab.close();
});

test('called and hung up while the daemon was away: it does not go on ringing', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  (await Tab.open(stack.daemon, callee)).close(); // known to us from now on
  await stop('SIGTERM');
  const over = party(caller, roomId, `m${randomUUID()}`);
  await over.send('invite', { lifetime: 60000, offer: offerOf('matrix') });
  await over.send('hangup', { reason: 'user_hangup' });
  await start();
  const b = await Tab.open(stack.daemon, callee);
  // A later call of the same room: events of a room come in order.
  const later = party(caller, roomId, `n${randomUUID()}`);
  await later.send('invite', { lifetime: 60000, offer: offerOf('matrix') });
  const ring = await b.next('call-ringing', undefined, (one) => one.matrixCallId === later.callId, 60);
  // The homeserver may deliver the two events of the first call one by one: then it rings and is over at once.
  for (const early of b.all('call-ringing').filter((one) => one.matrixCallId === over.callId)) {
    assert.equal((await b.next('call-ended', early.callId)).status, 'canceled');
  }
  const { calls } = (await stack.as(callee).get('/api/calls/active')).body;
  assert.deepEqual(calls.map((call) => call.callId), [ring.callId]);
  await later.send('hangup', { reason: 'user_hangup' });
  await b.next('call-ended', ring.callId);
  b.close();
});
