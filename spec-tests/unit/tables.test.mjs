// Every row of the code's tables is made to happen by some test: errors, settings, routes, socket events. A new row
// needs a test that names it, or a line below that says why it cannot have one.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';

const top = new URL('../../', import.meta.url).pathname;
const binary = process.env.MATRIX_CALLD ?? join(process.env.BUILD_DIR ?? join(top, 'build'), 'matrix-calld');
const read = (path) => readFileSync(join(top, path), 'utf8');
const own = 'tables.test.mjs';

/** Test files by layer: their texts, without comments, in which nothing happens. */
function texts(layers, pattern) {
  return layers.flatMap((layer) => readdirSync(join(top, 'spec-tests', layer))
    .filter((name) => pattern.test(name) && name !== own)
    .map((name) => read(`spec-tests/${layer}/${name}`)
      .replaceAll(/\/\*[^]*?\*\//g, '').replaceAll(/^\s*\/\/.*$/gm, '')));
}
const nodeTests = texts(['unit', 'contract', 'integration', 'browser', 'load'], /\.mjs$/);
const liveTests = texts(['contract', 'integration', 'browser'], /\.mjs$/);
const cTests = texts(['unit', 'contract'], /\.c$/);
const some = (files, pattern) => files.some((text) => pattern.test(text));
const escape = (text) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** Fails with all rows that have neither a test nor an exception, and with exceptions that are none any more. */
function complete(rows, tested, exceptions) {
  assert.deepEqual(rows.filter((row) => !tested(row) && !(row in exceptions)), [], 'without a test');
  assert.deepEqual(Object.keys(exceptions).filter((row) => !rows.includes(row)), [], 'exceptions for nothing');
  for (const [row, reason] of Object.entries(exceptions)) {
    assert.ok(reason.length > 10, `${row}: say why`);
    assert.ok(!tested(row), `${row} has a test by now: take the exception out`);
  }
}

const errors = [...read('src/base/err.def').matchAll(/^CD_ERR\((\w+), (\d+), "([^"]+)"/gm)]
  .map(([, name, status, errcode]) => ({ name, status: Number(status), errcode }));

test('each error is provoked', () => {
  assert.ok(errors.length > 20);
  const tested = (name) => {
    const { status, errcode } = errors.find((row) => row.name === name);
    if (some(cTests, new RegExp(`\\bCD_E_${name}\\b`))) return true;
    // Rows may share an errcode; then their status tells them apart.
    const shared = errors.filter((row) => row.errcode === errcode);
    const inNode = nodeTests.filter((text) => new RegExp(`['"\`/]${escape(errcode)}['"\`/]`).test(text));
    if (shared.length === 1) return inNode.length > 0;
    if (new Set(shared.map((row) => row.status)).size < shared.length) {
      return name === 'OVERLOADED' && inNode.length > 0;
    }
    return some(inNode, new RegExp(`\\b${status}\\b`));
  };
  complete(errors.map((row) => row.name), tested, {
    POLICY: 'no policy is asked yet: the issue of policies and admin routes brings one',
    NO_RELAY: 'no relay is probed yet: that comes with the issue of ICE checks',
  });
});

test('each setting is set, and something depends on it', () => {
  const settings = [];
  let section;
  for (const line of execFileSync(binary, ['sample-config'], { encoding: 'utf8' }).split('\n')) {
    section = line.match(/^\[(\w+)\]/)?.[1] ?? section;
    const key = line.match(/^#(\w+) =/)?.[1];
    if (key) settings.push(`${section}.${key}`);
  }
  assert.ok(settings.length > 40);
  const variable = (setting) => `CALLD_${setting.replace('.', '_').toUpperCase()}`;
  const tested = (setting) => some(liveTests, new RegExp(`['"]${escape(setting)}['"]|${variable(setting)}\\b`));
  complete(settings, tested, {
    'matrix.as_id': 'read from the registration (registration_test.c); nothing that runs asks for it yet',
  });
});

/** Rows of the tables {ROLE, "METHOD", "PATH", ...} and POST("path"...), GET("path"...). */
function routesOf(file) {
  const code = read(file);
  const full = [...code.matchAll(/\{CD_ROLE_[^"]*"(GET|POST|PUT)",\s*"([^"]+)"/g)];
  const short = [...code.matchAll(/^ {4}(GET|POST)\("([^"]+)"/gm)];
  return [...full.map(([, method, path]) => `${method} ${path}`),
    ...short.map(([, method, path]) => `${method} /api/calls/${path}`)];
}
const folders = ['calls', 'ice', 'health', 'page', 'matrix'];
const moduleFiles = folders.flatMap((folder) => readdirSync(join(top, 'modules', folder))
  .filter((name) => name.endsWith('.c')).map((name) => `modules/${folder}/${name}`));

test('each route is asked', () => {
  const routes = moduleFiles.flatMap(routesOf);
  assert.ok(routes.length > 20, routes.join(', '));
  const tested = (route) => {
    const path = route.split(' ')[1];
    const [, call, rest] = path.match(/^\/api\/calls\/(:id)(.*)$/) ?? [];
    if (!call) {
      const spelt = escape(path).replace(/\/(v3|r0)\//, '/($1|\\$\\{version\\})/');
      return some(liveTests, new RegExp(`['"\`/]${spelt}\\b`));
    }
    if (rest === '') return some(liveTests, /get\((?:path|callPath)\(\w+\)\)/);
    // path(call, '/rest'), or a row of a table of rests, or `…${callId}/rest`
    return some(liveTests, new RegExp(`(?:ath\\([^()]*(?:\\([^()]*\\))?,|\\[)\\s*['"\`]${escape(rest)}\\b|` +
      `\\}${escape(rest)}\\b`));
  };
  complete(routes, tested, {});
});

test('each event that sockets send is sent, each that they hear is heard', () => {
  const code = moduleFiles.filter((file) => file.startsWith('modules/calls/')).map(read).join('\n');
  const sent = [...read('modules/calls/calls.c').matchAll(/^ {4}\{"([a-z-]+)", (?:event|calls)_/gm)]
    .map(([, name]) => name);
  assert.ok(sent.length > 12);
  complete(sent, (name) => some(liveTests, new RegExp(`(?:command|refused|ask|emit)\\(['"]${name}['"]`)), {});
  const families = 'call|ring|user|peer|webrtc|ice|audio|video|screen|auth|server';
  const all = [...code, ...['src/clients.c', 'src/signal.c', 'src/daemon.c'].map(read)].join('');
  const names = [...new Set([...all.matchAll(new RegExp(`(?<!GET\\()"((?:${families})-[a-z]+(?:-[a-z]+)?)"`, 'g'))]
    .map(([, name]) => name))].filter((name) => !sent.includes(name));
  assert.ok(names.length > 8, names.join(', '));
  complete(names, (name) => some(liveTests, new RegExp(`(?:next|all)\\(['"]${name}['"]|['"]${name}['"]`)), {});
});
