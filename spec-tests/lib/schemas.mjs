// Validates m.call.* events against the Matrix specification's own schemas (spec-tests/schemas).

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import Ajv2020 from 'ajv/dist/2020.js';
import { parse } from 'yaml';

const root = new URL('../schemas/event-schemas/', import.meta.url).pathname;
const base = 'https://schemas.invalid/';

function load() {
  // The files carry annotations that are no JSON Schema keywords (x-weight and the like).
  const ajv = new Ajv2020({ strict: false, allErrors: true, validateFormats: false });
  for (const folder of ['', 'core-event-schema/', 'components/']) {
    for (const file of readdirSync(join(root, 'schema', folder)).filter((name) => name.endsWith('.yaml'))) {
      const schema = parse(readFileSync(join(root, 'schema', folder, file), 'utf8'));
      ajv.addSchema({ ...schema, $id: base + folder + file });
    }
  }
  return ajv;
}

const ajv = load();

/** The event types that have a schema. */
export const eventTypes = readdirSync(join(root, 'schema'))
  .filter((name) => name.startsWith('m.call.')).map((name) => basename(name, '.yaml'));

/** What is wrong with a whole room event, as texts; empty when it conforms. */
export function problems(event) {
  const validate = ajv.getSchema(`${base}${event.type}.yaml`);
  if (!validate) return [`${event.type} has no schema`];
  if (validate(event)) return [];
  return validate.errors.map((error) => `${event.type}${error.instancePath}: ${error.message}`);
}

/** Fails unless every event conforms. */
export function assertConforms(events) {
  assert.deepEqual(events.flatMap(problems), []);
}

function resolveExample(file) {
  const text = readFileSync(join(root, 'examples', file), 'utf8');
  const example = file.endsWith('.json') ? JSON.parse(text) : parse(text);
  const { $ref: reference, ...own } = example;
  return reference ? { ...resolveExample(join(dirname(file), reference)), ...own } : own;
}

/** The specification's own example of an event type. */
export function exampleOf(type) {
  return resolveExample(`${type}.yaml`);
}
