// PostgreSQL is killed while two Chromiums are in a call: media flows, mute works, hang-up works, and everything stands
// in the tables when it is back.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { launchProfiles } from '../lib/browser.mjs';
import { CallPage } from '../lib/call-page.mjs';
import { Mortal } from '../lib/kill9.mjs';
import { ownPostgres } from '../lib/own-postgres.mjs';
import { query, quote, startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
let stack;
let database;
let daemon;
let profiles = [];

before(async () => {
  [stack, database, profiles] = await Promise.all([startStack({ daemon: false }), ownPostgres(), launchProfiles(2)]);
  const text = readFileSync(stack.info.config, 'utf8').replace(/^url = postgresql.*$/m, `url = ${database.url}`)
    .replace(/^spool_dir =.*$/m, `spool_dir = ${join(stack.directory, 'own-spool')}`);
  assert.ok(text.includes(database.url));
  writeFileSync(stack.info.config, text, { mode: 0o600 });
  daemon = new Mortal(stack.info.config);
  await daemon.start();
}, { timeout: 180000 });

after(async () => {
  await Promise.all(profiles.map((profile) => profile.close()));
  if (daemon?.child?.exitCode === null && daemon.child.signalCode === null) await daemon.stop();
  await database?.stop();
  await stack?.stop();
}, limit);

const degraded = async () => (await (await fetch(`${stack.daemon}/ready`)).json()).degraded;

test('PostgreSQL is killed in mid-call: media, mute and hang-up go on, the rows appear when it is back', limit, async () => {
  const pair = await stack.newPair();
  const [a, b] = await Promise.all([CallPage.open(profiles[0], stack, pair.caller, pair.roomId),
    CallPage.open(profiles[1], stack, pair.callee, pair.roomId)]);
  const callId = await a.place();
  assert.equal(await b.waitForIncoming(), callId);
  await b.answer();
  await Promise.all([a.waitForState('connected'), b.waitForState('connected')]);
  await Promise.all([a.expectMedia(), b.expectMedia()]);

  await database.kill();
  await a.click('mute');
  await b.waitForRemote('audio', false);
  assert.deepEqual(await degraded(), ['postgresql']);
  const { framesDecoded } = await b.media();
  await until(async () => (await b.media()).framesDecoded > framesDecoded + 30, { what: 'further frames' });
  await b.click('camera');
  await a.waitForRemote('video', false);
  await a.hangUp();
  const [end] = await Promise.all([a.waitForEnd(), b.waitForEnd()]);
  assert.equal(end.status, 'ended');
  const second = await b.place(); // and the next one rings
  assert.equal(await a.waitForIncoming(), second);
  await a.reject();
  await b.waitForEnd();

  await database.start();
  await until(async () => (await degraded()).length === 0, { what: 'the database to be used again', seconds: 40 });
  const rows = await query(database.url, `SELECT status, end_reason, ended_by FROM call_sessions
    WHERE id IN (${quote(callId)}, ${quote(second)}) ORDER BY initiated_at`);
  assert.deepEqual(rows, [
    { status: 'ended', end_reason: 'user_hangup', ended_by: pair.caller.userId },
    { status: 'declined', end_reason: rows[1].end_reason, ended_by: pair.caller.userId }]);
  const twice = await query(database.url, `SELECT event_type FROM call_events WHERE call_session_id = ${quote(callId)}
    AND event_type IN ('initiated', 'ended') GROUP BY 1 HAVING count(*) <> 1`);
  assert.deepEqual(twice, []);
  await Promise.all([a.close(), b.close()]);
});
