// Memory runs out under the whole daemon, libraries included: each allocation of a step of a call fails in turn. Then
// somebody is told, nothing crashes or hangs, the same step works when asked for again, and the books are right.
// In the suite a random part of them (OOM_SEED makes it come back), with LONG_TESTS all. By hand: OOM_SECONDS a test,
// OOM_ONLY=STEP,FIRST,LAST,TIMES for some allocations of one step, OOM_SHOW=1 for each walk, OOM_LOG=FILE for the log.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { program, startDaemon } from '../contract/config_kit.mjs';
import { randomOf } from '../lib/kill9.mjs';
import { stumble, Walk } from '../lib/oom-walk.mjs';
import { Faults } from '../lib/oom.mjs';
import { startPostgres } from '../lib/postgres.mjs';
import { query, quote } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const long = Boolean(process.env.LONG_TESTS);
const seed = Number(process.env.OOM_SEED ?? Math.floor(Math.random() * 2 ** 31));
const SECONDS = Number(process.env.OOM_SECONDS ?? (long ? 3600 : 5)); // each test
const PROBLEMS = 12; // after so many a test ends
const HITS = 5; // walks with a fault, at least
const LASTING = 25; // how many fail when more than one does
const UNLIMITED = { 'calls.seat_seconds': 60, 'limits.connections_per_ip': 0, 'limits.starts_per_hour': 0,
  'limits.room_starts_per_hour': 0, 'limits.requests_per_second': 0, 'limits.user_requests_per_second': 0 };
const ENDS = ['ended', 'canceled', 'missed', 'declined', 'rejected', 'failed'];
const directory = mkdtempSync(join(tmpdir(), 'calld-oom-'));
const faults = new Faults(directory);
let database;

before(async () => { database = await startPostgres(); }, { timeout: 60000 });

after(async () => {
  await database?.stop();
  faults.close();
  rmSync(directory, { recursive: true, force: true });
}, { timeout: 60000 });

function shuffled(list, random) {
  for (let at = list.length - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1));
    [list[at], list[other]] = [list[other], list[at]];
  }
  return list;
}

/** All steps of a walk; a fault in one of them. @returns what came of that step, and allocations of each */
async function walkThrough(daemon, ledger, steps, fault, label) {
  const walk = new Walk(daemon, ledger, label);
  if (fault?.transports) walk.transports = fault.transports;
  const outs = [];
  try {
    for (const [at, [name, step]] of steps.entries()) {
      const armed = !fault || fault.at === at ? fault ?? { nth: 2 ** 40 } : null;
      try {
        outs.push(await stumble(daemon, faults, walk, step, armed));
      } catch (error) {
        const where = fault ? `; fault in ${label} at ${await faults.where(program)}` : '';
        throw new Error(`${name}: ${error.message}${where}\n${daemon.log.slice(-6).join('\n')}`, { cause: error });
      }
    }
  } finally {
    walk.close();
  }
  return outs;
}

/** Lost, doubled: the database's rows and what the homeserver was sent against what clients were told. */
async function audit(daemon, url, ledger, since) {
  await until(async () => (await (await daemon.get('/ready')).json()).degraded.length === 0,
    { what: 'the end of all degraded modes', seconds: 60, everyMs: 200 })
    .catch(async (error) => {
      const spool = (await daemon.control('/metrics')).text.match(/^calld_(spool|store|pg|degraded)\S* .*$/gm);
      throw new Error(`${error.message}: ${spool}`, { cause: error });
    });
  let rows;
  await until(async () => (rows = await query(url, 'SELECT * FROM matrix_outbox')).length === 0,
    { what: 'an empty outbox', seconds: 60, everyMs: 200 })
    .catch(async (error) => {
      const waiting = (await daemon.control('/metrics')).text.match(/^calld_(matrix|outbox)_\S+ .*$/gm);
      const sent = [...daemon.homeserver.rooms.values()].flatMap(({ timeline }) => timeline);
      const calls = rows.slice(0, 5).map((row) => `${row.event_type} ${row.call_session_id} of ${row.created_at}, ${
        ledger.get(row.call_session_id)?.label}, in the room: ${sent.filter(({ type, sender, content }) =>
        type === row.event_type && sender === row.user_id && content.call_id === row.call_session_id).length}`);
      throw new Error(`${error.message}: ${rows.length} rows, ${calls.join(', ')}; ${waiting}`, { cause: error });
    });
  const count = (list) => list.reduce((map, key) => map.set(key, (map.get(key) ?? 0) + 1), new Map());
  const sessions = await query(url, `SELECT id, status FROM call_sessions WHERE initiated_at > ${quote(since)}`);
  const types = count((await query(url, 'SELECT call_session_id AS id, event_type AS type FROM call_events'))
    .map(({ id, type }) => `${id} ${ENDS.includes(type) ? 'over' : type}`));
  const sent = count([...daemon.homeserver.rooms.values()].flatMap(({ timeline }) => timeline)
    .filter(({ type }) => /invite|answer|hangup|reject/.test(type))
    .map(({ type, sender, content }) => `${content.call_id} ${type} ${sender}`));
  const labelOf = (id) => ledger.get(id)?.label;
  const typesOf = (id) => [...types.keys()].filter((key) => key.startsWith(id)).map((key) => key.split(' ')[1]);
  const problems = [];
  for (const [id, { types: told, label }] of ledger) {
    for (const type of told) {
      if (!types.has(`${id} ${type}`)) problems.push(`lost: ${type} of ${id} (${label}), there are ${typesOf(id)}`);
    }
  }
  for (const [key, n] of types) {
    if (n > 1 && /(initiated|answered|connected|over)$/.test(key)) {
      problems.push(`doubled: ${key} ${n} times (${labelOf(key.split(' ')[0])})`);
    }
  }
  for (const [key, n] of sent) if (n > 1) problems.push(`doubled in the room: ${key} (${labelOf(key.split(' ')[0])})`);
  for (const { id, status } of sessions) {
    if (!ledger.has(id)) problems.push(`${id} (${status}) was acknowledged by nobody`);
    else if (status !== 'ended') problems.push(`${id} is ${status} (${labelOf(id)})`);
  }
  return problems;
}

async function walkAll(t, steps, { database: url } = {}) {
  const random = randomOf(seed);
  const stored = url ? { 'database.url': url, 'database.spool_dir': join(directory, 'spool'),
    'matrix.seal_key_file': join(directory, 'seal.key') } : {};
  const daemon = await startDaemon(t, { ...UNLIMITED, ...stored }, { env: faults.env });
  const ledger = new Map();
  const since = new Date().toISOString();
  await walkThrough(daemon, ledger, steps, null, 'warm-up');
  const needs = (await walkThrough(daemon, ledger, steps, null, 'counting')).map(({ seen }) => seen);
  const plan = shuffled(needs.flatMap((n, at) => Array.from({ length: Math.ceil(n * 1.1) + 3 }, (_, k) => k + 1)
    .flatMap((nth) => [1, LASTING].map((times) => ({ at, nth, times, all: true })))), random);
  if (process.env.OOM_ONLY) {
    const [at, first, last, times] = process.env.OOM_ONLY.split(',').map(Number);
    plan.splice(0, plan.length, ...Array.from({ length: last - first + 1 },
      (_, k) => ({ at, nth: first + k, times, all: true })));
  }
  const end = Date.now() + SECONDS * 1000;
  const sums = { rounds: 0, hit: 0, faults: 0, told: 0, again: 0, answers: new Map(), failed: [] };
  for (const fault of plan) {
    if (Date.now() > end && sums.hit >= HITS) break;
    const label = `${steps[fault.at][0]}, allocation ${fault.nth}, ${fault.times} times`;
    const began = Date.now();
    let outs;
    try {
      outs = await walkThrough(daemon, ledger, steps, fault, label);
    } catch (error) {
      const ended = daemon.child.exitCode ?? daemon.child.signalCode;
      sums.failed.push(ended === null ? error.message : `the daemon ended (${ended}): ${error.message}`);
      if (sums.failed.length >= PROBLEMS || ended !== null) break;
      continue;
    }
    if (process.env.OOM_SHOW) {
      console.log(`${label}: ${Date.now() - began} ms, ${outs[fault.at].faults} faults, ${outs[fault.at].told},`,
        await faults.where(program));
    }
    const out = outs[fault.at];
    sums.rounds += 1;
    sums.hit += out.faults > 0;
    sums.faults += out.faults;
    sums.told += Boolean(out.told);
    sums.again = Math.max(sums.again, out.again);
    if (out.told) sums.answers.set(out.told, (sums.answers.get(out.told) ?? 0) + 1);
    if (out.told && !out.faults) sums.failed.push(`${label}: ${out.told}, without a fault`);
  }
  t.diagnostic(`OOM_SEED=${seed}: ${needs.reduce((sum, n) => sum + n, 0)} allocations of ${steps.length} steps; ` +
    `${sums.rounds} of ${plan.length} walks, a fault in ${sums.hit} (${sums.faults} faults), told ${sums.told} times, ` +
    `at most ${sums.again} more attempts`);
  for (const [answer, n] of sums.answers) t.diagnostic(`${n} x ${answer}`);
  if (process.env.OOM_LOG) writeFileSync(process.env.OOM_LOG, daemon.log.join('\n'));
  assert.deepEqual(sums.failed, []);
  assert.ok(sums.hit > sums.rounds / 2, 'the faults did happen');
  if (url) assert.deepEqual(await audit(daemon, url, ledger, since), []);
}

const limit = { timeout: (SECONDS + 120) * 1000 };

test('a call by REST', limit, (t) => walkAll(t, Walk.rest, { database: database.url }));
test('a call by sockets', limit, (t) => walkAll(t, Walk.socket, { database: database.url }));
test('a call from Matrix', limit, (t) => walkAll(t, Walk.matrix, { database: database.url }));
test('a call in memory', limit, (t) => walkAll(t, Walk.socket));
