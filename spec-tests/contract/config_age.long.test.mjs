// calls.max_minutes: its least value is a minute, so this is one of the long tests.

import assert from 'node:assert/strict';
import test from 'node:test';
import { startDaemon } from './config_kit.mjs';

test('calls.max_minutes ends a call that both sides keep', { timeout: 180000 }, async (t) => {
  const daemon = await startDaemon(t, { 'calls.max_minutes': 1 });
  const { a, b, callId } = await daemon.answered();
  const connected = await a.command('call-connected', { callId });
  const end = await a.next('call-ended', callId, undefined, 120);
  assert.equal(end.status, 'ended');
  assert.equal(end.endReason, 'max_duration');
  assert.ok(end.durationSeconds <= 60, `${end.durationSeconds} s after ${connected.connectedAt}`);
  await b.next('call-ended', callId);
});
