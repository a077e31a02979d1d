// acceptance.tsv says which requirements work today, and which tests or pages show it. What it names must exist:
// a file, or `file#name` with a test (or heading) of that name in it, blanks written as underscores.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join, normalize } from 'node:path';
import test from 'node:test';

const top = new URL('../../', import.meta.url).pathname;
const read = (path) => readFileSync(join(top, path), 'utf8');
const list = 'spec-tests/acceptance.tsv';

/** What is wrong with the list's text, one line a fault. */
function faultsOf(text, { has, contentOf }) {
  const faults = [];
  const [head, ...rows] = text.trimEnd().split('\n');
  if (head !== 'id\tshown by') faults.push(`the first line is ${JSON.stringify(head)}`);
  const ids = rows.map((row) => row.split('\t')[0]);
  for (const [index, row] of rows.entries()) {
    const [id, shown, ...more] = row.split('\t');
    if (!/^S[0-4]-(0[1-9]|[1-9]\d{1,2})$/.test(id)) faults.push(`${id} is no id`);
    if (ids.indexOf(id) !== index) faults.push(`${id} stands there twice`);
    if (!shown?.trim() || more.length > 0 || shown !== shown.trim()) {
      faults.push(`${id}: a tab, then the files, and nothing else`);
      continue;
    }
    for (const one of shown.split(' ')) {
      const [path, name] = one.split('#');
      if (!path || normalize(path) !== path || path.startsWith('..') || !has(path)) faults.push(`${id}: no ${path}`);
      else if (name !== undefined && !named(contentOf(path), name)) faults.push(`${id}: no ${name} in ${path}`);
    }
  }
  return faults;
}

/** C tests are named as they are; the names of others have blanks and signs. */
function named(content, name) {
  const plain = (text) => text.replaceAll(/[^\w]+|_/g, ' ').trim();
  return name !== '' && content.split('\n').some((line) =>
    /\btest\(|TAP_RUN\(|^check |^#+ /.test(line.trim()) && ` ${plain(line)} `.includes(` ${plain(name)} `));
}

const files = { has: (path) => existsSync(join(top, path)) && statSync(join(top, path)).isFile(), contentOf: read };

test('every requirement that works names what shows it', () => {
  const text = read(list);
  assert.deepEqual(faultsOf(text, files), []);
  const ids = text.trimEnd().split('\n').slice(1).map((row) => row.split('\t')[0]);
  assert.ok(ids.length > 100, `${ids.length} requirements`);
  const order = (id) => Number(id[1]) * 1000 + Number(id.slice(3));
  assert.deepEqual(ids, [...ids].sort((a, b) => order(a) - order(b)), 'in the order of their numbers');
});

test('what is wrong with such a list is found', () => {
  const one = { has: (path) => path === 'a.mjs', contentOf: () => "test('a call’s end', limit, () => {});\n" };
  assert.deepEqual(faultsOf('id\tshown by\nS2-07\ta.mjs#a_call_s_end a.mjs\n', one), []);
  for (const [rows, fault] of [['S2-07\tb.mjs', 'no b.mjs'], ['S2-07\ta.mjs#another_end', 'no another_end'],
    ['S2-07\ta.mjs\nS2-07\ta.mjs', 'twice'], ['S9-07\ta.mjs', 'no id'], ['S2-7\ta.mjs', 'no id'], ['S2-07', 'a tab'],
    ['S2-07\ta.mjs\tb', 'a tab'], ['S2-07\t', 'a tab'], ['S2-07\t../a.mjs', 'no ../a.mjs'],
    ['S2-07\ta.mjs#', 'no  in']]) {
    const faults = faultsOf(`id\tshown by\n${rows}`, one);
    assert.ok(faults.some((text) => text.includes(fault)), `${rows}: ${faults}`);
  }
  assert.equal(faultsOf('S2-07\ta.mjs', one).length > 0, true, 'a head is asked for');
});
