// Clients that are slow on purpose, hundreds at a time, against the real daemon: each is ended by a deadline, costs
// little, and nobody else notices.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { until } from '../lib/until.mjs';
import { body, startDaemon } from './config_kit.mjs';
import { Raw } from './transport.mjs';

const limit = { timeout: 90000 };
const EACH = 60;

/** A connection that gets `text` one byte at a time, for ever, after `head`. */
async function drip(port, head, text, everyMs = 300) {
  const raw = await Raw.connect({ host: '127.0.0.1', port });
  await raw.write(head);
  let at = 0;
  const timer = setInterval(() => {
    raw.socket.write(text[at++ % text.length]);
  }, everyMs);
  const one = { raw, open: true };
  raw.socket.once('close', () => {
    clearInterval(timer);
    one.open = false;
  });
  return one;
}

const residentKb = (pid) => Number(readFileSync(`/proc/${pid}/status`, 'latin1').match(/^VmRSS:\s+(\d+)/m)[1]);

test('hundreds of slow clients of each kind: ended in time, and the others are served meanwhile', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.head_seconds': 3, 'limits.body_seconds': 3,
    'limits.connections_per_ip': 0 });
  const { port } = new URL(daemon.url);
  const { a, callId } = await daemon.answered();
  const user = daemon.newUser();
  body(await daemon.as(user).get('/api/calls/active')); // a known token: the body is what is slow
  const before = residentKb(daemon.child.pid);
  const post = `POST /api/calls/initiate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${user.token}\r\n`;
  const kinds = {
    'a request line': ['G', 'ET /health'],
    'a WebSocket line': ['GET /socket.io/?EIO=4&transport=webs', 'o'],
    'headers': ['GET /health HTTP/1.1\r\n', 'X-Slow: 1\r\n'],
    'headers of a handshake': ['GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n', 'X-Slow: 1\r\n'],
    'a body': [`${post}Content-Length: 2000\r\n\r\n{`, ' '],
    'a chunked body': [`${post}Transfer-Encoding: chunked\r\n\r\n`, '1\r\n \r\n'],
    'nothing at all': ['', ''],
    'the next request': ['GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\n', 'X-Slow: 1\r\n'],
  };
  const slow = [];
  for (const [name, [head, text]] of Object.entries(kinds)) {
    for (let i = 0; i < EACH; i++) slow.push(Object.assign(await drip(port, head, text || ' ', text ? 300 : 1e6), { name }));
  }
  assert.ok(slow.length >= 480);
  t.after(() => { for (const one of slow) one.raw.destroy(); });
  const grown = residentKb(daemon.child.pid) - before;
  assert.ok(grown < 32 * 1024, `${grown} kB for ${slow.length} slow connections`);

  let served = 0; // what others do goes on, all the time
  await until(async () => {
    body(await daemon.as(user).get('/api/calls/active'));
    assert.equal((await a.ask('call-connected', { callId })).ok, true);
    served += 1;
    return slow.every((one) => !one.open);
  }, { what: 'the end of all slow connections', seconds: 30 }).catch((error) => {
    const left = Object.fromEntries(Object.keys(kinds).map((name) => [name, 0]));
    for (const one of slow) if (one.open) left[one.name] += 1;
    throw new Error(`${error.message} ${JSON.stringify(left)}`);
  });
  assert.ok(served >= 5, `${served} requests served meanwhile`);
  for (const name of ['headers', 'a body', 'a chunked body']) {
    const { raw } = slow.find((one) => one.name === name);
    const answer = await raw.response();
    assert.equal(answer.status, 408, name);
    assert.equal(answer.json().errcode, 'ORG.CALLD.TIMEOUT');
  }
  assert.ok(await daemon.metric('http_too_slow_total') >= 4 * EACH);
});

test('a body that is slow but comes is taken: only so slow a one is not', limit, async (t) => {
  const daemon = await startDaemon(t, { 'limits.body_seconds': 1 });
  const { port } = new URL(daemon.url);
  const { caller, roomId } = daemon.newPair();
  const raw = await Raw.connect({ host: '127.0.0.1', port });
  const text = JSON.stringify({ roomId, filler: 'x'.repeat(40000) });
  await raw.write(`POST /api/calls/initiate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${caller.token}\r\n` +
    `Content-Length: ${text.length}\r\n\r\n`);
  const begun = Date.now();
  for (let at = 0; at < text.length; at += 10000) { // 10 kB/s, for longer than body_seconds
    await raw.write(text.slice(at, at + 10000));
    await until(() => Date.now() - begun > (at / 10000 + 1) * 1000, { what: 'the next second' });
  }
  assert.equal((await raw.response()).status, 201);
});

test('idle connections have TCP keep-alive: a peer that is gone without a word is noticed', limit, async (t) => {
  const daemon = await startDaemon(t);
  const { port } = new URL(daemon.url);
  const raw = await Raw.connect({ host: '127.0.0.1', port });
  await raw.write('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
  await raw.response();
  const hex = (n) => n.toString(16).toUpperCase().padStart(4, '0');
  await until(() => readFileSync('/proc/net/tcp', 'latin1').split('\n').some((line) => {
    const [, local, remote, , , timer] = line.trim().split(/\s+/);
    return local?.endsWith(`:${hex(Number(port))}`) && remote.endsWith(`:${hex(raw.socket.localPort)}`) &&
      timer.startsWith('02:'); // 2: the keep-alive timer
  }), { what: 'the timer' });
  raw.destroy();
});

test('HTTP/1.1 takes exactly one Host header, HTTP/1.0 may do without', limit, async (t) => {
  const daemon = await startDaemon(t);
  const { port } = new URL(daemon.url);
  const ask = async (text) => {
    const raw = await Raw.connect({ host: '127.0.0.1', port });
    await raw.write(text);
    const answer = await raw.response();
    raw.destroy();
    return answer;
  };
  for (const head of ['GET /health HTTP/1.1\r\n\r\n', 'GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n']) {
    const answer = await ask(head);
    assert.equal(answer.status, 400, head);
    assert.equal(answer.json().errcode, 'M_INVALID_PARAM');
  }
  assert.equal((await ask('GET /health HTTP/1.0\r\n\r\n')).status, 200);
  assert.equal((await ask('GET /health HTTP/1.1\r\nHost: a\r\n\r\n')).status, 200);
});
