// Every body that the daemon can write, held against the Matrix specification's own schemas: the unit test program
// prints them, so that this needs no server.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { assertConforms, eventTypes } from '../lib/schemas.mjs';
import { top } from '../lib/stack.mjs';

const program = join(process.env.BUILD_DIR ?? join(top, 'build'), 'spec-tests/unit/mx_content_test');
const events = execFileSync(program, ['--bodies'], { encoding: 'utf8' }).trim().split('\n')
  .map((line) => JSON.parse(line));

test('each event type that we send conforms to its schema', () => {
  assertConforms(events);
  assert.deepEqual([...new Set(events.map((event) => event.type))].sort(), [...eventTypes].sort());
});

test('what strict clients choke on is never there', () => {
  for (const { content } of events) {
    assert.equal(content.version, '1');
    assert.equal(typeof content.party_id, 'string');
    assert.ok(!('conf_id' in content));
    assert.ok(!JSON.stringify(content).includes('null'), JSON.stringify(content));
    if ('lifetime' in content) assert.ok(Number.isInteger(content.lifetime));
    assert.equal('sdp_stream_metadata' in content, 'org.matrix.msc3077.sdp_stream_metadata' in content);
    assert.deepEqual(content.sdp_stream_metadata, content['org.matrix.msc3077.sdp_stream_metadata']);
  }
});
