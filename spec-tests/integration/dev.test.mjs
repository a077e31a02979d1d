// matrix-calld --dev: a whole call of two users by REST and by sockets, in memory and in PostgreSQL; what it
// refuses, what it lifts, what it says of itself.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { refusedDev, startDev } from '../lib/dev-daemon.mjs';
import { startPostgres } from '../lib/postgres.mjs';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { CallClient, query } from '../lib/stack.mjs';

const running = [];

async function start(options) {
  const dev = await startDev(options);
  running.push(dev);
  return dev;
}

after(() => { // only what a failed test left
  for (const dev of running) if (dev.child.exitCode === null) dev.child.kill('SIGKILL');
});

const open = (dev, name) => Tab.open(dev.origin, { token: `dev_${name}` });

async function ok(promise, status = 200) {
  const answer = await promise;
  assert.equal(answer.status, status, JSON.stringify(answer.body));
  return answer.body;
}

/** The whole life of a call by REST; returns its id. */
async function wholeCallByRest(dev) {
  const [alice, bob] = [dev.as('alice'), dev.as('bob')];
  const call = await ok(alice.post('/api/calls/initiate',
    { roomId: '!rest:dev', invitees: ['@bob:dev'], offer: offerOf('caller') }), 201);
  assert.deepEqual([call.caller, call.callee, call.status, call.matrixSignalling],
    ['@alice:dev', '@bob:dev', 'ringing', 'off']);
  const { calls } = await ok(bob.get('/api/calls/active'));
  assert.deepEqual(calls.map((one) => one.callId), [call.callId]);
  assert.equal(calls[0].offer.sdp, offerOf('caller').sdp);
  await ok(bob.post(`/api/calls/${call.callId}/answer`, { answer: answerOf('callee') }));
  await ok(alice.post(`/api/calls/${call.callId}/ice-candidate`, { candidate: candidateOf(1) }));
  await ok(bob.post(`/api/calls/${call.callId}/connected`));
  const ended = await ok(alice.post(`/api/calls/${call.callId}/end`));
  assert.deepEqual([ended.status, ended.endReason], ['ended', 'user_hangup']);
  return call.callId;
}

test('it says loudly what it is, and where it listens', async () => {
  const dev = await start();
  assert.match(dev.said.slice(0, 2).join('\n'), /--dev: FOR DEVELOPMENT[^]*Nobody is authenticated/);
  assert.match(dev.printed.join('\n'), /^listening on http:\/\/127\.0\.0\.1:\d+\nready$/);
  const config = await (await fetch(`${dev.origin}/api/calls/config`)).json();
  assert.deepEqual([config.homeserver, config.serverName, config.environment, config.features.matrix],
    [null, 'dev', 'dev', false]);
  assert.equal((await fetch(`${dev.origin}/call-test.html`)).status, 200);
  assert.equal(await dev.stop(), 0);
});

test('a whole call by REST, in memory', async () => {
  const dev = await start();
  await wholeCallByRest(dev);
  assert.equal(await dev.stop(), 0);
});

test('a whole call by sockets; without invitees the only other user is called', async () => {
  const dev = await start();
  const [alice, bob] = [await open(dev, 'alice'), await open(dev, 'bob')];
  const call = await alice.command('call-initiate', { roomId: '!sockets:dev', offer: offerOf('caller') });
  const ring = await bob.next('call-ringing', call.callId);
  assert.equal(ring.caller, '@alice:dev');
  await bob.command('call-answer', { callId: call.callId, answer: answerOf('callee') });
  await alice.next('call-answered', call.callId);
  await alice.command('ice-candidate', { callId: call.callId, candidate: candidateOf(1) });
  assert.equal((await bob.next('ice-candidate', call.callId)).from, '@alice:dev');
  await bob.command('call-connected', { callId: call.callId });
  await alice.command('call-end', { callId: call.callId });
  await bob.next('call-ended', call.callId);

  const carol = await open(dev, 'carol'); // a third one: in a new room nobody is "the other one" any more
  const fresh = await alice.refused('call-initiate', { roomId: '!fresh:dev' }, 'M_MISSING_PARAM');
  assert.match(fresh.error, /invitees/);
  const again = await alice.command('call-initiate', { roomId: '!sockets:dev' }); // but here it is still bob
  assert.equal(again.callee, '@bob:dev');
  for (const tab of [alice, bob, carol]) tab.close();
  assert.equal(await dev.stop(), 0);
});

test('with DATABASE_URL the call is in PostgreSQL and outlives the process', async () => {
  const postgres = await startPostgres();
  try {
    const env = { DATABASE_URL: postgres.url };
    const dev = await start({ env });
    const callId = await wholeCallByRest(dev);
    const [row] = await query(postgres.url, `SELECT status, caller FROM call_sessions WHERE id = '${callId}'`);
    assert.deepEqual(row, { status: 'ended', caller: '@alice:dev' });
    const left = await ok(dev.as('carol').post('/api/calls/initiate', { roomId: '!r:dev', invitees: ['@dave:dev'] }), 201);
    assert.equal(await dev.stop('SIGKILL'), 'SIGKILL');

    const next = await start({ env });
    assert.equal((await ok(next.as('dave').post(`/api/calls/${left.callId}/answer`))).status, 'accepted');
    assert.ok(!next.said.some((line) => line.includes('token.unreadable')), next.said.join('\n'));
    assert.equal(await next.stop(), 0);
  } finally {
    await postgres.stop();
  }
});

test('tokens name users and devices; others, other rooms and other servers are refused', async () => {
  const dev = await start();
  const room = { roomId: '!r:dev', invitees: ['@bob:dev'] };
  for (const token of ['alice', 'dev_', 'dev_~phone', 'syt_something', `dev_${'x'.repeat(300)}`]) {
    const answer = await fetch(`${dev.origin}/api/calls/active`, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(answer.status, 401, token);
    assert.equal((await answer.json()).errcode, 'M_UNKNOWN_TOKEN');
  }
  const alice = dev.as('alice');
  await ok(alice.post('/api/calls/initiate', { ...room, roomId: '!r:example.org' }), 404);
  await ok(alice.post('/api/calls/initiate', { ...room, roomId: '!:dev' }), 404);
  await ok(alice.post('/api/calls/initiate', { ...room, invitees: ['@bob:example.org'] }), 400);
  const call = await ok(alice.post('/api/calls/initiate', room), 201);
  await ok(dev.as('bob~phone').post(`/api/calls/${call.callId}/answer`));
  await ok(dev.as('bob~phone').post(`/api/calls/${call.callId}/answer`)); // the same device
  await ok(dev.as('bob~tablet').post(`/api/calls/${call.callId}/answer`), 409); // another one
  await ok(dev.as('mallory').get(`/api/calls/${call.callId}/status`)); // joined to each room
  await ok(dev.as('mallory').post(`/api/calls/${call.callId}/end`), 403);
  assert.equal(await dev.stop(), 0);
});

test('rates and connection counts are lifted, unless the environment sets them', async () => {
  const dev = await start();
  for (let i = 0; i < 25; i++) // the default is 10 an hour
    await ok(dev.as('alice').post('/api/calls/initiate', { roomId: `!${i}:dev`, invitees: [`@u${i}:dev`] }), 201);
  const tabs = await Promise.all(Array.from({ length: 60 }, () => open(dev, 'alice'))); // 10 a user, 50 an address
  for (const tab of tabs) tab.close();
  assert.equal(await dev.stop(), 0);

  const limited = await start({ env: { CALLD_LIMITS_STARTS_PER_HOUR: '1' } });
  const room = { roomId: '!r:dev', invitees: ['@bob:dev'] };
  const call = await ok(limited.as('alice').post('/api/calls/initiate', room), 201);
  await ok(limited.as('alice').post(`/api/calls/${call.callId}/end`));
  const refused = await ok(limited.as('alice').post('/api/calls/initiate', room), 429);
  assert.ok(refused.retry_after_ms > 0);
  assert.equal(await limited.stop(), 0);
});

test('off loopback it does not start, however it is told to', async () => {
  for (const [args, env] of [
    [['--dev', '--listen', '0.0.0.0:0']],
    [['--dev', '--listen', '[::]:0']],
    [['--dev', '--listen', '127.0.0.1:0 192.0.2.1:0']],
    [['--dev'], { CALLD_SERVER_LISTEN: '0.0.0.0:0' }],
  ]) {
    const { status, stderr } = await refusedDev(args, env);
    assert.equal(status, 1, stderr);
    assert.match(stderr, /--dev listens on loopback only/);
  }
  for (const args of [['--listen', '127.0.0.1:0'], ['--dev', '-c', '/etc/matrix-calld.conf'], ['--dev', 'check-config'],
    ['--dev', '--listen']]) {
    const { status, stderr } = await refusedDev(args);
    assert.equal(status, 2, stderr);
  }
});

test('a key file in the environment keeps session tokens good over a restart; without one they end', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'calld-key-'));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const [env, status] of [[{ CALLD_MATRIX_SEAL_KEY_FILE: join(folder, 'seal.key') }, 200], [{}, 401]]) {
    const first = await start({ env });
    const { token } = await ok(first.as('alice').post('/api/calls/session-token'));
    assert.equal((await new CallClient(first.origin, token).get('/api/calls/active')).status, 200);
    assert.equal(await first.stop(), 0);
    const second = await start({ env });
    assert.equal((await new CallClient(second.origin, token).get('/api/calls/active')).status, status);
    assert.equal(await second.stop(), 0);
  }
});

test('settings of a homeserver in the environment do not count', async () => {
  const dev = await start({ env: { CALLD_MATRIX_HOMESERVER_URL: 'https://matrix.example.org',
    CALLD_MATRIX_HS_TOKEN: 'h'.repeat(64), CALLD_MATRIX_SERVER_NAME: 'example.org' } });
  assert.equal((await (await fetch(`${dev.origin}/api/calls/config`)).json()).serverName, 'dev');
  assert.ok(!dev.said.some((line) => line.includes('appservice on')));
  assert.equal(await dev.stop(), 0);
});
