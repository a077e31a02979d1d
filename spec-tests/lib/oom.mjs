// Memory that runs out when a test says so: oom_shim.c, built, loaded into a daemon, and told which allocation fails.

import { execFile, execFileSync } from 'node:child_process';
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const source = new URL('oom_shim.c', import.meta.url).pathname;
const run = promisify(execFile);

// The words of struct control in oom_shim.c.
const [ARMED, LEFT, TIMES, ALL, SEEN, FAULTS, FRAMES, BASE, FRAME] = Array.from({ length: 9 }, (_, n) => n * 8);
const MAX_FRAMES = 24;

/** Libraries that lose memory of theirs when they find none; the dynamic linker's is hidden by the preloaded one. */
const LEAKING = ['dl_open_worker_begin', 'libcurl', 'libmicrohttpd', 'libpq', 'libwebsockets', 'libssl', 'libcrypto'];

export class Faults {
  /** Builds the library in `directory`. */
  constructor(directory) {
    this.library = join(directory, 'oom_shim.so');
    execFileSync(process.env.CC ?? 'cc', ['-O1', '-g', '-fno-omit-frame-pointer', '-shared', '-fPIC', '-fno-builtin',
      '-o', this.library, source]);
    this.file = join(directory, 'oom-control');
    writeFileSync(this.file, Buffer.alloc(FRAME + MAX_FRAMES * 8));
    this.fd = openSync(this.file, 'r+');
    const leaks = join(directory, 'leaks');
    writeFileSync(leaks, LEAKING.map((name) => `leak:${name}\n`).join(''));
    /** What the daemon is to be started with. ASan wants to be the first library, but works as the second. */
    this.env = { LD_PRELOAD: this.library, CALLD_OOM_CONTROL: this.file,
      ASAN_OPTIONS: [process.env.ASAN_OPTIONS, 'verify_asan_link_order=0'].filter(Boolean).join(':'),
      LSAN_OPTIONS: `suppressions=${leaks}:print_suppressions=0` };
  }

  close() {
    closeSync(this.fd);
  }

  #set(at, value) {
    const word = Buffer.alloc(8);
    word.writeBigInt64LE(BigInt(value));
    writeSync(this.fd, word, 0, 8, at);
  }

  #get(at) {
    const word = Buffer.alloc(8);
    readSync(this.fd, word, 0, 8, at);
    return Number(word.readBigInt64LE());
  }

  /** The `nth` allocation from now fails, and `times - 1` more. @param {boolean} all also those of libraries */
  arm(nth, { times = 1, all = false } = {}) {
    this.disarm();
    for (const [at, value] of [[LEFT, nth], [TIMES, times], [ALL, Number(all)], [SEEN, 0], [FRAMES, 0]]) this.#set(at, value);
    this.before = this.#get(FAULTS);
    this.#set(ARMED, 1);
  }

  /** No more faults. @returns how many there were */
  disarm() {
    this.#set(ARMED, 0);
    return this.#get(FAULTS) - this.before;
  }

  /** Allocations since it was armed. */
  get seen() {
    return this.#get(SEEN);
  }

  /** Where the first fault was, innermost first: for a message. */
  async where(binary) {
    const base = this.#get(BASE);
    const frames = Array.from({ length: this.#get(FRAMES) }, (_, n) => this.#get(FRAME + n * 8) - base - 1)
      .filter((offset) => offset > 0 && offset < 1 << 28).map((offset) => `0x${offset.toString(16)}`);
    if (frames.length === 0) return '(in a library)';
    const { stdout } = await run('addr2line', ['-s', '-f', '-p', '-e', binary, ...frames])
      .catch((error) => ({ stdout: error.message }));
    return stdout.trim().split('\n').map((line) => line.replace(/ at (\S+).*/, ' ($1)')).join(' < ');
  }
}
