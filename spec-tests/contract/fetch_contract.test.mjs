// Outgoing HTTP: what the rest of the daemon may rely on when the homeserver behaves, and when it does not.

import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { until } from '../lib/until.mjs';
import { onFake, real, setUp } from './fetch_agent.mjs';

const versions = '/_matrix/client/versions';

test('an answer arrives with status and body', async (t) => {
  const { agent, url } = await setUp(t);
  const reply = await agent.do('fetch', { url: url + versions });
  assert.equal(reply.status, 200);
  assert.equal(reply.error, null);
  assert.ok(JSON.parse(reply.body).versions.length > 0);
  assert.equal(reply.retryAfterMs, -1);
});

test('method, body and bearer go out', async (t) => {
  const { agent, url, newUser } = await setUp(t);
  const user = await newUser();
  const path = `/_matrix/client/v3/user/${encodeURIComponent(user.userId)}/account_data/org.calld.test`;
  const put = await agent.do('fetch', { method: 'PUT', url: url + path, bearer: user.token, body: '{"a":"ü"}' });
  assert.equal(put.status, 200);
  const got = await agent.do('fetch', { url: url + path, bearer: user.token });
  assert.deepEqual(JSON.parse(got.body), { a: 'ü' });
  const wrong = await agent.do('fetch', { url: url + path, bearer: 'nobody' });
  assert.equal(wrong.status, 401);
});

test('proxies of the environment are not asked', async (t) => {
  const proxy = 'http://127.0.0.1:1';
  const { agent, url } = await setUp(t, { env: { http_proxy: proxy, HTTP_PROXY: proxy, ALL_PROXY: proxy, no_proxy: '' } });
  assert.equal((await agent.do('fetch', { url: url + versions })).status, 200);
});

test('a cancelled request never calls back', async (t) => {
  const { agent, url } = await setUp(t);
  assert.equal((await agent.do('fetch', { url: url + versions, cancel: true })).started, true);
  assert.equal((await agent.do('fetch', { url: url + versions })).status, 200);
  assert.equal(agent.open, 0);
});

test('many at once share few connections', async (t) => {
  const { agent, fake, url } = await setUp(t);
  const replies = await Promise.all(Array.from({ length: 200 }, () => agent.do('fetch', { url: url + versions })));
  assert.ok(replies.every((reply) => reply.status === 200));
  if (!real) assert.ok(fake.connections <= 32, `${fake.connections} connections`);
});

test('a bearer that would split the header, and other protocols, are refused', async (t) => {
  const { agent, url } = await setUp(t);
  assert.equal((await agent.do('fetch', { url: url + versions, bearer: 'a\r\nX-Evil: 1' })).started, false);
  assert.equal((await agent.do('fetch', { url: 'file:///etc/hostname' })).status, 0);
});

onFake('a redirect is an answer like any other', async (t) => {
  const { agent, fake, url } = await setUp(t);
  fake.fault(/versions/, { status: 302, headers: { location: `${url}/elsewhere` }, body: {} });
  assert.equal((await agent.do('fetch', { url: url + versions, bearer: 'secret' })).status, 302);
  assert.equal(fake.seen(/elsewhere/).length, 0);
});

onFake('a server that hangs costs the deadline, one that is not there nothing', async (t) => {
  const { agent, fake, url } = await setUp(t);
  fake.fault(/versions/, 'hang');
  const hung = await agent.do('fetch', { url: url + versions, timeoutMs: 200 });
  assert.deepEqual([hung.status, hung.error], [0, 'timed out']);
  await fake.goAway();
  const gone = await agent.do('fetch', { url: url + versions });
  assert.equal(gone.status, 0);
  assert.match(gone.error, /connect/i);
  await fake.comeBack();
});

onFake('a server that accepts and says nothing, or says rubbish', async (t) => {
  const { agent } = await setUp(t);
  const rubbish = createServer((socket) => socket.end('220 ready when you are\r\n'));
  await new Promise((resolve) => rubbish.listen(0, '127.0.0.1', resolve));
  t.after(() => rubbish.close());
  const reply = await agent.do('fetch', { url: `http://127.0.0.1:${rubbish.address().port}/` });
  assert.equal(reply.status, 0);
});

onFake('a truncated answer is no answer', async (t) => {
  const { agent, fake, url } = await setUp(t);
  fake.fault(/versions/, 'truncate');
  const reply = await agent.do('fetch', { url: url + versions });
  assert.deepEqual([reply.status, reply.body], [0, '']);
  assert.notEqual(reply.error, null);
});

onFake('an answer over the cap is cut off', async (t) => {
  const { agent, fake, url } = await setUp(t);
  fake.fault(/versions/, { status: 200, raw: 'x'.repeat(100000) });
  const reply = await agent.do('fetch', { url: url + versions, maxBody: 99999 });
  assert.deepEqual([reply.status, reply.tooLarge], [0, true]);
  assert.equal((await agent.do('fetch', { url: url + versions, maxBody: 100000 })).body.length, 100000);
});

onFake('when to come back: the header, else the body', async (t) => {
  const { agent, fake, url } = await setUp(t);
  const limited = (body, headers) => fake.fault(/versions/, { status: 429, body, headers }, 1);
  limited({ retry_after_ms: 1234 });
  assert.equal((await agent.do('fetch', { url: url + versions })).retryAfterMs, 1234);
  limited({ retry_after_ms: 1234 }, { 'retry-after': '7' });
  assert.equal((await agent.do('fetch', { url: url + versions })).retryAfterMs, 7000);
  limited({ retry_after_ms: 'soon' });
  assert.equal((await agent.do('fetch', { url: url + versions })).retryAfterMs, -1);
});

onFake('a kept connection that the server closed is no failure', async (t) => {
  const { agent, fake, url } = await setUp(t);
  for (let i = 0; i < 5; i += 1) {
    assert.equal((await agent.do('fetch', { url: url + versions })).status, 200);
    fake.server.closeAllConnections();
  }
});

onFake('ending with requests open calls each of them back', async (t) => {
  const { agent, fake, url } = await setUp(t);
  fake.fault(/versions/, 'hang');
  const replies = [1, 2, 3].map(() => agent.do('fetch', { url: url + versions }));
  await until(() => fake.requests.length === 3);
  agent.child.stdin.end();
  for (const reply of await Promise.all(replies)) assert.equal(reply.error, 'shutting down');
});
