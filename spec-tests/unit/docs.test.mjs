// What the documents say exists: files, settings, metrics, log events, routes; the sample and the manual are current.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import test from 'node:test';

const top = new URL('../../', import.meta.url).pathname;
const binary = process.env.MATRIX_CALLD ?? join(top, 'build/matrix-calld');
const read = (path) => readFileSync(join(top, path), 'utf8');
const documents = ['README.md', 'CHANGELOG.md', 'contrib/HACKING.md', 'contrib/SECURITY.md', 'synapse-bridge/README.md'];

function sources(folder) {
  return readdirSync(join(top, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return sources(path);
    return /\.(c|h|def)$/.test(entry.name) ? [path] : [];
  });
}
const code = [...sources('src'), ...sources('modules')].map(read).join('\n');
const prose = (text) => text.replaceAll(/^```[^]*?^```/gm, '');
const spans = (text) => [...prose(text).matchAll(/`([^`\n]+)`/g)].map((match) => match[1]);
const all = (text, pattern) => [...new Set([...text.matchAll(pattern)].map((match) => match[1] ?? match[0]))];

const sample = execFileSync(binary, ['sample-config'], { encoding: 'utf8' });
const settings = [];
for (const line of sample.split('\n')) {
  const section = line.match(/^\[(\w+)\]/)?.[1];
  const key = line.match(/^#(\w+) =/)?.[1];
  if (section) settings.section = section;
  else if (key) settings.push(`${settings.section}.${key}`);
}

test('the sample file is what the daemon prints', () => {
  assert.ok(settings.length > 40);
  assert.equal(read('contrib/matrix-calld.conf.sample'), sample);
});

test('links and named paths lead somewhere', () => {
  for (const document of documents) {
    const text = read(document);
    for (const link of all(prose(text), /\]\((?!https?:|#)([^)]+)\)/g)) {
      assert.ok(existsSync(join(top, dirname(document), link)), `${document}: ${link}`);
    }
    for (const span of spans(text)) {
      if (!/^(src|modules|contrib|spec-tests|migrations|synapse-bridge)\/[\w./-]*\w$/.test(span)) continue;
      if (/NNN_/.test(span)) continue;
      assert.ok(existsSync(join(top, span)), `${document}: ${span}`);
    }
  }
});

test('each test that the security review names is there', () => {
  const named = spans(read('contrib/SECURITY.md')).map((span) => /^([a-z]+\/[\w.]+\.(?:mjs|c)): (.+)$/.exec(span)).filter(Boolean);
  assert.ok(named.length > 40, `${named.length} tests are named`);
  for (const [span, file, name] of named) {
    assert.ok(existsSync(join(top, 'spec-tests', file)), span);
    // A quote inside a name is escaped in its source.
    assert.ok(read(`spec-tests/${file}`).replaceAll("\\'", "'").includes(name), span);
  }
});

test('settings that README names exist', () => {
  const sections = all(settings.join('\n'), /^(\w+)\./gm).join('|');
  const named = spans(read('README.md')).flatMap((span) => all(span, new RegExp(`^(?:${sections})\\.(?!c\\b)[a-z_]+(?= |$)`, 'g')));
  assert.ok(named.length >= 8);
  for (const block of all(read('README.md'), /^```ini\n([^]*?)^```/gm)) {
    let section;
    for (const line of block.split('\n')) {
      section = line.match(/^\[(\w+)\]/)?.[1] ?? section;
      const key = line.match(/^(\w+) =/)?.[1];
      if (key) named.push(`${section}.${key.replace(/^(turn_secret|url)_file$/, '$1')}`);
    }
  }
  for (const name of named) assert.ok(settings.includes(name), name);
});

test('metrics, log events, errors and statuses that README names exist', () => {
  const text = read('README.md');
  const metrics = all(text, /\bcalld_(\w+)/g);
  assert.ok(metrics.length > 5);
  for (const name of metrics) {
    const short = name.replace(/^matrix_/, '');
    assert.ok(code.includes(`"${name}"`) || code.includes(`calld_${name}`) || code.includes(`"${short}"`), name);
  }
  const night = text.slice(text.indexOf('## At 3 a.m.'), text.indexOf('## Security'));
  const events = spans(night).filter((span) => /^[a-z]+\.(?!key\b)[a-z]+$/.test(span) && !settings.includes(span));
  assert.ok(events.length > 10);
  for (const name of events) assert.ok(code.includes(`"${name}"`), name);
  for (const name of all(text, /\b(?:M|ORG\.CALLD\.|unavailable|waiting)_[A-Za-z_]+\b/g)) {
    assert.ok(code.includes(`"${name}"`), name);
  }
});

test('socket events of the printed client exist', () => {
  const client = read('README.md').match(/docs_test: client -->\n```js\n([^]*?)```/)[1];
  const names = all(client, /"((?:call|webrtc|ice|join)-[a-z-]+)"/g);
  assert.ok(names.length > 8);
  for (const name of names) assert.ok(code.includes(`"${name}"`), name);
});

test('the manual has every setting and no groff warnings', (t) => {
  const manual = execFileSync('sh', [join(top, 'contrib/man/conf-man.sh'),
    join(top, 'contrib/matrix-calld.conf.sample')], { encoding: 'utf8' });
  for (const name of settings) {
    assert.match(manual, new RegExp(`^\\.(B|BI) "?${name.split('.')[1]}\\b`, 'm'), name);
  }
  const usage = execFileSync(binary, ['--help'], { encoding: 'utf8' });
  const daemon = read('contrib/man/matrix-calld.8').replaceAll('\\-', '-');
  for (const command of all(usage, /^ {2}([a-z]+-?[a-z]+) /gm)) assert.ok(daemon.includes(command), command);
  if (spawnSync('groff', ['--version']).error) {
    t.diagnostic('groff is not installed: warnings were not looked for');
    return;
  }
  for (const page of [manual, read('contrib/man/matrix-calld.8')]) {
    const done = spawnSync('groff', ['-ww', '-man', '-Tutf8'], { input: page, encoding: 'utf8' });
    assert.equal(done.stderr, '');
    assert.equal(done.status, 0);
  }
});

test('the linter finds what it is there for', () => {
  const lint = (text) => spawnSync('python3', [join(top, 'contrib/lint/checksrc'), '--stdin', 'src/call/probe.c'],
    { input: text, encoding: 'utf8', cwd: top });
  const good = lint('/* probe.c -- nothing. */\n#include "base/str.h"\nint probe; /* sprintf( in a comment */\n');
  assert.equal(good.status, 0, good.stdout);
  for (const [line, complaint] of [['#include <sodium.h>', 'door'], ['#include "loop/loop.h"', 'must not know'],
    ['#include "core.h"', 'above it'], ['void f(char *a) { strcpy(a, ""); }', 'banned'], ['int f; // no', 'comments'],
    [`int ${'f'.repeat(120)};`, 'columns'], ['int f; ', 'blanks']]) {
    const bad = lint(`/* probe.c -- nothing. */\n${line}\n`);
    assert.equal(bad.status, 1, line);
    assert.match(bad.stdout, new RegExp(complaint), line);
  }
});
