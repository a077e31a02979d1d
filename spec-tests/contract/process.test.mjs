// The daemon as a process: start, roles of its listeners, signals, the memory budget, the command line.
// No homeserver and no database: what is tested here needs neither.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FakeHomeserver } from '../lib/fake-homeserver.mjs';
import { until } from '../lib/until.mjs';
import { Raw, soon, WsClient } from './transport.mjs';

const top = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const build = process.env.BUILD_DIR ?? path.join(top, 'build');
const program = process.env.MATRIX_CALLD ?? path.join(build, 'matrix-calld');
const folder = mkdtempSync(path.join(tmpdir(), 'calld-process-'));
const HS_TOKEN = 'h'.repeat(64);

const children = [];

after(() => {
  for (const child of children) child.kill('SIGKILL'); // only what a failed test left
  rmSync(folder, { recursive: true, force: true });
});

// The environment of the machine must not configure the daemon under test.
const environment = Object.fromEntries(Object.entries(process.env)
  .filter(([name]) => !/^(CALLD_|TURN_|STUN_|DATABASE_URL|PORT$|TRUST_PROXY|NODE_ENV)/.test(name)));

let number = 0;

function configure(settings = {}, base = 'calld') {
  const file = path.join(folder, `${base}-${++number}.conf`);
  const sections = {
    server: { listen: '127.0.0.1:0', appservice_listen: '127.0.0.1:0', control_socket: `${file}.sock` },
    matrix: { homeserver_url: 'http://127.0.0.1:1', server_name: 'test', hs_token: HS_TOKEN, as_token: 'a'.repeat(64) },
  };
  for (const [key, value] of Object.entries(settings)) {
    const [section, name] = key.split('.');
    (sections[section] ??= {})[name] = value;
  }
  write(file, sections);
  return { file, sections };
}

function write(file, sections) {
  writeFileSync(file, Object.entries(sections).map(([section, keys]) =>
    `[${section}]\n${Object.entries(keys).map(([name, value]) => `${name} = ${value}\n`).join('')}`).join('\n'));
}

async function start(settings, { env = {} } = {}) {
  const { file, sections } = configure(settings);
  const child = spawn(program, ['-c', file], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...environment, ...env } });
  children.push(child);
  const daemon = { child, file, sections, log: [], exited: once(child, 'exit') };
  createInterface({ input: child.stderr }).on('line', (line) => daemon.log.push(line));
  const early = daemon.exited.then(([code]) => { throw new Error(`exit ${code}\n${daemon.log.join('\n')}`); });
  early.catch(() => {});
  await soon(Promise.race([once(createInterface({ input: child.stdout }), 'line'), early]), 'ready');
  const address = (role) => daemon.log.map((line) => line.match(new RegExp(`${role} on 127.0.0.1:(\\d+)`)))
    .find(Boolean)?.[1];
  await until(() => address('public') && address('appservice'), { what: 'the addresses in the log' });
  daemon.port = Number(address('public'));
  daemon.appservicePort = Number(address('appservice'));
  daemon.said = (event) => daemon.log.some((line) => line.includes(`"ev":"${event}"`));
  daemon.stop = async (signal = 'SIGTERM') => {
    child.kill(signal);
    const [code, by] = await soon(daemon.exited, 'the daemon to end', 12);
    return by ?? code;
  };
  return daemon;
}

const get = (port, target, options) => fetch(`http://127.0.0.1:${port}${target}`, options);

function overSocket(socketPath, target) {
  return new Promise((resolve, reject) => {
    http.get({ socketPath, path: target }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += chunk; });
      response.on('end', () => resolve({ status: response.statusCode, text }));
    }).on('error', reject);
  });
}

const command = (...args) => spawnSync(program, args, { encoding: 'utf8', env: environment });

test('health, readiness and version need no token, and each role serves its own', async () => {
  const daemon = await start();
  for (const port of [daemon.port, daemon.appservicePort]) {
    assert.deepEqual(await (await get(port, '/health')).json(), { status: 'ok' });
    assert.equal((await (await get(port, '/ready')).json()).state, 'running');
    assert.equal((await (await get(port, '/version')).json()).name, 'matrix-calld');
  }
  assert.equal((await get(daemon.port, '/metrics')).status, 404);
  assert.equal((await get(daemon.appservicePort, '/api/calls/config')).status, 404);
  const put = { method: 'PUT', headers: { authorization: `Bearer ${HS_TOKEN}` }, body: '{"events":[]}' };
  assert.equal((await get(daemon.port, '/_matrix/app/v1/transactions/1', put)).status, 404);
  assert.equal((await get(daemon.appservicePort, '/_matrix/app/v1/transactions/1', put)).status, 200);
  const socket = daemon.sections.server.control_socket;
  assert.equal(statSync(socket).mode & 0o777, 0o660);
  const metrics = await overSocket(socket, '/metrics');
  assert.equal(metrics.status, 200);
  assert.match(metrics.text, /^calld_calls_live\{status="ringing"\} 0$/m);
  assert.match(metrics.text, /^calld_memory_limit_bytes 536870912$/m);
  assert.equal(await daemon.stop(), 0);
});

test('readiness names a homeserver that is away, until it answers again', async (t) => {
  const homeserver = await FakeHomeserver.start({ serverName: 'test' });
  t.after(() => homeserver.stop());
  const daemon = await start({ 'matrix.homeserver_url': homeserver.url });
  const degraded = async () => (await (await get(daemon.port, '/ready')).json()).degraded;
  const ask = async () => (await get(daemon.port, '/api/calls/active',
    { headers: { authorization: `Bearer ${homeserver.addToken('@a:test')}` } })).status;
  assert.deepEqual(await degraded(), []);
  await homeserver.goAway();
  assert.equal(await ask(), 503);
  assert.deepEqual(await degraded(), ['homeserver']);
  assert.equal((await get(daemon.port, '/ready')).status, 200);
  await homeserver.comeBack();
  await until(async () => await ask() === 200, { what: 'an answer' });
  await until(async () => (await degraded()).length === 0, { what: 'the homeserver to count as there' });
  homeserver.fault(/whoami/, { status: 502, body: {} });
  assert.equal(await ask(), 503);
  assert.deepEqual(await degraded(), ['homeserver']);
  assert.equal(await daemon.stop(), 0);
});

test('refusals of made-up tokens count as rate limited', async (t) => {
  const homeserver = await FakeHomeserver.start({ serverName: 'test' });
  t.after(() => homeserver.stop());
  const daemon = await start({ 'matrix.homeserver_url': homeserver.url, 'limits.failed_tokens_per_minute': '3' });
  let limited = 0;
  for (let i = 0; i < 12; i++) {
    const { status } = await get(daemon.port, '/api/calls/active', { headers: { authorization: `Bearer made-up-${i}` } });
    if (status === 429) limited += 1;
  }
  assert.ok(limited > 0);
  const { text } = await overSocket(daemon.sections.server.control_socket, '/metrics');
  assert.equal(text.match(/^calld_rate_limited_total (\d+)$/m)[1], String(limited));
  assert.equal(await daemon.stop(), 0);
});

test('SIGTERM: sockets are told, parked polls and open requests end, exit 0', async () => {
  const daemon = await start();
  const ws = await WsClient.open(daemon.port, '/socket.io/?EIO=4&transport=websocket', { readFacts: false });
  assert.match(await ws.text(), /^0\{"sid"/);
  const sid = (await (await get(daemon.port, '/socket.io/?EIO=4&transport=polling')).text()).match(/"sid":"([^"]+)/)[1];
  const parked = await Raw.connect({ host: '127.0.0.1', port: daemon.port });
  await parked.write(`GET /socket.io/?EIO=4&transport=polling&sid=${sid} HTTP/1.1\r\nHost: x\r\n\r\n`);
  const half = await Raw.connect({ host: '127.0.0.1', port: daemon.port });
  await half.write('GET /health HTTP/1.1\r\nHost: ');
  await until(async () => /^calld_http_parked 1$/m.test(
    (await overSocket(daemon.sections.server.control_socket, '/metrics')).text), { what: 'the parked poll' });
  assert.equal(await daemon.stop(), 0);
  assert.ok([200, 503].includes((await parked.response()).status));
  assert.ok(daemon.said('daemon.draining') && daemon.said('daemon.stopped'));
});

test('SIGHUP changes what may change, all of it or nothing', async () => {
  const daemon = await start();
  assert.equal((await get(daemon.port, '/call-test.html')).status, 404);
  daemon.sections.server.call_test = 'yes';
  write(daemon.file, daemon.sections);
  daemon.child.kill('SIGHUP');
  await until(async () => (await get(daemon.port, '/call-test.html')).status === 200, { what: 'the page' });
  daemon.sections.server.call_test = 'no';
  daemon.sections.calls = { ring_seconds: 5 };
  write(daemon.file, daemon.sections);
  daemon.child.kill('SIGHUP');
  await until(() => daemon.said('reload.failed'), { what: 'the refusal in the log' });
  assert.equal((await get(daemon.port, '/call-test.html')).status, 200);
  assert.equal(await daemon.stop(), 0);
});

test('without a database it says that a spool was left over, and leaves it alone', async () => {
  const state = path.join(folder, 'state');
  const segment = path.join(state, 'spool', '0000000003.seg');
  mkdirSync(path.dirname(segment), { recursive: true });
  const none = await start({}, { env: { STATE_DIRECTORY: state } });
  assert.equal(none.said('store.memory'), true);
  assert.equal(none.said('spool.left'), false);
  assert.equal(await none.stop(), 0);
  writeFileSync(segment, 'what no database has yet');
  const left = await start({}, { env: { STATE_DIRECTORY: state } });
  assert.equal(left.said('spool.left'), true, left.log.join('\n'));
  assert.equal(await left.stop(), 0);
  assert.equal(readFileSync(segment, 'utf8'), 'what no database has yet');
});

test('a port that is taken is an error that names it', async () => {
  const daemon = await start();
  const { file } = configure({ 'server.listen': `127.0.0.1:${daemon.port}` });
  const second = command('-c', file);
  assert.equal(second.status, 1);
  assert.match(second.stderr, new RegExp(`127\\.0\\.0\\.1:${daemon.port}`));
  assert.equal(await daemon.stop(), 0);
});

test('beyond 80 % of the memory budget newcomers get 503, and may come again afterwards', async () => {
  const daemon = await start({ 'limits.memory_mb': 64 });
  const hog = await Raw.connect({ host: '127.0.0.1', port: daemon.appservicePort });
  const size = 56 * 1024 * 1024;
  await hog.write(`PUT /_matrix/app/v1/transactions/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${HS_TOKEN}\r\n` +
    `Content-Type: application/json\r\nContent-Length: ${size}\r\n\r\n{"events":[`);
  hog.write(Buffer.alloc(size - 4096, 0x20));
  const refused = await until(async () => {
    const answer = await get(daemon.port, '/health', { headers: { connection: 'close' } });
    return answer.status === 503 && answer.json();
  }, { what: 'a 503' });
  assert.equal(refused.errcode, 'ORG.CALLD.OVERLOADED');
  assert.equal((await overSocket(daemon.sections.server.control_socket, '/health')).status, 200, 'the admin gets in');
  hog.destroy();
  await until(async () => (await get(daemon.port, '/health', { headers: { connection: 'close' } })).status === 200,
    { what: 'room again' });
  assert.equal(await daemon.stop(), 0);
});

test('check-config names file, line, what is wrong and the nearest name', () => {
  const { file } = configure({ 'calls.ring_secnds': 60 });
  const { status, stderr } = command('-c', file, 'check-config');
  assert.equal(status, 1);
  const line = readFileSync(file, 'utf8').split('\n').findIndex((text) => text.startsWith('ring_secnds')) + 1;
  assert.match(stderr, new RegExp(`${file}:${line}: .*ring_secnds.*ring_seconds`));
  const good = command('-c', configure().file, 'check-config');
  assert.equal(good.status, 0);
  assert.match(good.stdout, /fine/);
});

test('dump-config masks secrets', () => {
  const { status, stdout } = command('-c', configure().file, 'dump-config');
  assert.equal(status, 0);
  assert.ok(!stdout.includes(HS_TOKEN) && stdout.includes('server_name = test'));
});

test('usage errors exit with 2 and say what to do', () => {
  for (const args of [['frobnicate'], ['--frobnicate'], ['-c'], ['migrate', '--to', 'x']]) {
    const { status, stderr } = command(...args);
    assert.equal(status, 2, args.join(' '));
    assert.match(stderr, /matrix-calld/);
  }
  assert.match(command('--version').stdout, /^matrix-calld \d+\.\d+\.\d+$/m);
  assert.match(command('--help').stdout, /check-config/);
});

test('migrate without a database says so', () => {
  const { status, stderr } = command('-c', configure().file, 'migrate');
  assert.equal(status, 1);
  assert.match(stderr, /database\.url/);
});
