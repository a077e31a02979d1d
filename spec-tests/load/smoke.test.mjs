// The load programs run and count what they say they count: tiny numbers, no times. What they measure is for people.

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { before } from 'node:test';
import { promisify } from 'node:util';

const top = new URL('../../', import.meta.url).pathname;
const build = process.env.BUILD_DIR ?? join(top, 'build');
const daemon = process.env.MATRIX_CALLD ?? join(build, 'matrix-calld');
const programs = ['spec-tests/load/relay_generator', 'spec-tests/load/rest_generator'];
const [generator, restGenerator] = programs.map((program) => join(build, program));
const run = promisify(execFile);

const linesOf = (text) => text.split('\n').filter(Boolean).map((line) => JSON.parse(line));

before(() => {
  // `make` alone leaves the programs of the tests out.
  for (const program of programs) {
    if (!existsSync(join(build, program))) execFileSync('make', ['-C', build, '-s', program]);
  }
}, { timeout: 120000 });

/** Every figure is a number that can be one. */
function sane(line) {
  for (const [name, value] of Object.entries(line)) {
    if (typeof value === 'string') continue;
    assert.ok(Number.isFinite(value), `${name} is ${value} in ${JSON.stringify(line)}`);
    assert.ok(value >= 0, `${name} is ${value}`);
  }
}

const names = ['calls', 'initiate', 'life', 'relay'];

test('--help says how each is used, and what is no option is refused', { timeout: 60000 }, async () => {
  for (const name of names) {
    const { stdout } = await run(join(top, 'spec-tests/load', name), ['--help']);
    assert.match(stdout, new RegExp(`\\n  spec-tests/load/${name} \\[--json\\]`));
    const wrong = await run(join(top, 'spec-tests/load', name), ['--jsn'], { env: { ...process.env, MATRIX_CALLD: daemon } })
      .catch((error) => error);
    assert.deepEqual([wrong.code, wrong.stderr], [2, `${name}: unknown option --jsn; --help lists them\n`]);
  }
});

test('what is not built or not installed is one line that says what to do', { timeout: 60000 }, async (t) => {
  const copy = mkdtempSync(join(tmpdir(), 'calld-load-')); // a checkout in which nothing was done yet
  t.after(() => rmSync(copy, { recursive: true }));
  for (const folder of ['lib', 'load']) {
    cpSync(join(top, 'spec-tests', folder), join(copy, 'spec-tests', folder),
      { recursive: true, filter: (path) => !path.includes('node_modules') });
  }
  const env = { ...process.env, MATRIX_CALLD: '', REST_GENERATOR: '', RELAY_GENERATOR: '' };
  delete env.MATRIX_CALLD;
  const missing = async (name, more = {}) => {
    const { code, stderr } = await run(join(copy, 'spec-tests/load', name), [], { env: { ...env, ...more } }).catch((error) => error);
    assert.equal(code, 2, stderr);
    assert.equal(stderr.split('\n').length, 2, stderr);
    return stderr;
  };
  for (const name of ['initiate', 'relay']) assert.match(await missing(name), /there is no .*\/build\/matrix-calld: build it/);
  for (const name of ['calls', 'life']) assert.match(await missing(name), /: the package \S+ is not installed: npm ci --prefix spec-tests\n/);
  const built = join(copy, 'bn/matrix-calld');
  mkdirSync(join(copy, 'bn'));
  copyFileSync(daemon, built);
  assert.match(await missing('initiate', { MATRIX_CALLD: built }),
    /rest_generator is not built: make -C \S+\/bn spec-tests\/load\/rest_generator/);
  assert.match(await missing('relay', { MATRIX_CALLD: built }), /relay_generator is not built: make -C/);
});

test('relay: every phase reports, nothing fails', { timeout: 120000 }, async () => {
  const { stdout } = await run(join(top, 'spec-tests/load/relay'), ['--json', '--seconds', '1', '--sockets', '8',
    '--rate', '50', '--kept', '5', '--no-baseline', '--daemon', daemon],
  { env: { ...process.env, RELAY_GENERATOR: generator } });
  const lines = linesOf(stdout);
  for (const line of lines) {
    sane(line);
    assert.equal(line.server, 'matrix-calld');
    assert.equal(line.sockets, 8);
    assert.equal(line.errors ?? 0, 0, JSON.stringify(line));
    if (line.phase === 'kept') assert.equal(line.delivered, 8 * 5, 'each socket sent five, and its peer had them all');
    else if (line.phase !== 'idle') assert.ok(line.delivered > 0, JSON.stringify(line));
  }
  for (const phase of ['idle', 'kept', 'saturated', 'open loop']) {
    assert.ok(lines.some((line) => line.phase === phase), `${phase} in ${lines.map((line) => line.phase)}`);
  }
});

test('calls: as many as were asked for, by sockets', { timeout: 180000 }, async () => {
  const { stdout } = await run(join(top, 'spec-tests/load/calls'), ['--json', '--calls', '3', '--only', 'socket'],
    { env: { ...process.env, MATRIX_CALLD: daemon } });
  const lines = linesOf(stdout);
  assert.deepEqual(lines.map(({ what, figure, calls }) => [what, figure, calls]), [['socket', 'ring', 3]]);
  for (const line of lines) {
    sane(line);
    assert.ok(line.p50_ms <= line.p95_ms);
  }
});

test('initiate: each answer has its row, nothing fails', { timeout: 120000 }, async () => {
  const { stdout } = await run(join(top, 'spec-tests/load/initiate'), ['--json', '--seconds', '1', '--connections', '1,16',
    '--no-baseline', '--daemon', daemon], { env: { ...process.env, REST_GENERATOR: restGenerator } });
  const lines = linesOf(stdout);
  assert.deepEqual(lines.map((line) => line.connections), [1, 16]);
  for (const line of lines) {
    sane(line);
    assert.ok(line.created > 0);
    assert.ok(line.rows >= line.created, 'as many rows as answers');
    assert.equal(line.refused + line.dropped, 0);
  }
});

test('life: whole calls, no errors', { timeout: 120000 }, async () => {
  const { stdout } = await run(join(top, 'spec-tests/load/life'), ['--json', '--calls', '20', '--daemon', daemon]);
  const lines = linesOf(stdout);
  const of = (step) => lines.find((line) => line.step === step);
  lines.forEach(sane);
  assert.equal(of('all').errors, 0);
  assert.equal(of('all').ended_rows, 20);
  assert.equal(of('candidate').n, 20 * 40);
  for (const step of ['initiate', 'ring', 'answer', 'answered', 'connected', 'end']) assert.equal(of(step).n, 20, step);
});
