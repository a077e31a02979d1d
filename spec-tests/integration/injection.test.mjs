// Text that would be something else in SQL, JSON, a log line or a header, through REST, sockets and Matrix events into
// PostgreSQL and the log, and back: it stays text, to the last character.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import test, { after, before } from 'node:test';
import { answerOf, candidateOf, offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { quote, startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';

const limit = { timeout: 120000 };
const forged = '{"ts":"2026-01-01T00:00:00.000Z","lvl":"error","ev":"forged","mod":"x","msg":"y"}';
const hostile = [
  `'); DROP TABLE calld.call_sessions; --`,
  `'' OR 1=1; SELECT pg_sleep(100) /* $1 %s %n {} */`,
  `","role":"admin","x":"`,
  `\\u0000 \\" \\\\ \\' E'\\\\x00'`,
  '${jndi:x} `id` $(id) ../../etc/passwd',
  `\u0001\u001b[31m\u2028\u202e\ufeff ä 🦊 \u00a0`,
  `</script><script>alert(1)</script>`,
];
const everything = hostile.join(' ');
const lines = `${everything}\r\n${forged}\n`;
let stack;

before(async () => {
  stack = await startStack({ set: { 'log.level': 'debug', 'limits.starts_per_hour': 0, 'limits.room_starts_per_hour': 0 } });
}, limit);

after(() => stack?.stop(), limit);

function body(reply, status = 200) {
  assert.equal(reply.status, status, JSON.stringify(reply.body));
  return reply.body;
}

const tables = () => stack.query("SELECT count(*)::integer AS n FROM pg_tables WHERE schemaname = 'calld'");
const utf8 = (text) => Buffer.from(text).toString('latin1'); // what fetch sends as these bytes

/** Every line of the daemon's log is one that the daemon wrote. */
function checkLog() {
  const log = stack.log('matrix-calld').split('\n').filter((line) => line.startsWith('{'));
  assert.ok(log.length > 20);
  for (const line of log) {
    const entry = JSON.parse(line);
    assert.notEqual(entry.ev, 'forged', line);
    assert.equal(typeof entry.msg, 'string');
    assert.doesNotMatch(line, /[\u0000-\u001f\u007f]/);
  }
  return log;
}

test('display names, keys, SDP and candidates come back from the database as they were', limit, async () => {
  const [caller, callee] = await Promise.all([stack.newUser(), stack.newUser()]);
  const before = await tables();
  const name = everything.slice(0, 250);
  await caller.api('PUT', `/profile/${encodeURIComponent(caller.userId)}/displayname`, { displayname: name });
  const roomId = await caller.roomWith(callee);
  const asCaller = stack.as(caller);
  const asCallee = stack.as(callee);
  const offer = { ...offerOf('x'), sdp: `${offerOf('x').sdp}a=x-${lines}` };
  const key = hostile.slice(0, 3).join(' ').slice(0, 200);
  const start = () => asCaller.post('/api/calls/initiate', { roomId, offer, ...{ [hostile[0]]: hostile[1] } },
    { headers: { 'Idempotency-Key': utf8(key), 'X-Request-ID': utf8(everything.replaceAll(/[\u0000-\u001f]/g, '')) } });
  const reply = await start();
  const call = body(reply, 201);
  assert.match(reply.headers.get('x-request-id'), /^[\w-]+$/, 'a strange request id is not echoed');
  assert.equal(call.offer.sdp, offer.sdp);
  const path = (rest = '') => `/api/calls/${call.callId}${rest}`;
  const nameOf = (one) => one.participants.find(({ userId }) => userId === caller.userId).displayName;
  assert.equal(nameOf(call), name);
  assert.equal(nameOf(body(await asCallee.get(path()))), name);
  const candidate = { ...candidateOf(1), sdpMid: hostile[0], usernameFragment: hostile[3] };
  body(await asCaller.post(path('/ice-candidate'), { candidates: [candidate] }));

  assert.deepEqual(await stack.query(`SELECT key, status FROM idempotency_keys WHERE key = ${quote(key)}`), [{ key, status: 201 }]);
  const lasting = ({ iceServers, ...rest }) => rest; // the TURN password is new each time
  assert.deepEqual(lasting(body(await start(), 201)), lasting(call), 'the kept answer is the answer');
  assert.deepEqual(await stack.query(`SELECT display_name FROM call_participants WHERE call_session_id = '${call.callId}'
    AND user_id = ${quote(caller.userId)}`), [{ display_name: name }]);
  assert.ok((await stack.query(`SELECT display_name FROM room_members WHERE user_id = ${quote(caller.userId)}`))
    .some((row) => row.display_name === name));
  const signals = await until(async () => {
    const rows = await stack.query(`SELECT payload FROM call_signals WHERE call_session_id = '${call.callId}' ORDER BY seq`);
    return rows.length >= 2 && rows.map(({ payload }) => JSON.parse(payload));
  }, { what: 'the signals in the database' });
  assert.ok(JSON.stringify(signals).includes(JSON.stringify(offer.sdp)));
  assert.ok(JSON.stringify(signals).includes(JSON.stringify(hostile[3])));
  const { missed } = body(await asCallee.get(path('/events?after=0')));
  assert.deepEqual(missed.flatMap((event) => event.candidates ?? event.candidate ?? [])[0], candidate);

  body(await asCallee.post(path('/answer'), { answer: answerOf('y') }));
  body(await asCaller.post(path('/end')));
  assert.deepEqual(await tables(), before, 'all tables are there');
  const log = checkLog().join('\n');
  for (const secret of ['x-\'); DROP', 'candidate:1 1 udp']) assert.ok(!log.includes(secret), 'no SDP and no candidate is logged');
});

test('what is no id finds nothing, and what no text column can hold is refused', limit, async () => {
  const { caller, roomId } = await stack.newPair();
  const asCaller = stack.as(caller);
  const before = await stack.query('SELECT count(*)::integer AS n FROM call_sessions');
  for (const text of [...hostile, lines]) {
    const reply = await asCaller.get(`/api/calls/${encodeURIComponent(text)}`);
    assert.ok([400, 404].includes(reply.status), `${reply.status} ${text}`);
    const start = await asCaller.post('/api/calls/initiate', { roomId: `!${text}:${roomId.split(':')[1]}` });
    assert.ok([400, 404].includes(start.status), `${start.status} ${text}`);
    const reason = await asCaller.post('/api/calls/initiate', { roomId, callType: text });
    assert.equal(reason.status, 400, text);
    assert.equal(typeof reason.body.error, 'string');
    const query = await asCaller.get(`/api/calls/history?limit=1&after=${encodeURIComponent(text)}`);
    assert.ok(query.status >= 400 && query.status < 500, String(query.status));
  }
  for (const nul of ['\u0000', '\ud800']) {
    const offer = { ...offerOf('x'), sdp: `${offerOf('x').sdp}${nul}` };
    assert.equal((await asCaller.post('/api/calls/initiate', { roomId, offer })).status, 400);
  }
  assert.equal((await asCaller.get('/api/calls/a%00b')).status, 400);
  assert.equal((await asCaller.post('/api/calls/initiate', { roomId },
    { headers: { 'Idempotency-Key': '\u00ff' } })).status, 400, 'a key that is not UTF-8');
  assert.deepEqual(await stack.query('SELECT count(*)::integer AS n FROM call_sessions'), before);
  assert.ok(checkLog().some((line) => line.includes('DROP%20TABLE')), 'the path was logged, as it was sent');
});

test('a Matrix event with such ids is recorded, shown and ended under them', limit, async () => {
  const { caller, callee, roomId } = await stack.newPair();
  const tab = await Tab.open(stack.daemon, callee);
  const callId = `${hostile[0]}\n${forged}${randomUUID()}`.slice(0, 200);
  const content = { call_id: callId, version: '1', party_id: hostile[2], lifetime: 60000, offer: offerOf('m') };
  await caller.send(roomId, 'm.call.invite', content);
  const ring = await tab.next('call-ringing', undefined, (one) => one.roomId === roomId);
  assert.deepEqual(await stack.query(`SELECT matrix_call_id, caller FROM call_sessions WHERE id = ${quote(ring.callId)}`),
    [{ matrix_call_id: callId, caller: caller.userId }]);
  assert.deepEqual(await stack.query(`SELECT party_id FROM call_participants WHERE call_session_id = ${quote(ring.callId)}
    AND user_id = ${quote(caller.userId)}`), [{ party_id: hostile[2] }]);
  const seen = body(await stack.as(callee).get(`/api/calls/${encodeURIComponent(ring.callId)}`));
  assert.equal(seen.caller, caller.userId);
  await caller.send(roomId, 'm.call.hangup', { call_id: callId, version: '1', party_id: hostile[2], reason: 'user_hangup' });
  await tab.next('call-ended', ring.callId);
  tab.close();
  checkLog();
});
