// What networks, proxies and rude clients do to a server: pieces, floods, stalls, reuse; and how the daemon ends.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { RawSocket } from '../lib/raw-socket.mjs';
import { rawRequest } from '../lib/raw-http.mjs';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;

before(async () => {
  stack = await startStack();
}, limit);

after(() => stack?.stop(), limit);

const bearer = (user) => `Authorization: Bearer ${user.token}`;

test('a request that comes one byte at a time', limit, async () => {
  const { caller, roomId } = await stack.newPair();
  const raw = await RawSocket.connect(stack.daemon);
  const body = JSON.stringify({ roomId });
  const bytes = Buffer.from(['POST /api/calls/initiate HTTP/1.1', `Host: ${raw.host}`, bearer(caller),
    'Content-Type: application/json', `Content-Length: ${Buffer.byteLength(body)}`, '', body].join('\r\n'));
  for (const byte of bytes) await raw.write(Buffer.from([byte]));
  const reply = await raw.response();
  assert.equal(reply.status, 201, reply.body);
  raw.close();
});

test('4 kB of cookies, and a header that is too large', limit, async () => {
  const cookie = `x=${'c'.repeat(4096)}`;
  assert.equal((await rawRequest(stack.daemon, 'GET', '/health', { headers: { cookie } })).status, 200);
  const { caller } = await stack.newPair();
  const raw = await RawSocket.connect(stack.daemon);
  await raw.upgrade({ headers: [`Cookie: ${cookie}`] });
  await raw.nextText('0{');
  await raw.frame(`40${JSON.stringify({ token: caller.token })}`);
  await raw.nextText('40{');
  raw.close();
  const huge = await rawRequest(stack.daemon, 'GET', '/health', { headers: { cookie: 'c'.repeat(200000) } })
    .catch((error) => ({ status: error.code }));
  assert.ok([400, 413, 431, 'ECONNRESET', 'EPIPE'].includes(huge.status), String(huge.status));
  assert.equal((await rawRequest(stack.daemon, 'GET', '/health')).status, 200);
});

test('a 60 kB offer', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const offer = offerOf('large');
  offer.sdp += `a=x-fill:${'f'.repeat(58000)}\r\n`;
  const reply = await stack.as(caller).post('/api/calls/initiate', { roomId, offer });
  assert.equal(reply.status, 201, JSON.stringify(reply.body));
  assert.deepEqual((await stack.as(callee).get(`/api/calls/${reply.body.callId}`)).body.offer, offer);
});

test('a body over the limit gets its answer, not a reset', limit, async () => {
  const { caller } = await stack.newPair();
  for (let round = 0; round < 5; round++) {
    const reply = await rawRequest(stack.daemon, 'POST', '/api/calls/initiate',
      { token: caller.token, body: Buffer.alloc(3 << 20, 0x20) });
    assert.equal(reply.status, 413);
    assert.equal(reply.body.errcode, 'M_TOO_LARGE');
  }
});

test('requests one after the other, and an upgrade, on one connection', limit, async () => {
  const { caller } = await stack.newPair();
  const raw = await RawSocket.connect(stack.daemon);
  for (let round = 0; round < 3; round++) {
    await raw.write(`GET /health HTTP/1.1\r\nHost: ${raw.host}\r\n\r\n`);
    assert.equal((await raw.response()).status, 200);
  }
  await raw.signIn(caller);
  assert.equal((await raw.ask('call-end', { callId: 'none' })).errcode, 'M_NOT_FOUND');
  raw.close();
});

test('a message in three frames, with a ping between', limit, async () => {
  const { caller } = await stack.newPair();
  const raw = await RawSocket.connect(stack.daemon);
  await raw.signIn(caller);
  await raw.frame('427["call-', { final: false });
  await raw.frame('are you there', { opcode: 9 });
  await raw.frame('end",{"callId"', { opcode: 0, final: false });
  await raw.frame(':"none"}]', { opcode: 0 });
  const ack = JSON.parse((await raw.nextText('437[')).slice(3))[0];
  assert.equal(ack.errcode, 'M_NOT_FOUND');
  raw.close();
});

test('frames that break the protocol end that connection only', limit, async () => {
  const { caller } = await stack.newPair();
  for (const bad of [
    (raw) => raw.write(Buffer.from([0x81, 0x05, 0x68, 0x65, 0x6c, 0x6c, 0x6f])), // not masked
    (raw) => raw.frame(Buffer.from([0xc3, 0x28])), // text that is not UTF-8
    (raw) => raw.write(Buffer.concat([Buffer.from([0x81, 0xff, 0, 0, 0, 0, 0, 0x20, 0, 0, 1, 2, 3, 4]),
      Buffer.alloc(2 << 20)])), // 2 MiB in one frame
    (raw) => raw.frame('x', { opcode: 3 }), // a reserved opcode
    (raw) => raw.frame('9nonsense'),
    (raw) => raw.frame('42[{]'),
  ]) {
    const raw = await RawSocket.connect(stack.daemon);
    await raw.signIn(caller);
    await bad(raw);
    const code = await raw.closeCode();
    assert.ok(code === undefined || code >= 1000, String(code));
    raw.close();
  }
  const raw = await RawSocket.connect(stack.daemon);
  await raw.signIn(caller);
  raw.close();
});

test('a reader that stops reading loses its own connection; the others go on', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const slow = await RawSocket.connect(stack.daemon);
  await slow.signIn(callee);
  const a = await Tab.open(stack.daemon, caller);
  const { callId } = await a.command('call-initiate', { roomId, offer: offerOf('caller') });
  const answer = await slow.ask('call-answer', { callId, answer: answerOf('callee') });
  assert.equal(answer.ok, true, JSON.stringify(answer));
  slow.socket.pause();
  const offer = offerOf('flood');
  offer.sdp += `a=x-fill:${'f'.repeat(50000)}\r\n`;
  await until(async () => {
    for (let index = 0; index < 10; index++) await a.ask('webrtc-offer', { callId, offer });
    return a.all('peer-reconnecting', callId).length > 0;
  }, { what: 'the slow reader let go', seconds: 60 });
  slow.socket.resume();
  await until(() => slow.closed, { what: 'its connection closed' });
  const back = await Tab.open(stack.daemon, callee);
  assert.equal((await back.command('join-call', { callId })).call.status, 'accepted');
  await a.command('ice-candidate', { callId, candidate: candidateOf(1) });
  await back.next('ice-candidate', callId);
  await a.command('call-end', { callId });
  a.close();
  back.close();
});

test('behind nginx: the stock client polls, upgrades and calls', limit, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'calld-nginx-'));
  mkdirSync(join(directory, 'tmp'));
  const port = await new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port: free } = probe.address();
      probe.close(() => resolve(free));
    });
  });
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${directory}/tmp;`).join(' ');
  writeFileSync(join(directory, 'nginx.conf'), `
daemon off; pid ${directory}/pid; error_log stderr; worker_processes 1;
${process.getuid() === 0 ? 'user root;' : ''}
events { worker_connections 256; }
http {
  access_log off; ${temporary}
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream calld { server ${new URL(stack.daemon).host}; keepalive 4; }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://calld; proxy_http_version 1.1; proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}`);
  const nginx = spawn('nginx', ['-c', join(directory, 'nginx.conf'), '-p', directory],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } });
  let output = '';
  nginx.stderr.setEncoding('utf8').on('data', (text) => { output += text; });
  const origin = `http://127.0.0.1:${port}`;
  try {
    await until(async () => (await rawRequest(origin, 'GET', '/health')).status === 200, { what: `nginx ${output}` });
    const { caller, callee, roomId } = await stack.newPair();
    // Plain requests first, so that nginx has open connections to reuse for the upgrades.
    for (let index = 0; index < 8; index++) await rawRequest(origin, 'GET', '/health');
    const [a, b] = await Promise.all([Tab.open(origin, caller), Tab.open(origin, callee)]);
    for (const one of [a, b]) {
      await until(() => one.socket.io.engine.transport.name === 'websocket', { what: 'the upgrade' });
    }
    const { callId } = await a.command('call-initiate', { roomId, offer: offerOf('nginx') });
    await b.next('call-ringing', callId);
    await b.command('call-answer', { callId, answer: answerOf('nginx') });
    await a.next('call-answered', callId);
    await a.command('call-end', { callId });
    await b.next('call-ended', callId);
    a.close();
    b.close();
  } finally {
    const ended = new Promise((resolve) => nginx.once('exit', resolve));
    nginx.kill('SIGTERM');
    await ended;
    rmSync(directory, { recursive: true, force: true });
  }
});

test('SIGHUP reloads what can be reloaded', limit, async () => {
  const config = readFileSync(stack.info.config, 'utf8');
  assert.equal((await rawRequest(stack.daemon, 'GET', '/call-test.html')).status, 200);
  writeFileSync(stack.info.config, config.replace('call_test = yes', 'call_test = no'));
  process.kill(stack.info.pids['matrix-calld'], 'SIGHUP');
  await until(async () => (await rawRequest(stack.daemon, 'GET', '/call-test.html')).status === 404,
    { what: 'the page switched off' });
});

test('SIGTERM with parked requests, open sockets and a live call: clients are told, and it exits with 0', limit,
  async () => {
    const { caller, callee, roomId } = await stack.newPair();
    const polling = await Tab.open(stack.daemon, caller, { transports: ['polling'] });
    const socket = await Tab.open(stack.daemon, callee, { transports: ['websocket'] });
    const { callId } = await polling.command('call-initiate', { roomId, offer: offerOf('last') });
    await socket.next('call-ringing', callId);
    // stop() fails when the daemon has to be killed, or exits with anything but 0.
    const stopped = stack.stop();
    stack = undefined;
    await socket.next('server-restarting');
    await stopped;
    polling.close();
    socket.close();
  });
