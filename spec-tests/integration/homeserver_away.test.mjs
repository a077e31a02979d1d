// The homeserver hangs, dies and comes back in mid-call: calls between our own clients go on, and what the room has to
// know arrives there once, in time or not at all.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readlinkSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { createInterface } from 'node:readline';
import test, { after, before } from 'node:test';
import { request } from '../lib/matrix.mjs';
import { answerOf, offerOf } from '../lib/sdp.mjs';
import { binary, startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 240000 };
let stack;
let daemon;
let proxy;
let synapse; // what to start again
let again; // the one that we started
let pair;

/** Between daemon and homeserver: `swallow` loses answers, requests go through. */
async function startProxy(url) {
  const target = new URL(url);
  const self = { swallow: false };
  self.server = net.createServer((near) => {
    const far = net.connect(Number(target.port), target.hostname);
    for (const [one, other] of [[near, far], [far, near]]) {
      one.on('error', () => {});
      one.on('close', () => other.destroy());
    }
    near.pipe(far);
    far.on('data', (data) => { if (!self.swallow) near.write(data); });
  });
  self.server.listen(0, '127.0.0.1');
  await once(self.server, 'listening');
  self.url = `http://127.0.0.1:${self.server.address().port}`;
  return self;
}

before(async () => {
  stack = await startStack({ daemon: false, mayEnd: 'Synapse', liftRateLimits: true });
  const pid = stack.info.pids.Synapse;
  synapse = { pid, argv: readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1), cwd: readlinkSync(`/proc/${pid}/cwd`) };
  proxy = await startProxy(stack.homeserver);
  daemon = spawn(binary, ['-c', stack.info.config], { stdio: ['ignore', 'pipe', 'ignore'],
    env: { ...process.env, CALLD_MATRIX_HOMESERVER_URL: proxy.url } });
  const [line] = await once(createInterface({ input: daemon.stdout }), 'line');
  assert.equal(line, 'ready');
  pair = await stack.newPair();
}, { timeout: 180000 });

after(async () => {
  const ended = once(daemon, 'exit');
  daemon.kill('SIGTERM');
  await ended;
  proxy.server.close();
  if (again) {
    const gone = once(again, 'exit');
    again.kill('SIGKILL');
    await gone;
  }
  await stack.stop();
}, limit);

async function post(user, path, body = {}) {
  const reply = await stack.as(user).post(path, body);
  assert.ok(reply.status < 300, `${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
  return reply.body;
}

async function metric(name) {
  const text = await new Promise((resolve, reject) => {
    http.get({ socketPath: stack.info.controlSocket, path: '/metrics' }, async (answer) => {
      let all = '';
      for await (const part of answer) all += part;
      resolve(all);
    }).on('error', reject);
  });
  return Number(text.match(new RegExp(`^calld_${name} (\\S+)$`, 'm'))[1]);
}

const typesOf = async (callId) => (await pair.callee.callEvents(pair.roomId, callId)).map(({ type }) => type.slice(7));
const outboxIsEmpty = () => until(async () => (await stack.query('SELECT txn_id FROM matrix_outbox')).length === 0,
  { what: 'an empty outbox', seconds: 90 });
const degraded = async () => (await (await fetch(`${stack.daemon}/ready`)).json()).degraded;

async function connectedCall() {
  const { callId } = await post(pair.caller, '/api/calls/initiate', { roomId: pair.roomId, offer: offerOf('o') });
  await post(pair.callee, `/api/calls/${callId}/answer`, { answer: answerOf('a') });
  await post(pair.caller, `/api/calls/${callId}/connected`);
  return callId;
}

test('it hangs: the call goes on and ends, and the room hears of it once when it moves again', limit, async () => {
  // A push of who joined makes the next call ask who is in the room: what the first one learns must last.
  await until(async () => await metric('as_events_total') >= (await pair.callee.messages(pair.roomId)).length,
    { what: 'who joined to be pushed' });
  const callId = await connectedCall();
  await until(async () => (await typesOf(callId)).includes('answer'));
  process.kill(synapse.pid, 'SIGSTOP');
  try {
    await post(pair.callee, `/api/calls/${callId}/end`);
    // A whole call, while it hangs.
    const other = await connectedCall();
    assert.equal((await post(pair.caller, `/api/calls/${other}/end`)).status, 'ended');
    await until(async () => await metric('matrix_away') === 1, { what: 'the hang to be noticed', seconds: 40 });
    assert.ok(await metric('matrix_waiting') >= 1);
    assert.ok(await metric('matrix_oldest_seconds') > 0);
    assert.ok((await degraded()).includes('homeserver'));
  } finally {
    process.kill(synapse.pid, 'SIGCONT');
  }
  await outboxIsEmpty();
  assert.equal((await typesOf(callId)).filter((type) => type === 'hangup').length, 1);
  assert.equal(await metric('matrix_away'), 0);
});

test('it dies with our answer on its lips: found in the room, not sent again; late invites are not sent', limit, async () => {
  const callId = await connectedCall();
  await until(async () => (await typesOf(callId)).includes('answer'));
  await outboxIsEmpty();
  const found = await metric('matrix_echoes_found_total');
  proxy.swallow = true;
  await post(pair.callee, `/api/calls/${callId}/end`);
  await until(async () => (await typesOf(callId)).includes('hangup'), { what: 'the hang-up in the room' });
  process.kill(synapse.pid, 'SIGKILL');
  proxy.swallow = false;
  await until(async () => await metric('matrix_away') === 1, { what: 'the death to be noticed', seconds: 40 });
  const late = await post(pair.caller, '/api/calls/initiate', { roomId: pair.roomId, offer: offerOf('late'), ringSeconds: 15 });
  await until(async () => (await stack.query(`SELECT status FROM call_sessions WHERE id = '${late.callId}'`))[0].status === 'missed',
    { what: 'its ring time to end', seconds: 40 });
  again = spawn(synapse.argv[0], synapse.argv.slice(1), { cwd: synapse.cwd, stdio: 'ignore' });
  await until(async () => (await request(stack.homeserver, 'GET', '/_matrix/client/versions')).status === 200,
    { what: 'the homeserver', seconds: 60, everyMs: 200 });
  await outboxIsEmpty();
  assert.equal((await typesOf(callId)).filter((type) => type === 'hangup').length, 1);
  assert.ok(await metric('matrix_echoes_found_total') > found, 'it was looked for and found');
  assert.ok(!(await typesOf(late.callId)).includes('invite'));
  await until(async () => !(await degraded()).includes('homeserver'));
});
