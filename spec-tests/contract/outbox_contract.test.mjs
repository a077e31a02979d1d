// The outbox: what arrives in the room, in which order, and what becomes of rows when things go wrong.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { until } from '../lib/until.mjs';
import { know, onFake, setUp } from './fetch_agent.mjs';

const send = /PUT .*\/send\//;
const ranks = { invite: 0, answer: 1, select_answer: 2, reject: 2, hangup: 3, candidates: 9, negotiate: 9 };
const candidate = (n) => ({ candidate: `candidate:${n}`, sdpMLineIndex: 0 });
const limited = { status: 429, body: { errcode: 'M_LIMIT_EXCEEDED', retry_after_ms: 5000 } };

async function pair(t) {
  const world = await setUp(t);
  const { agent, fake } = world;
  const [alice, bob] = [await world.newUser(), await world.newUser()];
  await know(agent, alice, bob);
  const room = await alice.roomWith(bob);
  fake?.requests.splice(0);
  let ord = 0;
  const row = (user, kind, call, more = {}) => {
    ord += 1;
    const { list, party = 'PARTY001', ...rest } = more;
    return { txn: `${kind}-${ord}-${randomUUID().slice(0, 6)}`, room, user: user.userId, call, type: `m.call.${kind}`,
      rank: ranks[kind], ord, inMs: 0, forMs: 60000,
      content: { call_id: call, party_id: party, version: '1', ord, ...(list && { candidates: list }) }, ...rest };
  };
  const queue = (...rows) => agent.do('send', { rows });
  const timeline = async (call) => (await alice.callEvents(room, call)).map(({ type, content }) => ({ type: type.slice(7), ...content }));
  const types = async (call) => (await timeline(call)).map(({ type }) => type);
  return { ...world, alice, bob, room, row, queue, timeline, types, call: `z${randomUUID().slice(0, 20)}` };
}

/** Waits until rows have ended, and checks how. */
async function ended(agent, rc, ...rows) {
  for (const { txn } of rows) assert.equal((await agent.finished(txn)).rc, rc, txn);
}

test('an event arrives with its content, and the owner learns its id', async (t) => {
  const { agent, alice, room, row, queue, call } = await pair(t);
  const invite = row(alice, 'invite', call);
  await queue(invite);
  const done = await agent.finished(invite.txn);
  const [event] = await alice.callEvents(room, call);
  assert.deepEqual([done.rc, done.left, done.eventId], ['ok', 0, event.event_id]);
  assert.deepEqual([event.type, event.sender, event.content], ['m.call.invite', alice.userId, invite.content]);
  assert.deepEqual(agent.named('store.done').map(({ txn }) => txn), [invite.txn]);
  assert.deepEqual([agent.named('tried').length, agent.named('store.tried').length], [1, 1]);
});

test('within a call the order is that of the ranks, over both users', async (t) => {
  const { agent, alice, bob, row, queue, types, call } = await pair(t);
  const rows = [row(alice, 'hangup', call), row(alice, 'select_answer', call), row(bob, 'answer', call), row(alice, 'invite', call)];
  await queue(...rows);
  await ended(agent, 'ok', ...rows);
  assert.deepEqual(await types(call), ['invite', 'answer', 'select_answer', 'hangup']);
});

test('candidates wait for their time and their invite, then go as one event', async (t) => {
  const { agent, alice, bob, row, queue, timeline, call } = await pair(t);
  const early = [1, 2, 3].map((n) => row(alice, 'candidates', call, { list: [candidate(n)], inMs: 500 }));
  const late = row(alice, 'candidates', call, { list: [candidate(4), { candidate: '' }], inMs: 2500 });
  const others = row(bob, 'candidates', call, { list: [candidate(5)], party: 'PARTY002', inMs: 500 });
  await queue(...early, late, others, row(alice, 'invite', call), row(bob, 'answer', call, { party: 'PARTY002' }));
  await until(async () => (await timeline(call)).length === 2);
  await agent.do('advance', { ms: 501 });
  await ended(agent, 'ok', ...early, others);
  await agent.do('advance', { ms: 2001 });
  await ended(agent, 'ok', late);
  const lists = (await timeline(call)).filter(({ type }) => type === 'candidates');
  assert.equal(lists.length, 3);
  const of = (party) => lists.filter(({ party_id: id }) => id === party).map(({ candidates }) => candidates);
  assert.deepEqual(of('PARTY001'), [[1, 2, 3].map(candidate), [candidate(4), { candidate: '' }]]);
  assert.deepEqual(of('PARTY002'), [[candidate(5)]]);
  assert.deepEqual(lists[0].version, '1');
});

test('one user, two parties: their candidates stay apart', async (t) => {
  const { agent, alice, row, queue, timeline, call } = await pair(t);
  const rows = ['PARTY001', 'PARTY002', 'PARTY001'].map((party, n) => row(alice, 'candidates', call, { list: [candidate(n)], party }));
  await queue(...rows);
  await ended(agent, 'ok', ...rows);
  assert.deepEqual((await timeline(call)).map(({ party_id: id, candidates }) => [id, candidates.length]), [['PARTY001', 2], ['PARTY002', 1]]);
});

test('a negotiation goes before the candidates made after it', async (t) => {
  const { agent, alice, row, queue, types, call } = await pair(t);
  const rows = [row(alice, 'negotiate', call), row(alice, 'candidates', call, { list: [candidate(1)] })];
  await queue(rows[1], rows[0]);
  await ended(agent, 'ok', ...rows);
  assert.deepEqual(await types(call), ['negotiate', 'candidates']);
});

test('a hang-up goes ahead of other calls of its user', async (t) => {
  const { agent, alice, row, queue, types, call } = await pair(t);
  const waiting = [row(alice, 'candidates', 'zother', { list: [candidate(1)] }), row(alice, 'negotiate', 'zthird')];
  const hangup = row(alice, 'hangup', call);
  await queue(...waiting, hangup);
  await ended(agent, 'ok', ...waiting, hangup);
  assert.equal((await types(undefined))[0], 'hangup');
});

test('the same row twice is one event', async (t) => {
  const { agent, alice, row, queue, types, call } = await pair(t);
  const invite = row(alice, 'invite', call);
  await queue(invite, invite);
  await queue(invite);
  await ended(agent, 'ok', invite);
  await until(async () => (await agent.do('outbox-stats')).waiting === 0);
  assert.deepEqual(await types(call), ['invite']);
});

test('an invite is sent when the store has noted the attempt, not before', async (t) => {
  const { agent, alice, row, queue, types, call } = await pair(t);
  await agent.do('hold-tried');
  const invite = row(alice, 'invite', call);
  await queue(invite);
  await until(() => agent.named('store.tried').length === 1);
  assert.deepEqual(await types(call), []);
  // From here on it counts as tried: dropping comes too late.
  await agent.do('drop', { call, all: true });
  await agent.do('store-done');
  await ended(agent, 'ok', invite);
  assert.deepEqual(await types(call), ['invite']);
});

test('an invite whose note took until its deadline is not sent any more', async (t) => {
  const { agent, alice, row, queue, types, call } = await pair(t);
  await agent.do('hold-tried');
  const invite = row(alice, 'invite', call);
  await queue(invite);
  await until(() => agent.named('store.tried').length === 1);
  await agent.do('advance', { ms: 60001 });
  await agent.do('store-done');
  await ended(agent, 'expired', invite);
  const next = row(alice, 'hangup', `${call}2`);
  await queue(next);
  await ended(agent, 'ok', next);
  assert.deepEqual(await types(undefined), ['hangup']);
});

test('what was not tried can be dropped', async (t) => {
  const { agent, alice, bob, row, queue, types, call } = await pair(t);
  const later = { inMs: 60000, forMs: 120000 };
  const list = [candidate(1)];
  await queue(row(alice, 'invite', call, later), row(alice, 'candidates', call, { ...later, list }), row(bob, 'answer', call, later));
  await agent.do('drop', { call, all: true });
  assert.equal((await agent.do('outbox-stats')).waiting, 0);
  const hangup = row(alice, 'hangup', call);
  await queue(row(alice, 'candidates', call, { ...later, list }), row(alice, 'negotiate', call, later), hangup);
  await agent.do('drop', { call });
  await ended(agent, 'ok', hangup);
  assert.deepEqual(await types(call), ['hangup']);
  assert.equal(agent.named('finished').length, 1);
});

test('a token that was refused is replaced, and the event still arrives once', async (t) => {
  const { agent, alice, row, queue, types, call } = await pair(t);
  const device = await alice.logIn('SECOND');
  await alice.logOut();
  const [invite, hangup] = [row(alice, 'invite', call), row(alice, 'hangup', call)];
  await queue(invite, hangup);
  await until(() => agent.named('token-refused').length === 1);
  assert.equal((await agent.do('outbox-stats')).waiting, 2);
  await agent.do('principal', { user: alice.userId, token: device.token, ready: true });
  await ended(agent, 'ok', invite, hangup);
  assert.deepEqual((await device.callEvents(invite.room, call)).map(({ type }) => type), ['m.call.invite', 'm.call.hangup']);
  assert.deepEqual(await types(call).catch(() => 'signed out'), 'signed out');
});

test('without a token rows wait, and end when it is too late', async (t) => {
  const { agent, alice, row, queue, types, call } = await pair(t);
  const token = alice.token;
  await agent.do('no-principal', { user: alice.userId });
  const [first, second] = [row(alice, 'hangup', call), row(alice, 'hangup', `${call}2`, { forMs: 600000 })];
  await queue(first, second);
  await agent.do('advance', { ms: 60001 });
  await ended(agent, 'no-token', first);
  assert.deepEqual(await types(call), []);
  await agent.do('principal', { user: alice.userId, token, ready: true });
  await ended(agent, 'ok', second);
});

test('an invite that was tried may have arrived: too late, its hang-up follows all the same', async (t) => {
  const { agent, alice, row, queue, types, call } = await pair(t);
  const token = alice.token;
  await agent.do('no-principal', { user: alice.userId }); // as after a restart, until it is loaded
  const [invite, hangup] = [row(alice, 'invite', call, { tried: true, restored: true }), row(alice, 'hangup', call, { forMs: 600000 })];
  await queue(invite, hangup);
  await agent.do('advance', { ms: 60001 });
  await ended(agent, 'expired', invite);
  await agent.do('principal', { user: alice.userId, token, ready: true });
  await ended(agent, 'ok', hangup);
  assert.deepEqual(await types(call), ['hangup']);
});

test('an answer that cannot be sent does not keep the hang-up for long', async (t) => {
  const { agent, alice, bob, row, queue, types, call } = await pair(t);
  await agent.do('no-principal', { user: bob.userId });
  const [answer, hangup] = [row(bob, 'answer', call, { forMs: 7200000 }), row(alice, 'hangup', call, { forMs: 600000 })];
  await queue(answer, hangup);
  await agent.do('advance', { ms: 10001 });
  await ended(agent, 'no-token', answer);
  await ended(agent, 'ok', hangup);
  assert.deepEqual(await types(call), ['hangup']);
});

test('who may not write in the room is refused, once', async (t) => {
  const { agent, bob, row, queue, call } = await pair(t);
  const { room } = row(bob, 'invite', call);
  await bob.leave(room);
  const invite = row(bob, 'invite', call);
  await queue(invite);
  await ended(agent, 'refused', invite);
  assert.equal(agent.named('store.tried').length, 1);
  assert.equal(agent.named('store.done').length, 1);
});

onFake('an event that is too large is refused', async (t) => {
  const { agent, fake, alice, row, queue, call } = await pair(t);
  fake.fault(send, { status: 413, body: { errcode: 'M_TOO_LARGE' } }, 1);
  const invite = row(alice, 'invite', call);
  await queue(invite);
  await ended(agent, 'refused', invite);
  assert.equal(fake.seen(send).length, 1);
});

onFake('path segments are encoded', async (t) => {
  const { agent, fake, alice, row, queue, room, call } = await pair(t);
  const invite = row(alice, 'invite', call, { txn: 'calld.1/2 ü?#' });
  await queue(invite);
  await ended(agent, 'ok', invite);
  assert.equal(fake.seen(send)[0].path,
    `/_matrix/client/v3/rooms/${encodeURIComponent(room).replace('!', '%21')}/send/m.call.invite/${encodeURIComponent(invite.txn)}`);
});

onFake('a rate limit holds the user, not the daemon, and the hang-up goes first afterwards', async (t) => {
  const { agent, fake, alice, bob, row, queue, types, call } = await pair(t);
  fake.fault(send, (request) => (request.token === alice.token ? limited : undefined), 1);
  const candidates = row(alice, 'candidates', 'zother', { list: [candidate(1)] });
  await queue(candidates);
  await until(() => fake.seen(send).length === 1);
  const [hangup, his] = [row(alice, 'hangup', call), row(bob, 'hangup', 'zbobs')];
  await queue(hangup, his);
  await ended(agent, 'ok', his);
  assert.equal(fake.seen(send).length, 2);
  assert.equal((await agent.do('outbox-stats')).rateLimited, 1);
  await agent.do('advance', { ms: 5201 });
  await ended(agent, 'ok', candidates, hangup);
  assert.deepEqual(await types(undefined), ['hangup', 'hangup', 'candidates']);
});

onFake('an outage is waited for, and nothing arrives twice', async (t) => {
  const { agent, fake, alice, row, queue, types, call } = await pair(t);
  const invite = row(alice, 'invite', call);
  for (const trouble of [{ status: 502, raw: '<html>' }, 'truncate', { status: 500, body: {} }]) fake.fault(send, trouble, 1);
  const began = Date.now();
  let ahead = 0;
  await queue(invite);
  await until(() => agent.named('store.tried').length === 1);
  await until(async () => !(await agent.do('outbox-stats')).up);
  await until(async () => {
    await agent.do('advance', { ms: 500 });
    ahead += 500;
    return agent.named('finished').length === 1;
  });
  assert.ok(ahead + Date.now() - began >= 7000, 'back-off of 1, 2 and 4 s');
  await ended(agent, 'ok', invite);
  assert.equal((await agent.do('outbox-stats')).up, true);
  assert.deepEqual(agent.named('store.tried').map(({ attempts }) => attempts), [1, 2, 3, 4]);
  assert.equal(agent.named('tried').length, 1);
  assert.equal(new Set(fake.seen(send).map(({ path }) => path)).size, 1);
  assert.deepEqual(await types(call), ['invite']);
});

onFake('a lost answer is repeated with the same transaction id', async (t) => {
  const { agent, fake, alice, row, queue, types, call } = await pair(t);
  fake.fault(send, 'hang', 1);
  const [invite, hangup] = [row(alice, 'invite', call), row(alice, 'hangup', call)];
  await queue(invite, hangup);
  await until(() => fake.held.length === 1);
  await agent.do('advance', { ms: 15001 });
  fake.release(); // it did arrive; only the answer was lost
  await until(async () => (await types(call)).length === 1);
  await until(async () => {
    await agent.do('advance', { ms: 1300 });
    return agent.named('finished').length === 2;
  });
  assert.deepEqual(await types(call), ['invite', 'hangup']);
});

onFake('candidates that were tried together stay together, and take nobody along', async (t) => {
  const { agent, fake, alice, row, queue, timeline, call } = await pair(t);
  fake.fault(send, { status: 500, body: {} }, 1);
  const rows = [1, 2, 3].map((n) => row(alice, 'candidates', call, { list: [candidate(n)] }));
  await queue(rows[0], rows[1]);
  await until(() => agent.named('store.tried').length === 2);
  await queue(rows[2]);
  await until(async () => {
    await agent.do('advance', { ms: 1300 });
    return agent.named('finished').length === 3;
  });
  assert.deepEqual((await timeline(call)).map(({ candidates }) => candidates.length), [2, 1]);
  const [first, again] = fake.seen(send);
  assert.deepEqual([first.path, first.body], [again.path, again.body]);
});

onFake('nothing is sent after its deadline', async (t) => {
  const { agent, fake, alice, row, queue, types, call } = await pair(t);
  await fake.goAway();
  const rows = [row(alice, 'invite', call), row(alice, 'candidates', call, { list: [candidate(1)] })];
  await queue(...rows);
  await until(() => agent.named('tried').length === 1);
  await agent.do('advance', { ms: 60001 });
  await ended(agent, 'expired', ...rows);
  await fake.comeBack();
  const hangup = row(alice, 'hangup', call);
  await queue(hangup);
  await until(async () => {
    await agent.do('advance', { ms: 1300 });
    return agent.named('finished').length === 3;
  });
  assert.deepEqual(await types(call), ['hangup']);
});

onFake('after a hang-up no candidates follow, tried or not', async (t) => {
  const { agent, fake, alice, row, queue, types, call } = await pair(t);
  fake.fault(send, limited, 1);
  const tried = row(alice, 'candidates', call, { list: [candidate(1)] });
  await queue(tried);
  await until(() => fake.seen(send).length === 1);
  await until(async () => (await agent.do('outbox-stats')).rateLimited === 1);
  fake.fault(send, 'hang', 1);
  const flying = row(alice, 'candidates', `${call}2`, { list: [candidate(2)] });
  await queue(flying);
  await agent.do('drop', { call });
  assert.deepEqual(agent.named('store.done').map(({ txn }) => txn), [tried.txn]);
  await agent.do('advance', { ms: 5201 });
  await until(() => fake.held.length === 1);
  await agent.do('drop', { call: `${call}2` });
  fake.faults = [{ pattern: send, answer: { status: 500, body: {} }, times: 0 }];
  await agent.do('advance', { ms: 15001 });
  await ended(agent, 'expired', flying);
  assert.deepEqual(await types(call), []);
});

onFake('eight users at once, one request each', async (t) => {
  const { agent, fake, row, queue, call } = await pair(t);
  const rows = Array.from({ length: 20 }, (_, n) => ({ ...row({ userId: `@u${n}:${fake.serverName}` }, 'hangup', `${call}${n}`) }));
  for (const { user } of rows) await agent.do('principal', { user, token: fake.addToken(user) });
  fake.fault(send, 'hang', 8);
  fake.fault(send, { status: 200, body: { event_id: '$x' } });
  await queue(...rows, ...rows.map((r) => ({ ...r, txn: `${r.txn}b`, call: `${r.call}b` })));
  await until(() => fake.held.length === 8);
  assert.equal(new Set(fake.seen(send).map(({ token }) => token)).size, 8);
  fake.release();
  await until(() => agent.named('finished').length === 40);
});

onFake('ending with rows in every state', async (t) => {
  const { agent, fake, alice, bob, row, queue, call } = await pair(t);
  await agent.do('hold-tried');
  fake.fault(send, 'hang');
  await queue(row(alice, 'invite', call), row(alice, 'hangup', call), row(bob, 'candidates', 'zother', { list: [candidate(1)] }),
    row(bob, 'candidates', 'zother', { list: [candidate(2)] }), row(bob, 'hangup', 'zlater', { inMs: 5000 }));
  await until(() => fake.held.length === 1 && agent.named('store.tried').length === 3);
});
