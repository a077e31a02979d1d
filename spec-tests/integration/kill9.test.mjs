// kill -9 at random moments of many calls at a time, again and again, and then the books are compared: clients' answers,
// the database, the rooms. KILL_ROUNDS (50; with LONG_TESTS 500) and KILL_SEED make a failure come back.

import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { auditDatabase, auditRoom, Ledger, Mortal, Pair, randomOf } from '../lib/kill9.mjs';
import { startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const rounds = Number(process.env.KILL_ROUNDS ?? (process.env.LONG_TESTS ? 500 : 50));
const seed = Number(process.env.KILL_SEED ?? Math.floor(Math.random() * 2 ** 31));
const PAIRS = 18;
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
let stack;
let daemon;

before(async () => {
  stack = await startStack({ daemon: false, liftRateLimits: true,
    set: { 'limits.starts_per_hour': 0, 'limits.connections_per_ip': 0 } });
  daemon = new Mortal(stack.info.config);
  await daemon.start();
}, { timeout: 180000 });

after(async () => {
  if (daemon?.child?.exitCode === null && daemon.child.signalCode === null) await daemon.stop();
  await stack?.stop();
}, { timeout: 60000 });

/** Nothing rings, nothing waits to be sent. */
async function untilQuiet() {
  const live = () => stack.query(`SELECT id, status, extract(epoch FROM now() - initiated_at)::int AS age FROM call_sessions
    WHERE status IN ('ringing', 'accepted', 'connected') LIMIT 10`);
  const waiting = () => stack.query(`SELECT o.call_session_id, o.event_type, o.attempts, o.tried, s.status, s.caller,
    o.user_id, o.rank, o.created_at, s.initiated_at, s.ended_at, s.invite_tried, extract(epoch FROM o.deadline - now())::int AS "left",
    (SELECT count(*) FROM sealed_tokens t WHERE t.user_id = o.user_id) AS tokens
    FROM matrix_outbox o LEFT JOIN call_sessions s ON s.id = o.call_session_id LIMIT 10`);
  try {
    await until(async () => (await live()).length === 0 && (await waiting()).length === 0,
      { what: 'the end of all calls and an empty outbox', seconds: Number(process.env.KILL_QUIET ?? 120), everyMs: 250 });
  } catch (error) {
    throw new Error(`${error.message}: ${JSON.stringify([await live(), await waiting()])}\nstarted ${new Date(daemon.startedAt).toISOString()}\n${daemon.log.slice(-3000)}`);
  }
}

test('killed at random moments: nothing acknowledged is lost, nothing happens twice', { timeout: 3 * 3600000 }, async (t) => {
  t.diagnostic(`KILL_SEED=${seed}`);
  const random = randomOf(seed);
  const ledger = new Ledger();
  const pairs = await Promise.all(Array.from({ length: PAIRS }, async (_, n) =>
    new Pair(stack, ledger, randomOf(seed + n + 1), await stack.newPair(), { matrixCallee: n % 3 === 2 })));
  let goesOn = true;
  const running = Promise.all(pairs.map((pair) => pair.run(() => goesOn)));
  let failed = null;
  running.catch((error) => { failed = error; });
  for (let round = 0; round < rounds && !failed; round += 1) {
    await pause(50 + random() * 500); // the moment is what is random
    await daemon.kill();
    await daemon.start();
  }
  goesOn = false;
  await running;
  await untilQuiet();

  const audits = await Promise.all([auditDatabase(stack, ledger, pairs), ...pairs.map((pair) => auditRoom(stack, pair))]);
  const lost = [...ledger.undone, ...audits.flatMap((audit) => audit.lost)];
  const doubled = audits.flatMap((audit) => audit.doubled);
  const late = audits.flatMap((audit) => audit.late ?? []);
  const seats = ledger.seats;
  t.diagnostic(`${ledger.calls.size} calls, ${[...ledger.calls.values()].reduce((n, c) => n + c.acknowledged.length, 0)} ` +
    `acknowledged commands, ${seats.returned} times back on a seat`);
  console.log(`kill -9: ${daemon.deaths} rounds, lost: ${lost.length}, doubled: ${doubled.length}`);
  assert.equal(daemon.deaths, rounds);
  assert.ok(ledger.calls.size >= rounds, 'calls went on all the time');
  assert.ok(seats.returned > 0, 'sockets came back to their seats');
  assert.deepEqual({ lost, doubled, late, odd: ledger.odd, seats: seats.refused },
    { lost: [], doubled: [], late: [], odd: [], seats: [] });
});
