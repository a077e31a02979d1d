// What POST /api/calls/initiate costs, durable, beside express and pg with a pool of 20 doing the same transaction.
//
//   spec-tests/load/initiate [--json] [--seconds S] [--connections 1,20,64,256] [--daemon PATH] [--label NAME]
//                            [--no-baseline]
//
// Each figure starts with an empty schema on one PostgreSQL with fsync on; CPU is that of the server's process and of all
// of PostgreSQL's, from before the first to after the last request. Rows are counted afterwards: as many as answers. The
// baseline needs `npm ci` in this directory once. --daemon and --label may be given several times, to compare builds.
// Figures of one run can be compared with each other, not with another machine's.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { startPostgres } from '../lib/postgres.mjs';
import { daemonAt, generatorAt } from './needs.mjs';

const here = new URL('.', import.meta.url).pathname;
const run = promisify(execFile);
const options = (name) => process.argv.flatMap((arg, at) => (arg === name ? [process.argv[at + 1]] : []));
const option = (name, fallback) => options(name).at(-1) ?? fallback;
const seconds = option('--seconds', '5');
const levels = option('--connections', '1,20,64,256').split(',');
const json = process.argv.includes('--json');
const tick = Number(execFileSync('getconf', ['CLK_TCK']));

const daemons = options('--daemon');
if (!daemons.length) daemons.push(daemonAt());
daemons.forEach(daemonAt);
const labels = options('--label');
const generator = generatorAt('rest_generator', 'REST_GENERATOR', daemons[0]);

/** CPU seconds of a process, with those of children that ended. */
function cpuOf(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /, '').split(' ');
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / tick;
}

/** The postmaster and its children. */
function cpuOfPostgres(postmaster) {
  const children = readdirSync('/proc').filter((name) => /^\d+$/.test(name)).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /, '').split(' ')[1] === String(postmaster);
    } catch {
      return false;
    }
  });
  return [postmaster, ...children].reduce((sum, pid) => sum + cpuOf(pid), 0);
}

async function sql(url, text) {
  const { stdout } = await run('psql', ['-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', url, '-c', text]);
  return stdout.trim();
}

const clean = Object.fromEntries(Object.entries(process.env)
  .filter(([name]) => !/^(CALLD_|TURN_|STUN_|DATABASE_URL|PORT$|TRUST_PROXY|NODE_ENV)/.test(name)));

/** Starts a server; resolves {pid, port, stop()} when a line matches. */
async function serve(command, env, pattern) {
  const scratch = mkdtempSync(join(tmpdir(), 'calld-load-'));
  const child = spawn(command[0], command.slice(1),
    { env: { ...clean, TMPDIR: scratch, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise((resolve) => { child.once('close', resolve); });
  let said = '';
  child.stderr.on('data', (text) => { said = (said + text).slice(-4000); });
  const port = await new Promise((resolve, reject) => {
    let found;
    createInterface({ input: child.stdout }).on('line', (line) => {
      found = pattern.exec(line)?.[1] ?? found;
      if (found && (line === 'ready' || command[0] === process.execPath)) resolve(found);
    });
    ended.then((code) => reject(new Error(`${command[0]} ended with ${code}: ${said}`)));
  });
  return { pid: child.pid, port, stop: async () => {
    child.kill('SIGTERM');
    await ended;
    rmSync(scratch, { recursive: true, force: true });
  } };
}

const round = (value) => Number(value.toPrecision(3));

async function measure(pg, label, connections, start) {
  await sql(pg.url, 'DROP SCHEMA IF EXISTS calld CASCADE');
  await run(daemons[0], ['migrate'], { env: { ...clean, CALLD_DATABASE_URL: pg.url } });
  await sql(pg.url, 'CHECKPOINT');
  const server = await start();
  try {
    const before = { server: cpuOf(server.pid), postgres: cpuOfPostgres(pg.pid) };
    const { stdout } = await run(generator, [server.port, connections, seconds]);
    const after = { server: cpuOf(server.pid), postgres: cpuOfPostgres(pg.pid) };
    const figures = JSON.parse(stdout);
    const rows = Number(await sql(pg.url, 'SELECT count(*) FROM calld.call_sessions'));
    const per100k = (name) => round((after[name] - before[name]) / figures.created * 1e5);
    return { what: 'initiate', server: label, connections: Number(connections), ...figures, rows,
      cpu_s_per_100k: per100k('server'), postgres_cpu_s_per_100k: per100k('postgres') };
  } finally {
    await server.stop();
  }
}

const postmaster = async (url) => Number(await sql(url,
  "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)"));

process.env.PG_RUN_OPTS ??= '-c fsync=on -c synchronous_commit=on -c full_page_writes=on -c max_wal_size=4GB';
const { url, stop } = await startPostgres();
const failures = [];
try {
  const pg = { url, pid: await postmaster(url) };
  const baseline = !process.argv.includes('--no-baseline');
  const installed = existsSync(join(here, 'node_modules/express'));
  if (baseline && !installed) console.error('no baseline: `npm ci --prefix spec-tests/load` installs express and pg');
  for (const connections of levels) {
    const lines = [];
    for (const [at, binary] of daemons.entries()) {
      lines.push(await measure(pg, labels[at] ?? 'matrix-calld', connections,
        () => serve([binary, '--dev', '--listen', '127.0.0.1:0'], { DATABASE_URL: url }, /^listening on .*:(\d+)/)));
    }
    if (baseline && installed) {
      lines.push(await measure(pg, 'express+pg', connections,
        () => serve([process.execPath, join(here, 'initiate_baseline.mjs')], { DATABASE_URL: url }, /^(\d+)$/)));
    }
    const total = (line) => line.cpu_s_per_100k + line.postgres_cpu_s_per_100k;
    for (const line of lines) {
      if (line !== lines[0]) line.cpu_against_first = round(total(line) / total(lines[0]));
      if (line.rows < line.created || line.refused || line.dropped) failures.push(JSON.stringify(line));
      console.log(json ? JSON.stringify(line) : Object.entries(line).map(([name, value]) => `${name} ${value}`).join(', '));
    }
  }
} finally {
  await stop();
}
if (failures.length) {
  console.error(`rows are missing, or requests failed: ${failures.join('\n')}`);
  process.exitCode = 1;
}
