// Whose token is this: what clients are told, and how little the homeserver is asked.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../lib/until.mjs';
import { know, onFake, real, setUp } from './fetch_agent.mjs';

const whoami = /whoami/;
const bogus = (n) => `syt_bogus_${n}_${process.pid}`;

test('a token is its user, with device, asked about once a minute', async (t) => {
  const { agent, newUser } = await setUp(t);
  const user = await newUser();
  const first = await agent.do('auth', { token: user.token });
  assert.deepEqual([first.rc, first.user, first.admin], ['OK', user.userId, false]);
  assert.ok(first.device);
  assert.equal((await agent.do('auth', { token: user.token })).user, user.userId);
  assert.equal((await agent.do('auth-stats')).asked, 1);
  await agent.do('advance', { ms: 60001 });
  assert.equal((await agent.do('auth', { token: user.token })).rc, 'OK');
  assert.equal((await agent.do('auth-stats')).asked, 2);
});

test('twenty requests with one new token are one question', async (t) => {
  const { agent, newUser } = await setUp(t);
  const user = await newUser();
  const replies = await Promise.all(Array.from({ length: 20 }, () => agent.do('auth', { token: user.token })));
  assert.ok(replies.every((reply) => reply.user === user.userId));
  assert.equal((await agent.do('auth-stats')).asked, 1);
});

test('a made-up token is unknown, and for 5 s nobody is asked again', async (t) => {
  const { agent } = await setUp(t);
  const token = bogus('once');
  assert.equal((await agent.do('auth', { token })).rc, 'UNKNOWN_TOKEN');
  assert.equal((await agent.do('auth', { token })).rc, 'UNKNOWN_TOKEN');
  assert.equal((await agent.do('auth-stats')).asked, 1);
  await agent.do('advance', { ms: 5001 });
  assert.equal((await agent.do('auth', { token })).rc, 'UNKNOWN_TOKEN');
  assert.equal((await agent.do('auth-stats')).asked, 2);
});

test('a token that was signed out is found out once the cache is told to forget', async (t) => {
  const { agent, newUser } = await setUp(t);
  const user = await newUser();
  await know(agent, user);
  await user.logOut();
  assert.equal((await agent.do('auth', { token: user.token })).rc, 'OK');
  await agent.do('forget', { token: user.token });
  assert.equal((await agent.do('auth', { token: user.token })).rc, 'UNKNOWN_TOKEN');
});

test('guests are refused', async (t) => {
  const { agent, newUser } = await setUp(t);
  const guest = await newUser({ guest: true }).catch(() => undefined);
  if (!guest) return t.skip('this homeserver takes no guests');
  assert.equal((await agent.do('auth', { token: guest.token })).rc, 'GUEST');
});

test('what cannot be a user token is refused without asking', async (t) => {
  const { agent } = await setUp(t);
  const impossible = ['', 'x'.repeat(4097), 'a b', 'tök', 'a\r\nb', '"'];
  for (const token of [...impossible, 'calld_abc', 'the-as-token', 'the-hs-token']) {
    assert.equal((await agent.do('auth', { token })).rc, 'UNKNOWN_TOKEN', JSON.stringify(token.slice(0, 20)));
  }
  assert.equal((await agent.do('auth-stats')).asked, 0);
});

test('admins are known by their id', async (t) => {
  const { agent, newUser, url } = await setUp(t);
  const [admin, other] = [await newUser(), await newUser()];
  const second = await setUp(t, { start: { admins: `@nobody:x, ${admin.userId}`, homeserver: url,
    serverName: admin.userId.replace(/^[^:]*:/, '') } });
  assert.equal((await second.agent.do('auth', { token: admin.token })).admin, true);
  assert.equal((await second.agent.do('auth', { token: other.token })).admin, false);
});

test('a burst of bogus tokens from one address is ten questions a minute', async (t) => {
  const { agent, newUser } = await setUp(t);
  const [known, fresh] = [await newUser(), await newUser()];
  const ip = '198.51.100.7';
  assert.equal((await agent.do('auth', { token: known.token, ip })).rc, 'OK');
  const burst = await Promise.all(Array.from({ length: 60 }, (_, i) => agent.do('auth', { token: bogus(i), ip })));
  assert.equal((await agent.do('auth-stats')).asked, 11);
  assert.equal(burst.filter(({ rc }) => rc === 'UNKNOWN_TOKEN').length, 10);
  const limited = burst.filter(({ rc }) => rc === 'LIMITED');
  assert.equal(limited.length, 50);
  assert.ok(limited.every(({ retryAfterMs }) => retryAfterMs > 0 && retryAfterMs <= 60000));
  // Who is known goes on working there; who is new has to wait, and other addresses need not.
  assert.equal((await agent.do('auth', { token: known.token, ip })).rc, 'OK');
  assert.equal((await agent.do('auth', { token: fresh.token, ip })).rc, 'LIMITED');
  assert.equal((await agent.do('auth', { token: fresh.token, ip: '198.51.100.8' })).rc, 'OK');
  await agent.do('advance', { ms: 60001 });
  const again = await Promise.all(Array.from({ length: 30 }, (_, i) => agent.do('auth', { token: bogus(`b${i}`), ip })));
  assert.equal(again.filter(({ rc }) => rc === 'UNKNOWN_TOKEN').length, 10);
});

test('who was known goes on working behind the address of a flood, also when the cache has aged', async (t) => {
  const { agent, newUser } = await setUp(t);
  const user = await newUser();
  const ip = '198.51.100.7';
  assert.equal((await agent.do('auth', { token: user.token, ip })).rc, 'OK');
  await agent.do('advance', { ms: 120000 });
  await Promise.all(Array.from({ length: 12 }, (_, i) => agent.do('auth', { token: bogus(i), ip })));
  assert.equal((await agent.do('auth', { token: bogus('more'), ip })).rc, 'LIMITED');
  assert.equal((await agent.do('auth', { token: user.token, ip })).rc, 'OK');
  await user.logOut();
  await agent.do('advance', { ms: 61000 });
  assert.equal((await agent.do('auth', { token: user.token, ip })).rc, 'UNKNOWN_TOKEN');
});

test('thirty people behind one address sign in at once', async (t) => {
  const { agent, newUser, fake } = await setUp(t);
  const tokens = real ? [] : Array.from({ length: 30 }, (_, i) => fake.addToken(`@p${i}:${fake.serverName}`));
  for (let i = 0; real && i < 12; i += 1) tokens.push((await newUser()).token);
  const replies = await Promise.all(tokens.map((token) => agent.do('auth', { token, ip: '198.51.100.9' })));
  assert.deepEqual([...new Set(replies.map(({ rc }) => rc))], ['OK']);
});

onFake('users of other servers are refused, and told why', async (t) => {
  const { agent, fake } = await setUp(t);
  const reply = await agent.do('auth', { token: fake.addToken('@eve:elsewhere.test') });
  assert.equal(reply.rc, 'UNKNOWN_TOKEN');
  assert.match(reply.text, /another server/);
  const none = await agent.do('auth', { token: fake.addToken(`@minted:${fake.serverName}`) });
  assert.deepEqual([none.rc, none.device], ['OK', null]);
});

onFake('a homeserver in trouble is never "your token is bad"', async (t) => {
  const { agent, fake } = await setUp(t);
  const troubles = [{ status: 500, body: {} }, { status: 502, raw: '<html>' }, { status: 503, body: { errcode: 'M_UNKNOWN' } },
    { status: 404, body: {} }, { status: 200, raw: 'not json' }, { status: 200, body: {} }, { status: 200, body: { user_id: 7 } },
    { status: 200, raw: '' }, { status: 301, body: {} }, 'reset', 'truncate'];
  for (const trouble of troubles) {
    fake.heal();
    fake.fault(whoami, trouble);
    const { rc } = await agent.do('auth', { token: fake.addToken(`@a:${fake.serverName}`) });
    assert.equal(rc, 'HOMESERVER', JSON.stringify(trouble));
  }
  fake.heal();
  // None of it counted as a failed token.
  assert.equal((await agent.do('auth', { token: fake.addToken(`@a:${fake.serverName}`) })).rc, 'OK');
  await fake.goAway();
  assert.equal((await agent.do('auth', { token: fake.addToken(`@a:${fake.serverName}`) })).rc, 'HOMESERVER');
  await fake.comeBack();
});

onFake('429 is honoured: nobody is asked until then', async (t) => {
  const { agent, fake } = await setUp(t);
  const token = fake.addToken(`@a:${fake.serverName}`);
  fake.fault(whoami, { status: 429, body: { errcode: 'M_LIMIT_EXCEEDED', retry_after_ms: 7000 } }, 1);
  const reply = await agent.do('auth', { token });
  assert.deepEqual([reply.rc, reply.retryAfterMs], ['HOMESERVER', 7000]);
  assert.equal((await agent.do('auth', { token })).rc, 'HOMESERVER');
  assert.equal(fake.seen(whoami).length, 1);
  await agent.do('advance', { ms: 7001 });
  assert.equal((await agent.do('auth', { token })).rc, 'OK');
});

onFake('locked accounts and soft logout are passed on', async (t) => {
  const { agent, fake } = await setUp(t);
  fake.fault(whoami, { status: 401, body: { errcode: 'M_USER_LOCKED', soft_logout: true } }, 1);
  assert.equal((await agent.do('auth', { token: bogus('l') })).rc, 'FORBIDDEN');
  fake.fault(whoami, { status: 401, body: { errcode: 'M_UNKNOWN_TOKEN', soft_logout: true } }, 1);
  assert.equal((await agent.do('auth', { token: bogus('s') })).extra, '"soft_logout":true');
});

onFake('sixteen questions at once; who waits longer than 2 s is told to come back', async (t) => {
  const { agent, fake } = await setUp(t);
  fake.fault(whoami, 'hang');
  const ask = (i) => agent.do('auth', { token: fake.addToken(`@u${i}:${fake.serverName}`), ip: `192.0.2.${i}` });
  const replies = Array.from({ length: 40 }, (_, i) => ask(i));
  await until(() => fake.requests.length === 16);
  const stats = await agent.do('auth-stats');
  assert.deepEqual([stats.inFlight, stats.waiting], [16, 24]);
  await agent.do('advance', { ms: 2001 });
  const overloaded = await Promise.all(replies.slice(16));
  assert.ok(overloaded.every(({ rc }) => rc === 'OVERLOADED'));
  fake.heal();
  const late = ask(50);
  fake.release();
  assert.equal((await late).rc, 'OK');
  assert.ok((await Promise.all(replies.slice(0, 16))).every(({ rc }) => rc === 'OK'));
});

onFake('who waits within the 2 s gets a turn', async (t) => {
  const { agent, fake } = await setUp(t);
  fake.fault(whoami, 'hang', 16);
  const ask = (i) => agent.do('auth', { token: fake.addToken(`@u${i}:${fake.serverName}`), ip: `192.0.2.${i}` });
  const replies = Array.from({ length: 40 }, (_, i) => ask(i));
  await until(() => fake.requests.length === 16);
  fake.release();
  assert.ok((await Promise.all(replies)).every(({ rc }) => rc === 'OK'));
});

onFake('a hanging homeserver costs 10 s, then 503', async (t) => {
  const { agent, fake } = await setUp(t);
  fake.fault(whoami, 'hang');
  const reply = agent.do('auth', { token: fake.addToken(`@a:${fake.serverName}`) });
  await until(() => fake.requests.length === 1);
  await agent.do('advance', { ms: 10001 });
  assert.equal((await reply).rc, 'HOMESERVER');
});

onFake('who has left is not called back, others with the same token are', async (t) => {
  const { agent, fake } = await setUp(t);
  const token = fake.addToken(`@a:${fake.serverName}`);
  fake.fault(whoami, 'hang', 1);
  const stays = agent.do('auth', { token });
  assert.equal((await agent.do('auth', { token, cancel: true })).pending, true);
  await until(() => fake.requests.length === 1);
  fake.release();
  assert.equal((await stays).rc, 'OK');
});

onFake('ending while questions are open', async (t) => {
  const { agent, fake } = await setUp(t);
  fake.fault(whoami, 'hang');
  const replies = Array.from({ length: 20 }, (_, i) => agent.do('auth', { token: bogus(i), ip: `192.0.2.${i}` }));
  await until(() => fake.requests.length === 16);
  agent.child.stdin.end();
  assert.ok((await Promise.all(replies)).every(({ rc }) => rc === 'OVERLOADED'));
});
