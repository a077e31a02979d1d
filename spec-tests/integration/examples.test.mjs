// The examples that people copy from must work as they stand.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { promisify } from 'node:util';
import { startStack, top } from '../lib/stack.mjs';

const run = promisify(execFile);
const limit = { timeout: 120000 };
let stack;

before(async () => {
  stack = await startStack();
}, limit);

after(() => stack?.stop(), limit);

test('call-by-curl carries a call from start to end', limit, async () => {
  const script = join(top, 'contrib/examples/call-by-curl');
  const { stdout } = await run(script, [join(stack.directory, 'stack.json')]);
  const ended = JSON.parse(stdout);
  assert.equal(ended.status, 'ended');
  assert.equal(ended.endReason, 'user_hangup');
  assert.equal(ended.endedBy, stack.users[1].userId);
  const rows = await stack.query('SELECT id, status FROM call_sessions');
  assert.deepEqual(rows, [{ id: ended.callId, status: 'ended' }]);
});

test('call-by-curl says why it was refused', limit, async () => {
  const failure = await run(join(top, 'contrib/examples/call-by-curl'), [], { env: { ...process.env,
    DAEMON: stack.daemon, ROOM: stack.roomId, CALLER_TOKEN: 'syt_d3Jvbmc_abcdefghijklmnopqrst_0aBcDe', CALLEE_TOKEN: 'x' } })
    .then(() => assert.fail('it succeeded'), (error) => error);
  assert.notEqual(failure.code, 0);
  assert.match(`${failure.stdout}${failure.stderr}`, /M_UNKNOWN_TOKEN/);
});
