// What the database holds of one user: given out as JSON, and made nobody's without taking it from the others.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import test, { after, before } from 'node:test';
import { promisify } from 'node:util';
import { startDev } from '../lib/dev-daemon.mjs';
import { startPostgres } from '../lib/postgres.mjs';
import { answerOf, offerOf } from '../lib/sdp.mjs';
import { binary, execute, query } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const run = promisify(execFile);
const limit = { timeout: 120000 };
const alice = '@alice:dev';
let postgres;
let dev;

before(async () => {
  postgres = await startPostgres();
  dev = await startDev({ env: { DATABASE_URL: postgres.url } });
}, limit);

after(async () => {
  if (dev?.child.exitCode === null) assert.equal(await dev.stop(), 0);
  await postgres?.stop();
}, limit);

/** The command as an administrator gives it: {code, stdout, stderr}. */
async function command(...args) {
  try {
    return { code: 0, ...await run(binary, args, { env: { ...process.env, DATABASE_URL: postgres.url,
      CALLD_MATRIX_HOMESERVER_URL: '', CALLD_MATRIX_SEAL_KEY_FILE: `${dev.directory}/seal.key` } }) };
  } catch (error) {
    return error;
  }
}

async function ringing(room, caller, callee) {
  const call = await dev.as(caller).post('/api/calls/initiate', { roomId: room, invitees: [`@${callee}:dev`],
    offer: offerOf('o') }, { headers: { 'Idempotency-Key': `start of ${room}` } });
  assert.equal(call.status, 201, JSON.stringify(call.body));
  return call.body.callId;
}

async function ended(room, caller, callee) {
  const callId = await ringing(room, caller, callee);
  for (const [who, what, body] of [[callee, 'answer', { answer: answerOf('a') }], [caller, 'connected', {}], [callee, 'end', {}]]) {
    assert.equal((await dev.as(who).post(`/api/calls/${callId}/${what}`, body)).status, 200, what);
  }
  return callId;
}

/** Everything in the schema, as one text. */
async function dump() {
  const tables = await query(postgres.url, "SELECT tablename FROM pg_tables WHERE schemaname = 'calld'");
  const texts = await Promise.all(tables.map(async ({ tablename }) => {
    const rows = await query(postgres.url, `SELECT t::text AS row FROM calld.${tablename} t`);
    return rows.map(({ row }) => `${tablename}: ${row}`).join('\n');
  }));
  return texts.join('\n');
}

test('a user is given out, refused while in a call, then erased; the others keep their history', limit, async () => {
  const calls = [await ended('!one:dev', 'alice', 'bob'), await ended('!two:dev', 'carol', 'alice')];
  await ended('!three:dev', 'bob', 'carol');
  const namesake = '@alice:dev.example'; // another user, whose id begins like hers
  await execute(postgres.url, `INSERT INTO room_members (room_id, user_id, joined, display_name)
      VALUES ('!one:dev', '${alice}', true, 'Alice Liddell'), ('!one:dev', '@bob:dev', true, 'Bob');
    UPDATE call_participants SET display_name = 'Alice Liddell' WHERE user_id = '${alice}';
    UPDATE call_events SET event_data = jsonb_build_object('by', '${alice}', 'text', 'of ${alice}.',
      'others', '${namesake} ${alice}-x ${alice}:8448') WHERE call_session_id = '${calls[0]}' AND seq =
        (SELECT min(seq) FROM call_events WHERE call_session_id = '${calls[0]}');
    INSERT INTO event_inbox (reason, size_bytes, raw) VALUES ('broken', 1, '{"sender":"${alice}"'), ('broken', 1, 'other'),
      ('broken', 1, '{"sender":"${namesake}"')`);

  const given = await command('export-user', alice);
  assert.equal(given.code, 0, given.stderr);
  const person = JSON.parse(given.stdout);
  assert.equal(person.userId, alice);
  assert.deepEqual(person.call_sessions.map((call) => call.id).sort(), [...calls].sort());
  assert.equal(person.call_participants.length, 2);
  assert.ok(person.call_events.length >= 3);
  assert.equal(person.room_members[0].display_name, 'Alice Liddell');
  assert.equal(person.idempotency_keys[0].key, 'start of !one:dev');

  const live = await ringing('!four:dev', 'alice', 'dave');
  const refused = await command('erase-user', alice);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /is in call z\w+, which is not over; end it first/);
  assert.match(await dump(), new RegExp(alice), 'nothing was erased');
  assert.equal((await dev.as('alice').post(`/api/calls/${live}/end`)).status, 200);

  const before = await query(postgres.url, `SELECT id, status, duration_seconds FROM call_sessions ORDER BY id`);
  const erased = await command('erase-user', alice);
  assert.equal(erased.code, 0, erased.stderr);
  assert.match(erased.stdout, /calls changed: 3\n/);
  // The daemon has the last call in memory: it must not write her name again.
  const bystander = dev.as('dave');
  await until(async () => !JSON.stringify((await bystander.get(`/api/calls/${live}`)).body).includes(alice), { what: 'the daemon to forget' });
  const late = await bystander.post(`/api/calls/${live}/end`, {}, { headers: { 'Idempotency-Key': 'late' } });
  assert.equal(late.status, 200);
  assert.match((await query(postgres.url, "SELECT response FROM idempotency_keys WHERE key = 'late'"))[0].response, /@erased-/);
  const everything = await dump();
  assert.ok(everything.includes(`${namesake} ${alice}-x ${alice}:8448`), 'others keep their names');
  assert.match(everything, /of @erased-\w{16}:invalid\./);
  assert.match(everything, new RegExp(`event_inbox: .*${Buffer.from(namesake).toString('hex')}`));
  const left = everything.replaceAll(`${namesake} ${alice}-x ${alice}:8448`, '').replaceAll(Buffer.from(namesake).toString('hex'), '');
  assert.doesNotMatch(left, /alice/i, left.split('\n').filter((line) => /alice/i.test(line)).join('\n'));
  assert.deepEqual(await query(postgres.url, 'SELECT id, status, duration_seconds FROM call_sessions ORDER BY id'), before);
  const [bobs] = await query(postgres.url, `SELECT caller, callee, ended_by FROM call_sessions WHERE id = '${calls[0]}'`);
  assert.match(bobs.caller, /^@erased-\w{16}:invalid$/);
  assert.deepEqual([bobs.callee, bobs.ended_by], ['@bob:dev', '@bob:dev']);
  assert.match(left, /room_members: .*@bob:dev/);
  assert.match(left, /event_inbox: .*broken/, 'what does not name the user stays');

  const again = JSON.parse((await command('export-user', alice)).stdout);
  assert.ok(Object.entries(again).every(([name, rows]) => !Array.isArray(rows) || rows.length === 0 || assert.fail(name)));
});

test('an old user id, with what JSON has to escape, leaves the JSON as well', limit, async () => {
  const old = '@o"ld\\one:dev'; // the specification grants historical ids all of printable ASCII but the colon
  const spelled = JSON.stringify(old).slice(1, -1);
  const id = await ended('!old:dev', 'erin', 'frank');
  await execute(postgres.url, `UPDATE calld.call_participants SET user_id = '${old}' WHERE user_id = '@erin:dev';
    UPDATE calld.call_sessions SET caller = '${old}', metadata = jsonb_build_object('of', '${old}') WHERE id = '${id}';
    UPDATE calld.call_events SET user_id = nullif(user_id, '@erin:dev'), event_data = jsonb_build_object('by', '${old}',
      'others', '${old}-x') WHERE call_session_id = '${id}';
    DELETE FROM calld.idempotency_keys WHERE call_session_id = '${id}';
    INSERT INTO calld.event_inbox (reason, size_bytes, raw) VALUES ('broken', 1, convert_to('{"sender":"${spelled}"', 'UTF8'))`);
  const erased = await command('erase-user', old);
  assert.equal(erased.code, 0, erased.stderr);
  const rows = await query(postgres.url, `SELECT t::text AS row FROM calld.call_sessions t WHERE id = '${id}'
    UNION ALL SELECT t::text FROM calld.call_participants t WHERE call_session_id = '${id}'
    UNION ALL SELECT event_data::text FROM calld.call_events WHERE call_session_id = '${id}'
    UNION ALL SELECT convert_from(raw, 'UTF8') FROM calld.event_inbox WHERE raw LIKE '%ld%one:dev%'::bytea`);
  const text = rows.map(({ row }) => row).join('\n');
  assert.ok(text.includes(`${spelled}-x`), 'another keeps the name');
  assert.doesNotMatch(text.replaceAll(`${spelled}-x`, ''), /ld[\\"]*one/, text);
});

test('without a user id, or without a database, it says what is missing', limit, async () => {
  assert.match((await command('export-user')).stderr, /a user id like @name:server must follow/);
  assert.match((await command('erase-user', 'alice')).stderr, /a user id like @name:server must follow/);
  const { stderr } = await run(binary, ['erase-user', alice], { env: { PATH: process.env.PATH } }).catch((error) => error);
  assert.match(stderr, /database.url is not set/);
});
