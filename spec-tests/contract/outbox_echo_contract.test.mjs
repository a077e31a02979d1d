// The outbox and a homeserver that goes away: is it asked by one request at a time, and is an event that arrived without
// our hearing of it found instead of sent again?

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { until } from '../lib/until.mjs';
import { know, setUp } from './fetch_agent.mjs';

const send = /PUT .*\/send\//;
const look = /GET .*\/messages\?/;
const ranks = { invite: 0, answer: 1, hangup: 3, candidates: 9, sdp_stream_metadata_changed: 9 };
const candidate = (n) => ({ candidate: `candidate:${n}`, sdpMLineIndex: 0 });

async function pair(t, { connected = true } = {}) {
  const world = await setUp(t);
  const { agent, fake } = world;
  const [alice, bob] = [await world.newUser(), await world.newUser()];
  if (connected) await know(agent, alice, bob);
  else await agent.do('principal', { user: alice.userId, token: alice.token });
  const room = await alice.roomWith(bob);
  fake.requests.splice(0);
  const call = `z${randomUUID().slice(0, 20)}`;
  let ord = 0;
  const row = (kind, content = {}, more = {}) => {
    ord += 1;
    return { txn: `${kind}-${ord}-${randomUUID().slice(0, 6)}`, room, user: alice.userId, call, type: `m.call.${kind}`,
      rank: ranks[kind], ord, inMs: 0, forMs: 60000,
      content: { call_id: call, party_id: 'PARTY001', version: '1', ...content }, ...more };
  };
  const queue = (...rows) => agent.do('send', { rows });
  const stats = () => agent.do('outbox-stats');
  const contents = async (kind) => (await alice.callEvents(room, call))
    .filter(({ type }) => type === `m.call.${kind}`).map(({ content }) => content);
  const finish = (n) => until(async () => {
    await agent.do('advance', { ms: 1300 });
    return agent.named('finished').length === n;
  }, { what: `${n} rows finished` });
  /** `rows` arrive, their answer does not, and the homeserver forgets that it saw them. */
  const loseAnswer = async (...rows) => {
    fake.fault(send, (request) => {
      fake.rooms.get(room).timeline.push({ type: rows[0].type, sender: alice.userId, content: request.body, event_id: '$1' });
      return 'truncate'; // a reset on a kept connection is repeated by curl itself
    }, 1);
    await queue(...rows);
    await until(async () => (await stats()).away, { what: 'the loss to be noticed' });
  };
  return { ...world, alice, bob, room, call, row, queue, stats, contents, finish, loseAnswer };
}

test('without looking, a homeserver that forgets transaction ids would have the event twice', async (t) => {
  const { alice, fake, room, contents } = await pair(t);
  const path = `/rooms/${encodeURIComponent(room)}/send/m.call.invite/same`;
  await alice.api('PUT', path, { call_id: 'x' });
  await alice.api('PUT', path, { call_id: 'x' });
  assert.equal(fake.rooms.get(room).timeline.length, 1);
  fake.forget();
  await alice.api('PUT', path, { call_id: 'x' });
  assert.equal(fake.rooms.get(room).timeline.length, 2);
  assert.deepEqual(await contents('invite'), []);
});

for (const kind of ['invite', 'answer', 'hangup']) {
  test(`${kind}: arrived without an answer, it is found and not sent again`, async (t) => {
    const { agent, fake, row, stats, contents, finish, loseAnswer } = await pair(t);
    const one = row(kind);
    await loseAnswer(one);
    await finish(1);
    assert.equal((await agent.finished(one.txn)).rc, 'ok');
    assert.equal((await contents(kind)).length, 1);
    assert.equal(fake.seen(send).length, 1);
    const { found, missing, sent } = await stats();
    assert.deepEqual({ found, missing, sent }, { found: 1, missing: 0, sent: 1 });
  });
}

test('lost on its way, it is looked for and sent again', async (t) => {
  const { fake, row, queue, stats, contents, finish } = await pair(t);
  fake.fault(send, 'truncate', 1);
  await queue(row('invite'));
  await finish(1);
  assert.equal((await contents('invite')).length, 1);
  assert.equal(fake.seen(send).length, 2);
  const { found, missing } = await stats();
  assert.deepEqual({ found, missing }, { found: 0, missing: 1 });
});

test('refused connections leave nothing unknown: nobody looks', async (t) => {
  const { fake, row, queue, stats, contents, finish } = await pair(t, { connected: false });
  await fake.goAway();
  await queue(row('invite'));
  await until(async () => (await stats()).away);
  await fake.comeBack();
  await finish(1);
  assert.equal(fake.seen(look).length, 0);
  assert.equal((await contents('invite')).length, 1);
});

test('who may not read the room sends again', async (t) => {
  const { fake, row, queue, contents, finish } = await pair(t);
  fake.fault(look, { status: 403, body: { errcode: 'M_FORBIDDEN' } }, 1);
  fake.fault(send, 'truncate', 1);
  await queue(row('hangup'));
  await finish(1);
  assert.equal(fake.seen(look).length, 1);
  assert.equal(fake.seen(send).length, 2);
  assert.equal((await contents('hangup')).length, 1);
});

test('another party of the same user is no echo', async (t) => {
  const { alice, room, row, queue, contents } = await pair(t);
  await alice.send(room, 'm.call.hangup', { ...row('hangup').content, party_id: 'PARTY002' });
  await queue(row('hangup', {}, { restored: true }));
  await until(async () => (await contents('hangup')).length === 2);
});

test('candidates that went out as one event are found one by one by the next process', async (t) => {
  const { agent, alice, room, fake, row, queue, stats, contents, call } = await pair(t);
  const rows = [1, 2, 3, 4].map((n) => row('candidates', { candidates: [candidate(n)] }, { restored: true, tried: n === 1 }));
  await alice.send(room, 'm.call.candidates', { version: '1', party_id: 'PARTY001', call_id: call,
    candidates: [{ sdpMLineIndex: 0, candidate: 'candidate\u003a1' }, candidate(2), candidate(3)] });
  const before = fake.seen(send).length;
  await queue(...rows);
  await until(() => agent.named('finished').length === 4);
  assert.deepEqual((await contents('candidates')).map(({ candidates }) => candidates.length), [3, 1]);
  assert.equal(fake.seen(send).length, before + 1);
  assert.equal((await stats()).found, 3);
});

test('what is said again is only found as the last word, unless the transaction id says so', async (t) => {
  const { alice, agent, room, row, queue, contents, fake } = await pair(t);
  const kind = 'sdp_stream_metadata_changed';
  const say = (muted) => row(kind, { sdp_stream_metadata: { s: { audio_muted: muted } } }, { restored: true });
  for (const muted of [true, false]) await alice.send(room, `m.call.${kind}`, say(muted).content);
  await queue(say(false));
  await until(() => agent.named('finished').length === 1);
  assert.equal((await contents(kind)).length, 2);
  await queue(say(true));
  await until(() => agent.named('finished').length === 2);
  assert.equal((await contents(kind)).length, 3);
  const known = say(false);
  const { timeline } = fake.rooms.get(room);
  timeline.find(({ type, content }) => type === `m.call.${kind}` && !content.sdp_stream_metadata.s.audio_muted)
    .unsigned = { transaction_id: known.txn };
  await queue(known);
  await until(() => agent.named('finished').length === 3);
  assert.equal((await contents(kind)).length, 3);
});

test('an event whose deadline passes while it is looked for is not sent', async (t) => {
  const { agent, fake, row, queue, stats, contents } = await pair(t);
  fake.fault(look, 'hang', 1);
  const late = row('invite', {}, { restored: true, forMs: 5000 });
  await queue(late);
  await until(() => fake.held.length === 1);
  await agent.do('advance', { ms: 5001 });
  assert.equal((await agent.finished(late.txn)).rc, 'expired');
  fake.release();
  assert.deepEqual(await contents('invite'), []);
  assert.equal((await stats()).missing, 0);
});

test('a homeserver that is away is asked by one request at a time, and all goes out when it is back', async (t) => {
  const { agent, fake, stats, call, room } = await pair(t);
  const rows = [];
  for (let n = 0; n < 40; n += 1) {
    const user = `@w${n}:${fake.serverName}`;
    await agent.do('principal', { user, token: fake.addToken(user) });
    fake.rooms.get(room).joined.add(user);
    rows.push({ txn: `t${n}`, room, user, call: `${call}${n}`, type: 'm.call.hangup', rank: 3, ord: 1, inMs: 0, forMs: 600000,
      content: { call_id: `${call}${n}`, party_id: 'P', version: '1' } });
  }
  fake.fault(/./, { status: 502, raw: 'a proxy' });
  await agent.do('send', { rows });
  await until(async () => (await stats()).away);
  await until(() => fake.seen(send).length === 8, { what: 'the first eight, which did not know' });
  for (let n = 1; n <= 4; n += 1) {
    const before = fake.seen(/./).length;
    assert.equal(before, 7 + n);
    await until(async () => {
      await agent.do('advance', { ms: 500 });
      return fake.seen(/./).length > before;
    }, { what: `probe ${n}` });
    await until(async () => (await stats()).backOffMs > 0);
  }
  const { backOffMs, oldestMs, waiting } = await stats();
  assert.ok(backOffMs > 8000, 'it asks more and more seldom');
  assert.ok(oldestMs > 10000, 'and says how long events have waited');
  assert.equal(waiting, 40);
  fake.heal();
  await until(async () => {
    await agent.do('advance', { ms: 500 });
    return agent.named('finished').length === 40;
  });
  assert.equal((await stats()).away, false);
  assert.equal(fake.rooms.get(room).timeline.length, 40);
});
