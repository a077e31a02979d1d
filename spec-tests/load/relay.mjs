// What relaying candidates costs the daemon, beside Node's Socket.IO server in the same run.
//
//   spec-tests/load/relay [--json] [--seconds S] [--sockets 200,2000] [--rate R] [--kept N] [--daemon PATH]
//                         [--label NAME] [--no-baseline]
//
// Figures of each number of sockets, two of them in a call, packets of 600 bytes:
//   idle       resident memory of a client that only listens
//   kept       the first N candidates of each socket, which the daemon logs for late joiners (0: not measured)
//   saturated  each socket sends its next candidate when the last one has arrived at the other side
//   open loop  R candidates a second, over the largest number of sockets only
// The baseline needs `npm ci` in this directory once; without it the daemon is measured alone. --daemon and --label
// may be given several times, to compare builds in one run. Server and generator are pinned to one processor each
// where there are two. Figures of one run can be compared with each other, not with another machine's.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { FakeHomeserver } from '../lib/fake-homeserver.mjs';
import { daemonAt, generatorAt } from './needs.mjs';

const here = new URL('.', import.meta.url).pathname;
const options = (name) => process.argv.flatMap((arg, at) => (arg === name ? [process.argv[at + 1]] : []));
const option = (name, fallback) => options(name).at(-1) ?? fallback;
const seconds = option('--seconds', '5');
const sizes = option('--sockets', '200,2000').split(',').map(Number);
const rate = option('--rate', '5000');
const kept = option('--kept', '100');
const json = process.argv.includes('--json');
const pinned = (cpu) => (availableParallelism() > 1 ? ['taskset', '-c', String(cpu)] : []);

const daemons = options('--daemon');
if (!daemons.length) daemons.push(daemonAt());
daemons.forEach(daemonAt);
const labels = options('--label');
const generator = generatorAt('relay_generator', 'RELAY_GENERATOR', daemons[0]);

/** Accounts, two of each in a room of their own. */
function populate(homeserver, sockets) {
  return Array.from({ length: sockets / 2 }, (_, index) => {
    const users = ['a', 'b'].map((side) => `@load-${side}${index}:${homeserver.serverName}`);
    const room = `!load${index}:${homeserver.serverName}`;
    homeserver.rooms.set(room, { joined: new Set(users), state: new Map(), timeline: [] });
    for (const user of users) homeserver.accounts.set(user, { data: new Map() });
    return `${users.map((user) => homeserver.addToken(user)).join(' ')} ${room}\n`;
  }).join('');
}

/** Runs a server until `work` is done; resolves `work` with its port, once it has printed a line. */
async function withServer(command, env, portOf, work) {
  const [file, ...args] = [...pinned(0), ...command];
  const server = spawn(file, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => { server.once('exit', resolve); });
  try {
    const line = await new Promise((resolve, reject) => {
      server.stdout.once('data', (text) => resolve(String(text)));
      server.once('error', reject);
      ended.then((code) => reject(new Error(`${command[0]} ended with ${code}`)));
    });
    await work(portOf(line), server.pid);
  } finally {
    server.kill('SIGTERM');
    await ended;
  }
}

function show(text) {
  if (json) {
    console.log(text);
    return;
  }
  const { server, phase, sockets, ...figures } = JSON.parse(text);
  console.log(`${server.padEnd(16)} ${phase.padEnd(10)} ${String(sockets).padStart(5)} sockets  ${
    Object.entries(figures).map(([name, value]) => `${name} ${value}`).join(', ')}`);
}

async function generate(label, port, pid, sockets, pairs, keptHere) {
  const [file, ...args] = [...pinned(1), generator, label, String(port), String(pid), seconds,
    sockets === Math.max(...sizes) ? rate : '0', keptHere];
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    lines.forEach(show);
  });
  child.stdin.end(pairs);
  const code = await new Promise((resolve) => { child.once('close', resolve); });
  if (code !== 0) throw new Error(`the generator ended with ${code}`);
}

/** A port that was free a moment ago. */
async function freePort() {
  const probe = await FakeHomeserver.start();
  const { port } = new URL(probe.url);
  await probe.stop();
  return Number(port);
}

async function measureDaemon(binary, label, sockets) {
  const homeserver = await FakeHomeserver.start({ serverName: 'load.test' });
  const directory = mkdtempSync(join(tmpdir(), 'calld-load-'));
  try {
    const pairs = populate(homeserver, sockets);
    const [port, asPort] = [await freePort(), await freePort()];
    const config = join(directory, 'load.conf');
    writeFileSync(config, `[server]
listen = 127.0.0.1:${port}
appservice_listen = 127.0.0.1:${asPort}
control_socket = ${join(directory, 'control.sock')}
[matrix]
homeserver_url = ${homeserver.url}
server_name = load.test
hs_token = ${'h'.repeat(32)}
as_token = ${'a'.repeat(32)}
[limits]
connections_per_ip = 0
starts_per_hour = 0
failed_tokens_per_minute = 0
requests_per_second = 0
user_requests_per_second = 0
events_per_second = 0
[log]
level = warn
`, { mode: 0o600 });
    await withServer([binary, '-c', config], {}, () => port,
      (at, pid) => generate(label, at, pid, sockets, pairs, kept));
  } finally {
    await homeserver.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}

async function measureBaseline(sockets) {
  const pairs = populate(await nobody, sockets);
  await withServer([process.execPath, join(here, 'baseline.mjs')], {}, Number,
    (port, pid) => generate('socket.io', port, pid, sockets, pairs, '0'));
}

// The baseline asks no homeserver; the names are all it needs.
const nobody = Promise.resolve({ serverName: 'load.test', rooms: new Map(), accounts: new Map(),
  addToken: (user) => user });

const baseline = !process.argv.includes('--no-baseline');
const installed = existsSync(join(here, 'node_modules/socket.io'));
if (baseline && !installed) console.error('no baseline: `npm ci --prefix spec-tests/load` installs socket.io');
for (const sockets of sizes) {
  for (const [at, binary] of daemons.entries()) await measureDaemon(binary, labels[at] ?? 'matrix-calld', sockets);
  if (baseline && installed) await measureBaseline(sockets);
}
