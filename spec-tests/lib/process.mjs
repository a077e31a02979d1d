// A process from outside, as an administrator sees it: its descriptors, their limit, the CPU time it takes, its stops.

import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';

const TICKS_PER_SECOND = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

/** Open descriptors. */
export const descriptors = (pid) => readdirSync(`/proc/${pid}/fd`).length;

/** The soft limit of descriptors. */
export const descriptorLimit = (pid) =>
  Number(readFileSync(`/proc/${pid}/limits`, 'utf8').match(/^Max open files +(\d+)/m)[1]);

/** Sets the soft limit; the hard one stays. */
export function limitDescriptors(pid, n) {
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${n}:`]);
}

/** Sends a signal to a server and its children: those of PostgreSQL go on when only the server is stopped. */
export function signalWithChildren(pid, name) {
  process.kill(pid, name); // first, so that one that stops has no child after these
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
  for (const child of children) {
    try {
      process.kill(Number(child), name);
    } catch (error) {
      if (error.code !== 'ESRCH') throw error; // it has ended meanwhile
    }
  }
}

/** Whether SIGSTOP has stopped it. */
export const isStopped = (pid) => readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)[0] === 'T';

/** Seconds of CPU it has taken. */
export function cpuSeconds(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** The share of one CPU that it takes while nobody asks it for anything: one that spins takes all it gets. */
export async function busyShare(pid, ms = 1000) {
  const [cpu, wall] = [cpuSeconds(pid), performance.now()];
  await new Promise((resolve) => { setTimeout(resolve, ms); });
  return (cpuSeconds(pid) - cpu) / ((performance.now() - wall) / 1000);
}
