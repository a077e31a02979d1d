// The whole life of many calls at a time, durable: initiate, ring, answer, 20 candidates each way, connected, end. How long
// each step takes from its sender to the one who waits for it, what it costs, and that nothing goes wrong.
//
//   spec-tests/load/life [--json] [--calls 100,1000,5000] [--rate 100] [--daemon PATH] [--label NAME]
//
// Two sockets a call. Calls begin at --rate a second, all of them are connected at one time, and they end at that rate.
// One JSON line a number of calls and step; errors must be 0, and the rows must tell of as many calls as there were.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { startPostgres } from '../lib/postgres.mjs';
import { daemonAt } from './needs.mjs';

const WebSocket = createRequire(new URL('../package.json', import.meta.url))('ws');
const run = promisify(execFile);
const option = (name, fallback) => {
  const at = process.argv.lastIndexOf(name);
  return at < 0 ? fallback : process.argv[at + 1];
};
const sizes = option('--calls', '100,1000,5000').split(',').map(Number);
const rate = Number(option('--rate', '100'));
const json = process.argv.includes('--json');
const binary = daemonAt(option('--daemon'));
const label = option('--label', 'matrix-calld');
const tick = Number(execFileSync('getconf', ['CLK_TCK']));
const CANDIDATES = 20;
const PATIENCE_MS = 30000;

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const offer = { type: 'offer', sdp: `v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n${'a=x-load:0123456789abcdef\r\n'.repeat(60)}` };
const answer = { ...offer, type: 'answer' };

/** One Socket.IO client on a bare WebSocket: what it waits for is resolved by name, in order of arrival. */
class Client {
  constructor(origin, name) {
    Object.assign(this, { name, heard: new Map(), waits: new Map(), acks: new Map(), nextAck: 0 });
    this.socket = new WebSocket(`${origin.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket`,
      { perMessageDeflate: false });
    this.ready = new Promise((resolve, reject) => {
      this.open = resolve;
      this.socket.once('error', reject);
      this.socket.once('close', () => { if (!this.closing) reject(new Error(`${name} was closed`)); });
    });
    this.ready.catch(() => {});
    this.socket.on('message', (data) => this.read(String(data)));
  }

  read(text) {
    if (text[0] === '0') this.socket.send(`40${JSON.stringify({ token: `dev_${this.name}` })}`);
    else if (text === '2') this.socket.send('3');
    else if (text.startsWith('40')) this.open();
    else if (text.startsWith('42')) this.event(...JSON.parse(text.slice(2)));
    else if (text.startsWith('43')) this.acked(text);
  }

  acked(text) {
    const [, id, body] = /^43(\d+)(.*)$/s.exec(text);
    this.acks.get(Number(id))?.(JSON.parse(body)[0]);
    this.acks.delete(Number(id));
  }

  event(name) {
    const wait = this.waits.get(name)?.shift();
    if (wait) wait();
    else this.heard.set(name, (this.heard.get(name) ?? 0) + 1);
  }

  /** The next event of that name, or one that came already. */
  next(name) {
    const n = this.heard.get(name) ?? 0;
    if (n > 0) {
      this.heard.set(name, n - 1);
      return Promise.resolve();
    }
    return soon(new Promise((resolve) => {
      this.waits.set(name, [...this.waits.get(name) ?? [], resolve]);
    }), `${name} at ${this.name}`);
  }

  emit(name, payload) {
    this.socket.send(`42${JSON.stringify([name, payload])}`);
  }

  async ask(name, payload) {
    const id = this.nextAck;
    this.nextAck += 1;
    const answered = new Promise((resolve) => { this.acks.set(id, resolve); });
    this.socket.send(`42${id}${JSON.stringify([name, payload])}`);
    const ack = await soon(answered, `the ack of ${name}`);
    if (!ack.ok) throw new Error(`${name}: ${ack.errcode} ${ack.error}`);
    return ack;
  }

  close() {
    this.closing = true;
    this.socket.close();
  }
}

function soon(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

class Steps {
  constructor() {
    this.times = new Map();
    this.errors = [];
  }

  async time(step, work) {
    const began = performance.now();
    const result = await work();
    if (!this.times.has(step)) this.times.set(step, []);
    this.times.get(step).push(performance.now() - began);
    return result;
  }
}

/** Both at once: what one asks, what the other hears. */
const both = async (asked, heard) => (await Promise.all([asked, heard]))[0];

async function begin(steps, { caller, callee, room }) {
  let call;
  await steps.time('ring', async () => {
    const rings = callee.next('call-ringing');
    call = await steps.time('initiate', () => caller.ask('call-initiate',
      { roomId: room, invitees: [`@${callee.name}:dev`], offer }));
    await rings;
  });
  const { callId } = call;
  await steps.time('answered', () => both(steps.time('answer',
    () => callee.ask('call-answer', { callId, answer })), caller.next('call-answered')));
  for (let n = 0; n < CANDIDATES; n += 1) {
    for (const [from, to] of [[caller, callee], [callee, caller]]) {
      const candidate = { candidate: `candidate:${n} 1 udp 1 192.0.2.1 ${50000 + n} typ host`, sdpMid: '0', sdpMLineIndex: 0 };
      await steps.time('candidate', () => {
        const heard = to.next('ice-candidate');
        from.emit('ice-candidate', { callId, candidate });
        return heard;
      });
    }
  }
  await steps.time('connected', () => both(callee.ask('call-connected', { callId }), caller.next('call-connected')));
  return callId;
}

const end = (steps, { caller, callee }, callId) => steps.time('end',
  () => both(caller.ask('call-end', { callId }), callee.next('call-ended')));

/** Starts `work` of each pair at the rate; failures are counted, not thrown. */
async function paced(steps, pairs, work) {
  const began = performance.now();
  return Promise.all(pairs.map(async (pair, at) => {
    await pause(Math.max(0, began + at / rate * 1000 - performance.now()));
    try {
      return await work(pair);
    } catch (error) {
      steps.errors.push(error.message);
      return null;
    }
  }));
}

const cpuOf = (pid) => readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /, '').split(' ')
  .slice(11, 13).reduce((sum, ticks) => sum + Number(ticks), 0) / tick;
const rssOf = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;

const clean = Object.fromEntries(Object.entries(process.env)
  .filter(([name]) => !/^(CALLD_|TURN_|STUN_|DATABASE_URL|PORT$|TRUST_PROXY|NODE_ENV)/.test(name)));

async function serve(url) {
  const scratch = mkdtempSync(join(tmpdir(), 'calld-load-'));
  const child = spawn(binary, ['--dev', '--listen', '127.0.0.1:0'],
    { env: { ...clean, TMPDIR: scratch, DATABASE_URL: url }, stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = new Promise((resolve) => { child.once('close', resolve); });
  const origin = await new Promise((resolve, reject) => {
    let found;
    createInterface({ input: child.stdout }).on('line', (line) => {
      found = /^listening on (.*)/.exec(line)?.[1] ?? found;
      if (line === 'ready') resolve(found);
    });
    ended.then((code) => reject(new Error(`the daemon ended with ${code}`)));
  });
  return { pid: child.pid, origin, stop: async () => {
    child.kill('SIGTERM');
    const code = await ended;
    rmSync(scratch, { recursive: true, force: true });
    if (code !== 0) throw new Error(`the daemon ended with ${code}`);
  } };
}

async function populate(origin, calls) {
  const pairs = [];
  for (let at = 0; at < calls; at += 50) {
    const some = Array.from({ length: Math.min(50, calls - at) }, (_, n) => ({ room: `!life${at + n}:dev`,
      caller: new Client(origin, `a${at + n}`), callee: new Client(origin, `b${at + n}`) }));
    await Promise.all(some.flatMap(({ caller, callee }) => [caller.ready, callee.ready]));
    pairs.push(...some);
  }
  return pairs;
}

const rounded = (value) => Math.round(value * 100) / 100;
const percentile = (sorted, part) => rounded(sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))]);

function print(line) {
  console.log(json ? JSON.stringify(line) : Object.entries(line).map(([name, value]) => `${name} ${value}`).join(', '));
}

async function measure(url, calls) {
  const steps = new Steps();
  await run('psql', ['-X', '-q', '-d', url, '-c', 'DROP SCHEMA IF EXISTS calld CASCADE']);
  const server = await serve(url);
  try {
    const idle = rssOf(server.pid);
    const pairs = await populate(server.origin, calls);
    const cpu = cpuOf(server.pid);
    const ids = await paced(steps, pairs, (pair) => begin(steps, pair));
    const rss = rssOf(server.pid);
    pairs.forEach((pair, at) => { pair.callId = ids[at]; });
    await paced(steps, pairs.filter((pair) => pair.callId), (pair) => end(steps, pair, pair.callId));
    const spent = cpuOf(server.pid) - cpu;
    for (const { caller, callee } of pairs) [caller, callee].forEach((client) => client.close());
    const { stdout } = await run('psql', ['-X', '-q', '-A', '-t', '-d', url, '-c',
      "SELECT count(*) FROM calld.call_sessions WHERE status = 'ended' AND connected_at IS NOT NULL"]);
    for (const [step, times] of steps.times) {
      const sorted = times.sort((one, other) => one - other);
      print({ what: 'life', server: label, calls, step, n: sorted.length, p50_ms: percentile(sorted, 0.5),
        p95_ms: percentile(sorted, 0.95), p99_ms: percentile(sorted, 0.99), max_ms: rounded(sorted.at(-1)) });
    }
    print({ what: 'life', server: label, calls, step: 'all', ended_rows: Number(stdout), errors: steps.errors.length,
      cpu_s_per_100_calls: rounded(spent / calls * 100), rss_idle: idle, rss_connected: rss,
      bytes_a_call: Math.round((rss - idle) / calls) });
    if (steps.errors.length) console.error(steps.errors.slice(0, 5).join('\n'));
    return steps.errors.length === 0 && Number(stdout) === calls;
  } finally {
    await server.stop();
  }
}

process.env.PG_RUN_OPTS ??= '-c fsync=on';
const { url, stop } = await startPostgres();
try {
  for (const calls of sizes) if (!await measure(url, calls)) process.exitCode = 1;
} finally {
  await stop();
}
