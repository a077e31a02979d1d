// What nobody needs goes by itself: rows that are older than they are kept, and answered calls that nobody attends.

import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { startDev } from '../lib/dev-daemon.mjs';
import { startPostgres } from '../lib/postgres.mjs';
import { execute, query } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let postgres;
let dev;
const sql = (text) => query(postgres.url, text);
const count = async (what) => (await sql(`SELECT count(*)::integer AS n FROM ${what}`))[0].n;

before(async () => {
  postgres = await startPostgres();
  dev = await startDev({ env: { DATABASE_URL: postgres.url, CALLD_RETENTION_CALLS_DAYS: '10',
    CALLD_RETENTION_STATS_DAYS: '7', CALLD_RETENTION_SEEN_DAYS: '5', CALLD_RETENTION_INBOX_DAYS: '3',
    CALLD_CALLS_UNATTENDED_SECONDS: '5' } });
}, limit);

after(async () => {
  if (dev?.child.exitCode === null) assert.equal(await dev.stop(), 0);
  await postgres?.stop();
}, limit);

async function answered(room, [caller, callee]) {
  const call = await dev.as(caller).post('/api/calls/initiate', { roomId: room, invitees: [`@${callee}:dev`] });
  assert.equal(call.status, 201, JSON.stringify(call.body));
  const { callId } = call.body;
  assert.equal((await dev.as(callee).post(`/api/calls/${callId}/answer`)).status, 200);
  return callId;
}

const statusOf = async (callId) => (await sql(`SELECT status, end_reason FROM call_sessions WHERE id = '${callId}'`))[0];

test('an answered call that never connects ends when nobody was there for a while; a connected one does not', limit, async () => {
  const alone = await answered('!alone:dev', ['ann', 'ben']);
  const talking = await answered('!talking:dev', ['cleo', 'dan']);
  assert.equal((await dev.as('cleo').post(`/api/calls/${talking}/connected`)).status, 200);
  const end = await until(async () => { // asked of the database: a request of theirs would be somebody there
    const row = await statusOf(alone);
    return row.status !== 'accepted' && row;
  }, { what: 'the end of the call that nobody attends', seconds: 40 });
  assert.deepEqual(end, { status: 'failed', end_reason: 'peer_lost' });
  assert.deepEqual(await statusOf(talking), { status: 'connected', end_reason: null });
  assert.equal((await dev.as('cleo').post(`/api/calls/${talking}/end`)).status, 200);
});

test('a request of a participant is somebody there', limit, async () => {
  const call = await answered('!asked:dev', ['eve', 'fay']);
  const began = Date.now();
  while (Date.now() - began < 9000) { // longer than the patience of 5 s
    const { body } = await dev.as('eve').get(`/api/calls/${call}`);
    assert.equal(body.status, 'accepted');
    await new Promise((resolve) => { setTimeout(resolve, 500); });
  }
  assert.equal((await dev.as('fay').post(`/api/calls/${call}/end`)).status, 200);
});

test('rows go when they are older than they are kept, and no sooner', limit, async () => {
  const old = (days, n) => `'z' || lpad(to_hex((extract(epoch FROM now() - interval '${days} days') * 1000)::bigint), 12, '0')
    || lpad(to_hex(${n}), 20, '0')`;
  await dev.stop();
  await execute(postgres.url, `WITH days (days, n) AS (VALUES (11, 1), (12, 2), (9, 3)), c AS (
    INSERT INTO call_sessions (id, room_id, caller, callee, call_type, kind, media, origin, status, matrix_signalling,
      initiated_at, ended_at, ring_expires_at, ring_seconds, version, seq)
    SELECT CASE days WHEN 11 THEN ${old(11, 1)} WHEN 12 THEN ${old(12, 2)} ELSE ${old(9, 3)} END, '!old' || days || ':dev',
      '@a:dev', '@b:dev', 'video', 'direct', 'p2p', 'rest', 'ended', 'off', now() - make_interval(days => days),
      now() - make_interval(days => days), now(), 60, 2, 2 FROM days RETURNING id, room_id),
    s AS (INSERT INTO call_quality_stats (call_session_id, user_id, packet_loss, captured_at)
      SELECT id, '@a:dev', d, now() - make_interval(days => d) FROM c, (VALUES (6), (8)) AS x(d) WHERE room_id = '!old9:dev'
      RETURNING 1),
    e AS (INSERT INTO seen_events (hash, seen_at) VALUES ('\\x01', now() - interval '6 days'),
      ('\\x02', now() - interval '4 days') RETURNING 1),
    i AS (INSERT INTO event_inbox (reason, size_bytes, raw, received_at) VALUES ('old', 1, 'x', now() - interval '4 days'),
      ('new', 1, 'x', now() - interval '2 days') RETURNING 1),
    m AS (INSERT INTO room_members (room_id, user_id, joined, updated_at) VALUES
      ('!quiet:dev', '@a:dev', true, now() - interval '21 days'), ('!quiet:dev', '@b:dev', true, now() - interval '19 days')
      RETURNING 1) SELECT 1`);
  assert.equal(await count("call_sessions WHERE room_id LIKE '!old%'"), 3);
  dev = await startDev({ env: { DATABASE_URL: postgres.url, CALLD_RETENTION_CALLS_DAYS: '10',
    CALLD_RETENTION_STATS_DAYS: '7', CALLD_RETENTION_SEEN_DAYS: '5', CALLD_RETENTION_INBOX_DAYS: '3',
    CALLD_RETENTION_MEMBERS_DAYS: '20' } });
  await until(async () => await count("event_inbox WHERE reason = 'old'") === 0, { what: 'the old event to go', seconds: 40 });
  const left = await sql("SELECT room_id FROM call_sessions WHERE room_id LIKE '!old%'");
  assert.deepEqual(left.map((row) => row.room_id), ['!old9:dev']);
  assert.deepEqual(await sql('SELECT packet_loss FROM call_quality_stats'), [{ packet_loss: 6 }]);
  assert.equal(await count("seen_events WHERE hash = '\\x01'"), 0);
  assert.equal(await count("seen_events WHERE hash = '\\x02'"), 1);
  assert.equal(await count("event_inbox WHERE reason = 'new'"), 1);
  await until(async () => await count('room_members') === 1, { what: 'the old membership to go', seconds: 20 });
  assert.deepEqual(await sql('SELECT user_id FROM room_members'), [{ user_id: '@b:dev' }]);
  await until(() => dev.said.some((line) => line.includes('rows.expired')), { what: 'a line in the log' });
});
