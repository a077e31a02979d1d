// The judge is judged: the official schemas accept the specification's own examples, and refuse broken ones.

import assert from 'node:assert/strict';
import test from 'node:test';
import { assertConforms, eventTypes, exampleOf, problems } from '../lib/schemas.mjs';

for (const type of eventTypes) {
  test(`${type}: the specification's example conforms, broken ones do not`, () => {
    const example = exampleOf(type);
    assert.deepEqual(problems(example), []);
    const { call_id: callId, ...rest } = example.content;
    assert.ok(callId);
    assert.notDeepEqual(problems({ ...example, content: rest }), [], 'without call_id');
    assert.notDeepEqual(problems({ ...example, content: { ...example.content, version: 1 } }), [], 'version 1 as number');
    assert.notDeepEqual(problems({ ...example, sender: 'nobody' }), [], 'a sender that is no user id');
    assert.throws(() => assertConforms([example, { ...example, content: rest }]));
  });
}

test('an event type without a schema does not pass', () => {
  assert.notDeepEqual(problems({ type: 'm.call.unheard_of', content: {} }), []);
});
