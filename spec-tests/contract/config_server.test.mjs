// [server], [matrix], [log] and [admin]: each setting changes what a client, the homeserver or an administrator sees.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { rawRequest } from '../lib/raw-http.mjs';
import { offerOf } from '../lib/sdp.mjs';
import { body, environment, HS_TOKEN, iniOf, program, refused, startDaemon } from './config_kit.mjs';
import { WsClient } from './transport.mjs';

const limit = { timeout: 60000 };

/** A path in a folder that goes with the test. */
function temporary(t, name) {
  const folder = mkdtempSync(path.join(tmpdir(), 'calld-config-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return path.join(folder, name);
}

test('path_prefix moves all public paths, public_base_url and the homeserver are told', limit, async (t) => {
  const daemon = await startDaemon(t, { 'server.path_prefix': '/calld',
    'server.public_base_url': 'https://calls.example.org/calld',
    'matrix.public_homeserver_url': 'https://matrix.example.org' });
  const config = await (await daemon.get('/calld/api/calls/config')).json();
  assert.equal(config.publicBaseUrl, 'https://calls.example.org/calld');
  assert.equal(config.socketPath, '/calld/socket.io/');
  assert.equal(config.homeserver, 'https://matrix.example.org');
  assert.equal(config.serverName, 'fake.test');
  const targets = [['/calld/health', 200], ['/health', 200], ['/calldx/health', 404], ['/x/health', 404]];
  for (const [target, status] of targets) {
    assert.equal((await daemon.get(target)).status, status, `${target}: the proxy may keep the prefix or take it off`);
  }
  assert.equal((await fetch(`${daemon.appservice}/health`)).status, 200, 'the homeserver needs no prefix');
  const { caller } = daemon.newPair();
  const tab = await daemon.tab(caller, { path: config.socketPath });
  await tab.refused('call-end', { callId: 'none' }, 'M_NOT_FOUND');
});

test('cors_origins is exact, for answers and for sockets', limit, async (t) => {
  const good = 'https://app.example.org';
  const daemon = await startDaemon(t, { 'server.cors_origins': `${good} http://localhost:8080` });
  const allowed = async (origin) => (await rawRequest(daemon.url, 'GET', '/health', { headers: { origin } }))
    .headers['access-control-allow-origin'];
  assert.equal(await allowed(good), good);
  assert.equal(await allowed('http://localhost:8080'), 'http://localhost:8080');
  for (const origin of [`${good}.evil.test`, 'http://app.example.org', `${good}:444`, 'null']) {
    assert.equal(await allowed(origin), undefined, origin);
  }
  const { port } = new URL(daemon.url);
  const target = '/socket.io/?EIO=4&transport=websocket';
  const open = (origin) => WsClient.open(port, target, { headers: { Origin: origin }, readFacts: false });
  assert.match(await (await open(good)).text(), /^0\{"sid"/);
  await assert.rejects(open('https://evil.test'));
});

test('trust_proxy: failed tokens count for the client that the proxy names', limit, async (t) => {
  const settings = { 'limits.failed_tokens_per_minute': 2 };
  const daemon = await startDaemon(t, { 'server.trust_proxy': 'true', ...settings });
  const bogus = (at, from) => rawRequest(at.url, 'GET', '/api/calls/active',
    { token: `syt_${randomUUID()}`, headers: { 'x-forwarded-for': from } });
  for (const from of ['192.0.2.1', '192.0.2.1', '192.0.2.2']) {
    refused(await bogus(daemon, from), 401, 'M_UNKNOWN_TOKEN');
  }
  refused(await bogus(daemon, '192.0.2.1'), 429, 'M_LIMIT_EXCEEDED');
  refused(await bogus(daemon, '192.0.2.2'), 401, 'M_UNKNOWN_TOKEN');

  const plain = await startDaemon(t, settings);
  for (const from of ['192.0.2.1', '192.0.2.2']) refused(await bogus(plain, from), 401, 'M_UNKNOWN_TOKEN');
  refused(await bogus(plain, '192.0.2.3'), 429, 'M_LIMIT_EXCEEDED');
});

test('query_token takes tokens from the address, only when it is on', limit, async (t) => {
  const [on, off] = [await startDaemon(t, { 'server.query_token': 'yes' }), await startDaemon(t)];
  const ask = (daemon) => rawRequest(daemon.url, 'GET', `/api/calls/active?access_token=${daemon.newUser().token}`);
  assert.deepEqual(body(await ask(on)).calls, []);
  refused(await ask(off), 401, 'M_MISSING_TOKEN');
});

test('call_test serves the page, only when it is on', limit, async (t) => {
  const [on, off] = [await startDaemon(t, { 'server.call_test': 'yes' }), await startDaemon(t)];
  assert.equal((await on.get('/call-test.html')).status, 200);
  refused(await rawRequest(off.url, 'GET', '/call-test.html'), 404, 'M_UNRECOGNIZED');
});

test('legacy_paths: the homeserver may leave the path’s beginning out', limit, async (t) => {
  const [on, off] = [await startDaemon(t), await startDaemon(t, { 'matrix.legacy_paths': 'no' })];
  assert.equal((await on.transaction([], { base: '' })).status, 200);
  assert.equal((await off.transaction([], { base: '' })).status, 404);
  assert.equal((await off.transaction([])).status, 200);
});

test('hs_token_previous is accepted beside hs_token', limit, async (t) => {
  const previous = 'p'.repeat(64);
  const daemon = await startDaemon(t, { 'matrix.hs_token_previous': previous });
  assert.equal((await daemon.transaction([], { token: previous })).status, 200);
  assert.equal((await daemon.transaction([], { token: HS_TOKEN })).status, 200);
  assert.equal((await daemon.transaction([], { token: 'x'.repeat(64) })).status, 403);
});

test('record_foreign: calls between two Matrix clients leave a trace, or none', limit, async (t) => {
  for (const [value, calls] of [['yes', 1], ['no', 0]]) {
    const daemon = await startDaemon(t, { 'matrix.record_foreign': value });
    const invite = ({ caller, callee, roomId }) => ({ type: 'm.call.invite', room_id: roomId, sender: caller.userId,
      event_id: `$${randomUUID()}`, origin_server_ts: Date.now(), content: { call_id: randomUUID(), version: '1',
        party_id: 'ONE', lifetime: 60000, invitee: callee.userId, offer: offerOf('matrix') } });
    assert.equal((await daemon.transaction([invite(daemon.newPair())])).status, 200);
    // What comes later is judged later.
    const ours = daemon.newPair();
    const tab = await daemon.tab(ours.callee);
    assert.equal((await daemon.transaction([invite(ours)])).status, 200);
    await tab.next('call-ringing');
    assert.equal(await daemon.metric('calls_created_total'), calls + 1, `record_foreign = ${value}`);
  }
});

test('log.level drops lines, log.format chooses their shape', limit, async (t) => {
  const text = await startDaemon(t, { 'log.format': 'text' });
  assert.ok(text.log.length > 0 && text.log.every((line) => !line.startsWith('{')), text.log[0]);
  const json = await startDaemon(t, { 'log.format': 'json', 'log.level': 'debug' });
  for (const line of json.log) assert.equal(typeof JSON.parse(line).ev, 'string');
  const quiet = await startDaemon(t, { 'log.level': 'error' });
  assert.equal((await quiet.control('/health')).status, 200);
  assert.deepEqual(quiet.log, []);
});

test('admin routes: peers of the control socket, whatever users and token_file say', limit, async (t) => {
  const file = temporary(t, 'admin-token');
  writeFileSync(file, 'an-admin-token-of-the-file\n', { mode: 0o600 });
  const daemon = await startDaemon(t, { 'admin.users': '@root:fake.test', 'admin.token_file': file });
  assert.match((await daemon.control('/metrics')).text, /^calld_calls_created_total 0$/m);
  const bearer = { headers: { authorization: 'Bearer an-admin-token-of-the-file' } };
  assert.equal((await daemon.get('/metrics', bearer)).status, 404, 'not on the public listener');
  assert.equal((await fetch(`${daemon.appservice}/metrics`, bearer)).status, 404);
});

test('NODE_ENV and CALLD_ variables override the file', limit, async (t) => {
  const file = temporary(t, 'calld.conf');
  writeFileSync(file, iniOf({ 'server.environment': 'staging', 'calls.max_mesh': 4 }));
  const dump = (env) => spawnSync(program, ['-c', file, 'dump-config'],
    { encoding: 'utf8', env: { ...environment, ...env } }).stdout;
  assert.match(dump({}), /^environment = staging$/m);
  assert.match(dump({ NODE_ENV: 'development' }), /^environment = development$/m);
  assert.match(dump({}), /^max_mesh = 4$/m);
  assert.match(dump({ CALLD_CALLS_MAX_MESH: '5' }), /^max_mesh = 5$/m);
});
