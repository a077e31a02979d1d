// The daemon as `matrix-calld --dev`: no homeserver, tokens that name their user.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { CallClient, binary } from './stack.mjs';
import { until } from './until.mjs';

// The environment of the machine must not configure the daemon under test.
const clean = Object.fromEntries(Object.entries(process.env)
  .filter(([name]) => !/^(CALLD_|TURN_|STUN_|DATABASE_URL|PORT$|TRUST_PROXY|NODE_ENV)/.test(name)));

/** Starts it on a free port. @param {{env?: object, args?: string[]}} options */
export async function startDev({ env = {}, args = ['--listen', '127.0.0.1:0'] } = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'calld-dev-'));
  const child = spawn(binary, ['--dev', ...args], { stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...clean, TMPDIR: directory, ...env } });
  const dev = { child, directory, printed: [], said: [], exited: once(child, 'exit') };
  dev.exited.then(() => rmSync(directory, { recursive: true, force: true }), () => {});
  createInterface({ input: child.stdout }).on('line', (line) => dev.printed.push(line));
  createInterface({ input: child.stderr }).on('line', (line) => dev.said.push(line));
  await until(() => dev.printed.includes('ready') || child.exitCode !== null, { what: '"ready"', everyMs: 5 });
  if (child.exitCode !== null) throw new Error(`exit ${child.exitCode}: ${dev.said.join('\n')}`);
  dev.origin = dev.printed.find((line) => line.startsWith('listening on ')).slice('listening on '.length);
  /** The REST API as the user @name:dev. */
  dev.as = (name) => new CallClient(dev.origin, `dev_${name}`);
  dev.stop = async (signal = 'SIGTERM') => {
    child.kill(signal);
    const [code, by] = await dev.exited;
    return by ?? code;
  };
  return dev;
}

/** Runs it to its end: {status, stderr}. For what it refuses. */
export async function refusedDev(args, env = {}) {
  const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...clean, ...env } });
  const said = [];
  child.stderr.on('data', (chunk) => said.push(chunk));
  const [status] = await once(child, 'close');
  return { status, stderr: Buffer.concat(said).toString() };
}
