// A PostgreSQL that is there and cannot: its connections are used up, its disk is full, it hangs. Calls go on, whoever
// asks hears the truth, and afterwards everything that was acknowledged stands in its tables.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chownSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { DevCall, control, metric, ready } from '../lib/dev-call.mjs';
import { startDev } from '../lib/dev-daemon.mjs';
import { ownPostgres } from '../lib/own-postgres.mjs';
import { busyShare, isStopped } from '../lib/process.mjs';
import { execute, query, quote } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 90000 };
const tables = ['call_sessions', 'call_participants', 'call_events', 'call_signals', 'idempotency_keys'];
let database;
let dev;
let admin; // the control socket

before(async () => {
  database = await ownPostgres();
  // Not a superuser: those are let in beyond every limit.
  await execute(database.url, 'CREATE ROLE calld LOGIN');
  await execute(database.url, 'CREATE DATABASE calld OWNER calld');
  database.calld = database.url.replace('postgres@', 'calld@').replace(/\/postgres$/, '/calld');
  database.admin = database.url.replace(/\/postgres$/, '/calld');
  admin = join(database.directory, 'control.sock');
  dev = await startDev({ env: { DATABASE_URL: database.calld, CALLD_SERVER_CONTROL_SOCKET: admin } });
}, limit);

after(async () => {
  if (dev?.child.exitCode === null) assert.equal(await dev.stop(), 0);
  await database?.stop();
}, limit);

const rows = (sql) => query(database.admin, sql);
const logged = (pattern) => dev.said.find((line) => pattern.test(line));
const untilLogged = (pattern, seconds = 20) => until(() => logged(pattern), { what: String(pattern), seconds });
const degraded = (names) => until(async () => JSON.stringify((await ready(admin)).degraded) === JSON.stringify(names),
  { what: `degraded: ${JSON.stringify(names)}`, seconds: 60, everyMs: 100 });

/** Calls from start to end over REST; everything in it is acknowledged. @returns its id */
async function wholeCall(name) {
  const [a, b] = [dev.as(`${name}-a`), dev.as(`${name}-b`)];
  const made = await a.post('/api/calls/initiate', { roomId: `!${name}:dev`, invitees: [`@${name}-b:dev`] });
  assert.equal(made.status, 201, JSON.stringify(made.body));
  const { callId } = made.body;
  for (const [who, command] of [[b, 'answer'], [a, 'connected'], [b, 'end']]) {
    const reply = await who.post(`/api/calls/${callId}/${command}`);
    assert.equal(reply.status, 200, `${command}: ${JSON.stringify(reply.body)}`);
  }
  return callId;
}

async function assertStored(ids, status = 'ended') {
  const found = await rows(`SELECT id, status FROM call_sessions WHERE id IN (${ids.map(quote).join()})`);
  assert.deepEqual(new Set(found.map((row) => row.id)), new Set(ids));
  assert.deepEqual([...new Set(found.map((row) => row.status))], [status]);
  const doubled = await rows(`SELECT call_session_id, event_type FROM call_events
    WHERE call_session_id IN (${ids.map(quote).join()}) AND event_type NOT LIKE '%toggled' GROUP BY 1, 2 HAVING count(*) > 1`);
  assert.deepEqual(doubled, []);
  assert.equal(await metric(admin, 'spool_records'), 0);
  assert.equal(await metric(admin, 'spool_rejected_total'), 0);
}

/** It waits, and does not spin. */
async function assertCalm() {
  const share = await busyShare(dev.child.pid);
  assert.ok(share < 0.3, `it takes ${Math.round(share * 100)} % of a CPU for nothing`);
}

test('its connections are used up: 53300 in the log, the spool meanwhile, all of it there afterwards', limit, async (t) => {
  const free = () => execute(database.url, 'ALTER ROLE calld CONNECTION LIMIT -1');
  t.after(free);
  const call = await DevCall.open(dev);
  await execute(database.url, 'ALTER ROLE calld CONNECTION LIMIT 0');
  await execute(database.url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'calld'`);
  await untilLogged(/pg\.unreachable.*too many connections for role/);
  assert.deepEqual(await rows(`SELECT pid FROM pg_stat_activity WHERE usename = 'calld'`), [], 'nobody is let in');

  const ids = [await wholeCall('full-house')];
  assert.deepEqual(await ready(admin), { status: 200, ready: true, state: 'running', degraded: ['postgresql'] });
  assert.ok(await metric(admin, 'spool_records') > 0);
  await call.relay();
  await assertCalm();
  await call.end();
  ids.push(call.callId);

  await free();
  await degraded([]);
  await assertStored(ids);
  call.close();
});

/** A small file system that PostgreSQL's tables are on. @returns {Promise<{full(), fails(), empty(), close()}>} */
async function smallDisk() {
  const path = join(database.directory, 'small');
  mkdirSync(path);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=12m', 'tmpfs', path]);
  const { uid, gid } = statSync(database.directory);
  const space = join(path, 'space');
  mkdirSync(space);
  chownSync(space, uid, gid);
  await execute(database.admin, `CREATE TABLESPACE small LOCATION ${quote(space)}`);
  for (const table of tables) {
    await execute(database.admin, `ALTER TABLE ${table} SET TABLESPACE small`);
    for (const { name } of await rows(`SELECT indexname AS name FROM pg_indexes WHERE tablename = ${quote(table)}`)) {
      await execute(database.admin, `ALTER INDEX ${name} SET TABLESPACE small`);
    }
  }
  const filler = join(path, 'filler');
  return {
    full() {
      for (let bytes = 64; bytes >= 1; bytes /= 2) { // until not even a small file fits
        try {
          for (;;) writeFileSync(filler, Buffer.alloc(bytes * 4096), { flag: 'a' });
        } catch (error) {
          assert.equal(error.code, 'ENOSPC');
        }
      }
    },
    fails: () => execute(database.admin,
      `CREATE TABLE filler TABLESPACE small AS SELECT repeat(md5(n::text), 60) FROM generate_series(1, 5000) n`),
    empty: () => rmSync(filler, { force: true }),
    async close() {
      for (const table of tables) {
        await execute(database.admin, `ALTER TABLE ${table} SET TABLESPACE pg_default`);
        for (const { name } of await rows(`SELECT indexname AS name FROM pg_indexes WHERE tablename = ${quote(table)}`)) {
          await execute(database.admin, `ALTER INDEX ${name} SET TABLESPACE pg_default`);
        }
      }
      await execute(database.admin, 'DROP TABLESPACE small');
      execFileSync('umount', [path]);
    },
  };
}

/** Where nothing may be mounted: the server is told to say what it says when its disk is full. */
async function fakeDisk() {
  await execute(database.admin, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$`);
  const each = (sql) => execute(database.admin, tables.map(sql).join(';'));
  const empty = () => each((table) => `DROP TRIGGER IF EXISTS full_disk ON ${table}`);
  return {
    full: () => each((table) => `CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON ${table}
      FOR EACH STATEMENT EXECUTE FUNCTION full_disk()`),
    fails: () => execute(database.admin, 'UPDATE call_events SET event_type = event_type'),
    empty,
    close: () => execute(database.admin, 'DROP FUNCTION full_disk'),
  };
}

const mayMount = process.getuid() === 0 && (() => {
  try {
    execFileSync('unshare', ['--mount', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

test('its disk is full: 53100 in the log, the spool meanwhile, all of it there when there is room', limit, async (t) => {
  const disk = mayMount ? await smallDisk() : await fakeDisk();
  t.diagnostic(mayMount ? 'a full file system' : 'no file system may be mounted: a trigger stands for it');
  t.after(async () => {
    await disk.empty();
    await disk.close();
  });
  const call = await DevCall.open(dev);
  const asked = dev.said.length;
  await disk.full();
  await assert.rejects(disk.fails(), /No space left on device/);

  const ids = [];
  await until(async () => {
    ids.push(await wholeCall(`disk${ids.length}`)); // each is acknowledged, whatever the disk says
    return dev.said.slice(asked).some((line) => /"ev":"op\.failed".*53100/.test(line));
  }, { what: '53100 in the log', seconds: 30, everyMs: 1 });
  ids.push(await wholeCall('disk-after'));
  assert.ok(dev.said.slice(asked).some((line) => /degraded\.begin.*53100/.test(line)), 'and it says why it is degraded');
  assert.deepEqual((await ready(admin)).degraded, ['postgresql']);
  await call.relay();
  await call.alice.command('toggle-audio', { callId: call.callId, enabled: false });
  await assertCalm();
  await call.end();
  ids.push(call.callId);
  assert.deepEqual((await ready(admin)).degraded, ['postgresql'], 'it stays full');

  await disk.empty();
  await degraded([]);
  ids.push(await wholeCall('disk-empty'));
  await assertStored(ids);
  call.close();
});

test('it hangs: what needs it waits, and nothing else does', limit, async (t) => {
  let hung = false;
  const wake = () => {
    hung = false;
    database.signalAll('SIGCONT');
  };
  t.after(() => hung && wake());
  const call = await DevCall.open(dev);
  const name = 'hang';
  database.signalAll('SIGSTOP');
  hung = true;
  await until(() => isStopped(database.pid), { what: 'the server to be stopped', everyMs: 1 });

  // A durable command is sent, and others come and go while it waits.
  const start = performance.now();
  let waited;
  const durable = wholeCall(name).finally(() => { waited = performance.now() - start; });
  let slowest = 0;
  let turns = 0;
  while (waited === undefined || turns < 10) {
    const one = performance.now();
    await Promise.all([call.relay(), control('/health', admin), control('/metrics', admin),
      fetch(`${dev.origin}/api/calls/config`).then((reply) => reply.text())]);
    slowest = Math.max(slowest, performance.now() - one);
    turns += 1;
  }
  const id = await durable;
  assert.ok(turns > 20, `only ${turns} turns while a durable command took ${Math.round(waited)} ms`);
  assert.ok(slowest < waited / 3, `a candidate and /metrics took ${slowest} ms of the ${waited} ms that the command waited`);
  assert.deepEqual((await ready(admin)).degraded, ['postgresql']);
  t.diagnostic(`the command waited ${Math.round(waited)} ms; ${turns} rounds of others meanwhile, the slowest ${
    Math.round(slowest)} ms`);
  await assertCalm();
  await call.end();
  wake();
  await degraded([]);
  await assertStored([id, call.callId]);
  call.close();
});
