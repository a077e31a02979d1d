// Who is joined where: learnt with users' own tokens, kept for a while, never kept against the homeserver.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../lib/until.mjs';
import { know, onFake, real, setUp } from './fetch_agent.mjs';

const members = /joined_members/;
const afterDenial = { ms: 5001 };
const afterCache = { ms: 300001 };

async function pair(t) {
  const world = await setUp(t);
  const [alice, bob, eve] = [await world.newUser(), await world.newUser(), await world.newUser()];
  await know(world.agent, alice, bob, eve);
  const room = await alice.roomWith(bob);
  world.fake?.requests.splice(0);
  return { ...world, alice, bob, eve, room, view: (user, what = 'view') => world.agent.do(what, { user: user.userId, room }) };
}

test('a member sees who is in the room, under which name', async (t) => {
  const { alice, bob, view, room } = await pair(t);
  const seen = await view(alice);
  assert.deepEqual([seen.rc, seen.room, seen.joined, seen.encrypted], ['OK', room, 2, false]);
  assert.deepEqual(Object.keys(seen.members).sort(), [alice.userId, bob.userId].sort());
  assert.equal(seen.members[bob.userId], bob.userId.slice(1).split(':')[0]);
});

test('one question serves everybody in the room for a while', async (t) => {
  const { agent, fake, alice, bob, view } = await pair(t);
  const all = await Promise.all([...Array(20)].map(() => view(alice)));
  assert.ok(all.every(({ rc, joined }) => rc === 'OK' && joined === 2));
  assert.equal((await view(bob)).rc, 'OK');
  assert.equal((await view(bob, 'joined')).rc, 'OK');
  if (real) return;
  assert.equal(fake.seen(members).length, 1);
  await agent.do('advance', afterCache);
  assert.equal((await view(alice)).rc, 'OK');
  assert.equal(fake.seen(members).length, 2);
});

test('strangers and made-up rooms are not found, whatever others know', async (t) => {
  const { agent, fake, alice, eve, view } = await pair(t);
  assert.equal((await view(alice)).rc, 'OK');
  assert.equal((await view(eve)).rc, 'NOT_FOUND');
  assert.equal((await view(eve, 'joined')).rc, 'NOT_FOUND');
  if (!real) assert.equal(fake.seen(members).length, 2, 'asked once with her own token, then remembered');
  const user = eve.userId;
  for (const room of ['!nothing:nowhere.test', 'no room', '', `!${'x'.repeat(300)}`]) {
    assert.equal((await agent.do('view', { user, room })).rc, 'NOT_FOUND', room);
  }
});

test('who joins later is let in, without a push', async (t) => {
  const { agent, alice, eve, view, room } = await pair(t);
  assert.equal((await view(alice)).rc, 'OK');
  assert.equal((await view(eve)).rc, 'NOT_FOUND');
  await alice.api('POST', `/rooms/${encodeURIComponent(room)}/invite`, { user_id: eve.userId }).catch((error) => {
    if (real) throw error;
  });
  await eve.join(room);
  await agent.do('advance', afterDenial);
  const seen = await view(eve);
  assert.deepEqual([seen.rc, seen.joined], ['OK', 3]);
  assert.equal((await view(alice)).joined, 3);
});

test('who leaves is found out by a push at once, and without one in a while', async (t) => {
  const { agent, alice, bob, view, room } = await pair(t);
  assert.equal((await view(bob)).rc, 'OK');
  await bob.leave(room);
  assert.equal((await view(bob)).rc, 'OK', 'nobody has told us');
  await agent.do('member', { room, user: bob.userId, membership: 'leave' });
  assert.equal((await agent.do('cached', { room, user: bob.userId })).joined, false);
  assert.equal((await view(bob)).rc, 'NOT_FOUND');
  assert.equal((await view(alice)).joined, 1);
  await alice.leave(room);
  await agent.do('advance', afterCache);
  assert.equal((await view(alice)).rc, 'NOT_FOUND');
});

test('what is stored of memberships: not who left, not the crowd of a large room, and anew when it was confirmed', async (t) => {
  const { agent, alice, bob, view, room } = await pair(t);
  const told = (user) => agent.named('store.member').filter((row) => row.user === user && row.room === room)
    .map(({ joined }) => joined);
  const unknown = `!never-seen:${alice.userId.split(':')[1]}`;
  await agent.do('member', { room: unknown, user: '@far:elsewhere.example', membership: 'leave' });
  await agent.do('member', { room: unknown, user: bob.userId, membership: 'leave' });
  assert.deepEqual(agent.named('store.member').map(({ room: of, user, joined }) => [of, user, joined]),
    [[unknown, bob.userId, false]], 'the store may know one of ours there');
  assert.equal((await view(alice)).rc, 'OK');
  await agent.do('advance', afterCache);
  assert.equal((await view(alice)).rc, 'OK');
  assert.deepEqual(told(bob.userId), [true], 'what has not changed is not written again');
  await agent.do('advance', { ms: 25 * 60 * 60 * 1000 });
  assert.equal((await view(alice)).rc, 'OK');
  assert.deepEqual(told(bob.userId), [true, true], 'once a day, or it would count as old');
  for (let i = 0; i < 100; i += 1) {
    await agent.do('member', { room, user: `@s${i}:elsewhere.example`, membership: 'join' });
  }
  assert.deepEqual(told('@s0:elsewhere.example'), [true]);
  assert.deepEqual(told('@s99:elsewhere.example'), []);
  assert.equal((await agent.do('cached', { room, user: '@s99:elsewhere.example' })).joined, true);
});

test('a pushed lie lasts until the next question', async (t) => {
  const { agent, alice, bob, eve, view, room } = await pair(t);
  assert.equal((await view(alice)).rc, 'OK');
  await agent.do('member', { room, user: eve.userId, membership: 'join', name: 'Eve' });
  await agent.do('member', { room, user: bob.userId, membership: 'leave' });
  assert.equal((await view(eve)).rc, 'NOT_FOUND');
  assert.equal((await view(bob)).rc, 'OK');
  assert.deepEqual(Object.keys((await view(alice)).members).sort(), [alice.userId, bob.userId].sort());
});

onFake('a push of what was just answered does not shut out who asked', async (t) => {
  const { agent, fake, alice, view, room } = await pair(t);
  fake.fault(/m\.room\.encryption/, 'hang');
  const waits = view(alice);
  await until(async () => (await agent.do('cached', { room, user: alice.userId })).joined);
  await agent.do('member', { room, user: alice.userId, membership: 'join' });
  await until(() => fake.held.length);
  fake.release();
  assert.equal((await waits).rc, 'OK');
});

onFake('a push that is older than the answer takes nobody out of it', async (t) => {
  const { agent, fake, alice, bob, view, room } = await pair(t);
  fake.fault(/m\.room\.encryption/, 'hang');
  const waits = view(alice);
  await until(async () => (await agent.do('cached', { room, user: bob.userId })).joined);
  await agent.do('member', { room, user: bob.userId, membership: 'invite' });
  await until(() => fake.held.length);
  fake.release();
  const { rc, joined } = await waits;
  assert.deepEqual([rc, joined], ['OK', 2]);
  assert.equal(fake.seen(members).length, 2, 'which of the two is newer only the homeserver knows');
});

onFake('a kick that is pushed while an older list is under way counts', async (t) => {
  const { agent, fake, alice, bob, view, room } = await pair(t);
  let asked = 0;
  fake.fault(members, () => {
    asked += 1;
    if (asked === 1) return 'hang';
    fake.rooms.get(room).joined.delete(bob.userId);
    return undefined;
  });
  const waits = view(alice);
  await until(() => fake.held.length === 1);
  await agent.do('member', { room, user: bob.userId, membership: 'leave' });
  fake.release(); // with bob
  const { rc, joined } = await waits;
  assert.deepEqual([asked, rc, joined], [2, 'OK', 1]);
  assert.equal((await view(bob, 'joined')).rc, 'NOT_FOUND');
});

onFake('where people come and go all the time the list is read twice at most', async (t) => {
  const { agent, fake, alice, bob, view, room } = await pair(t);
  fake.fault(members, 'hang', 2);
  const waits = view(alice);
  for (const membership of ['leave', 'invite']) {
    await until(() => fake.held.length === 1);
    await agent.do('member', { room, user: bob.userId, membership: 'join' });
    await agent.do('member', { room, user: bob.userId, membership });
    fake.release();
  }
  assert.equal((await waits).rc, 'OK');
  assert.equal(fake.seen(members).length, 2);
  assert.equal((await view(alice)).rc, 'OK');
  assert.equal(fake.seen(members).length, 3, 'what was overtaken is not kept');
});

onFake('a list of joined rooms that is older than a kick does not undo it', async (t) => {
  const { agent, fake, bob, alice, view, room } = await pair(t);
  assert.equal((await view(alice)).rc, 'OK');
  fake.fault(/joined_rooms/, 'hang', 1);
  const other = await bob.roomWith();
  await agent.do('seen', { user: bob.userId });
  await until(() => fake.held.length === 1);
  await agent.do('member', { room, user: bob.userId, membership: 'leave' });
  fake.release(); // with both rooms
  await until(async () => (await agent.do('cached', { room: other, user: bob.userId })).joined);
  assert.equal((await agent.do('cached', { room, user: bob.userId })).joined, false);
});

test('encryption is seen, and never forgotten', async (t) => {
  const { agent, alice, view, room } = await pair(t);
  assert.equal((await view(alice)).encrypted, false);
  await agent.do('encryption', { room });
  assert.equal((await view(alice)).encrypted, true);
  const other = await alice.roomWith();
  await alice.setState(other, 'm.room.encryption', { algorithm: 'm.megolm.v1.aes-sha2' });
  assert.equal((await agent.do('view', { user: alice.userId, room: other })).encrypted, true);
});

test('joined rooms are learnt when a user is seen', async (t) => {
  const { agent, alice, bob, eve, view, room } = await pair(t);
  assert.equal((await agent.do('view-any', { room })).rc, 'NOT_FOUND', 'nobody has been seen');
  await agent.do('seen', { user: eve.userId });
  await agent.do('seen', { user: bob.userId });
  await until(async () => (await agent.do('cached', { room, user: bob.userId })).joined);
  assert.equal((await agent.do('cached', { room, user: alice.userId })).joined, false);
  assert.equal((await view(bob, 'joined')).rc, 'OK');
  const any = await agent.do('view-any', { room });
  assert.deepEqual([any.rc, any.joined], ['OK', 2]);
  assert.equal((await agent.do('cached', { room, user: alice.userId })).joined, true);
  const told = agent.named('store.member').map(({ user, joined }) => [user, joined]);
  assert.deepEqual(told.filter(([user]) => user === bob.userId)[0], [bob.userId, true]);
});

test('ignored users', async (t) => {
  const { agent, alice, bob, eve } = await pair(t);
  const ignores = (user, by) => agent.do('ignored', { user: user.userId, by: by.userId }).then((said) => said.ignored);
  assert.equal(await ignores(eve, bob), false, 'bob has not been seen: cannot be known');
  await bob.api('PUT', `/user/${encodeURIComponent(bob.userId)}/account_data/m.ignored_user_list`,
    { ignored_users: { [eve.userId]: {} } });
  await agent.do('seen', { user: bob.userId });
  await agent.do('seen', { user: alice.userId });
  assert.deepEqual(await Promise.all([ignores(eve, bob), ignores(alice, bob), ignores(eve, alice)]), [true, false, false]);
});

test('what was stored is a hint for finding somebody to ask with', async (t) => {
  const first = await pair(t);
  const { alice, bob, room, url, serverName } = first;
  const { agent } = await setUp(t, { start: { homeserver: url, serverName, stored: [
    { room, user: alice.userId }, { room, user: bob.userId }, { room: '!gone:x', user: alice.userId }] } });
  await know(agent, alice);
  await until(async () => (await agent.do('cached', { room, user: bob.userId })).joined);
  assert.equal((await agent.do('view-any', { room })).rc, 'NOT_FOUND');
  await agent.do('seen', { user: alice.userId });
  assert.equal((await agent.do('view-any', { room })).joined, 2);
  assert.equal((await agent.do('view', { user: alice.userId, room: '!gone:x' })).rc, 'NOT_FOUND');
  assert.equal((await agent.do('cached', { room: '!gone:x', user: alice.userId })).joined, false);
});

test('what a slow store says of a room adds nobody to what the homeserver has said meanwhile', async (t) => {
  const { alice, bob, eve, room, url, serverName } = await pair(t);
  const { agent } = await setUp(t, { start: { homeserver: url, serverName, holdStored: true, stored: [
    { room, user: bob.userId }, { room, user: eve.userId }, { room: '!other:x', user: eve.userId }] } });
  await know(agent, alice);
  assert.equal((await agent.do('view', { user: alice.userId, room })).joined, 2);
  await agent.do('members-loaded');
  assert.equal((await agent.do('cached', { room: '!other:x', user: eve.userId })).joined, true, 'it was read');
  assert.equal((await agent.do('cached', { room, user: eve.userId })).joined, false);
  assert.equal((await agent.do('view', { user: alice.userId, room })).joined, 2);
});

onFake('a homeserver in trouble is never "not joined"', async (t) => {
  const { agent, fake, alice, view } = await pair(t);
  const troubles = [{ status: 500, body: {} }, { status: 200, raw: '[]' }, { status: 200, body: {} },
    { status: 429, body: { retry_after_ms: 3000 } }, 'reset', 'truncate'];
  for (const trouble of troubles) {
    fake.heal();
    fake.fault(members, trouble);
    assert.equal((await view(alice)).rc, 'HOMESERVER', JSON.stringify(trouble));
  }
  fake.heal();
  await agent.do('advance', afterCache);
  fake.fault(members, 'hang');
  const hung = view(alice);
  await until(() => fake.held.length === 1);
  await agent.do('advance', { ms: 10001 });
  assert.equal((await hung).rc, 'HOMESERVER');
});

onFake('members without the encryption are not enough: nothing may be sent in clear', async (t) => {
  const { fake, alice, bob, view, room } = await pair(t);
  const encryption = /m.room.encryption/;
  await alice.setState(room, 'm.room.encryption', { algorithm: 'm.megolm.v1.aes-sha2' });
  fake.requests.splice(0);
  fake.fault(encryption, { status: 500, body: {} }, 1);
  assert.equal((await view(alice)).rc, 'HOMESERVER');
  fake.fault(encryption, 'hang', 1);
  const first = view(alice);
  await until(() => fake.held.length === 1);
  await until(() => fake.seen(members).length === 2);
  const second = view(bob);
  assert.equal((await view(bob, 'joined')).rc, 'OK');
  fake.release();
  assert.deepEqual((await Promise.all([first, second])).map(({ encrypted }) => encrypted), [true, true]);
});

onFake('one token that is no good does not speak for others', async (t) => {
  const { fake, alice, bob, eve, view, room } = await pair(t);
  fake.fault(members, (request) => (request.token === eve.token ? 'hang' : undefined), 1);
  const replies = [view(eve), view(alice), view(bob)];
  await until(() => fake.held.length === 1);
  fake.tokens.delete(eve.token);
  fake.release();
  const [hers, his, theirs] = await Promise.all(replies);
  assert.deepEqual([hers.rc, his.rc, theirs.rc], ['UNKNOWN_TOKEN', 'OK', 'OK']);
  assert.equal(fake.seen(members).length, 2);
  fake.rooms.get(room).joined.add(eve.userId);
});

onFake('strangers who ask at the same time as a member', async (t) => {
  const { fake, alice, eve, view } = await pair(t);
  fake.fault(members, 'hang', 1);
  const replies = [view(eve), view(alice)];
  await until(() => fake.held.length === 1);
  fake.release();
  assert.deepEqual((await Promise.all(replies)).map(({ rc }) => rc), ['NOT_FOUND', 'OK']);
});

onFake('a push while the question runs is not lost', async (t) => {
  const { agent, fake, alice, eve, view, room } = await pair(t);
  fake.fault(/m.room.encryption/, 'hang', 1);
  const reply = view(alice);
  await until(() => fake.held.length === 1);
  fake.rooms.get(room).joined.add(eve.userId);
  await agent.do('member', { room, user: eve.userId, membership: 'join' });
  fake.release();
  assert.equal((await reply).rc, 'OK');
  assert.equal((await view(alice)).joined, 3);
});

onFake('a room too large to read is asked about one by one', async (t) => {
  const { fake, alice, bob, eve, view, room } = await pair(t);
  for (let i = 0; i < 40000; i += 1) fake.rooms.get(room).joined.add(`@member-number-${i}:${fake.serverName}`);
  const seen = await view(alice);
  assert.equal(seen.rc, 'OK');
  assert.ok(seen.joined > 100000);
  assert.deepEqual(Object.keys(seen.members), [alice.userId]);
  assert.equal((await view(bob)).rc, 'OK');
  assert.equal((await view(eve)).rc, 'NOT_FOUND');
  assert.equal(fake.seen(members).length, 1);
});

onFake('tokens of users who are gone are let go', async (t) => {
  const { agent, bob, room } = await pair(t);
  await agent.do('seen', { user: bob.userId });
  await until(async () => (await agent.do('cached', { room, user: bob.userId })).joined);
  assert.equal((await agent.do('view-any', { room })).rc, 'OK');
  await until(async () => {
    await agent.do('advance', { ms: 901000 }); // again: a question before the tokens go is answered, and that serves for a while
    return (await agent.do('view-any', { room })).rc === 'NOT_FOUND';
  });
});

onFake('ending while questions are open', async (t) => {
  const { agent, fake, alice, bob, view } = await pair(t);
  fake.fault(/./, 'hang');
  const replies = [view(alice), view(bob)];
  await agent.do('seen', { user: alice.userId });
  replies.push(agent.do('ignored', { user: bob.userId, by: alice.userId }));
  await until(() => fake.held.length >= 4);
  agent.child.stdin.end();
  assert.deepEqual((await Promise.all(replies)).map(({ rc }) => rc), ['HOMESERVER', 'HOMESERVER', undefined]);
});
