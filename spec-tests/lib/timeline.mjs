// What a call must leave behind: its m.call.* events in the room, and its rows in the database.

import assert from 'node:assert/strict';
import { assertConforms } from './schemas.mjs';
import { quote } from './stack.mjs';
import { until } from './until.mjs';

/** Inside an SDP a candidate goes without its ufrag, which the SDP names once. */
const plain = (line) => line.replace(/ ufrag \S+/, '');
const candidateLines = (sdp) => [...sdp.matchAll(/^a=(candidate:.*?)\r?$/gm)].map((match) => plain(match[1]));

/** All candidates that a user's events of one call hold, whatever the batching. */
export function candidatesOf(events, userId) {
  return events.filter((event) => event.type === 'm.call.candidates' && event.sender === userId)
    .flatMap((event) => event.content.candidates.map((candidate) => candidate.candidate));
}

/** Candidates inside the SDP of a user's invite or answer. */
export function candidatesInSdp(events, userId) {
  return events.filter((event) => event.sender === userId)
    .flatMap((event) => candidateLines(event.content.offer?.sdp ?? event.content.answer?.sdp ?? ''));
}

/** Waits until the daemon has nothing left to send for a call, so that the room's timeline is complete. */
export function untilSent(stack, callId) {
  return until(async () => {
    const [row] = await stack.query(`SELECT count(*) FROM matrix_outbox WHERE call_session_id IN
      (SELECT id FROM call_sessions WHERE id = ${quote(callId)} OR matrix_call_id = ${quote(callId)})`);
    return Number(row.count) === 0;
  }, { what: 'an empty outbox', seconds: 60 });
}

/**
 * Fails unless the room holds exactly `expected` for this call, in that order, all of it conforming to the schemas.
 * @param {Array<{type: string, sender: MatrixUser, reason?: string}>} expected without the m.call. prefix;
 *   candidates are left out: compare them with `expectCandidates`
 * @returns {Promise<object[]>} all m.call.* events of the call, candidates too
 */
export async function expectTimeline(reader, roomId, callId, expected) {
  const describe = (event) => `${event.type} ${event.sender}${event.reason ? ` ${event.reason}` : ''}`;
  const wanted = expected.map(({ type, sender, reason }) =>
    describe({ type: `m.call.${type}`, sender: sender.userId, reason }));
  let events;
  const seen = () => events.filter((event) => event.type !== 'm.call.candidates').map((event, index) =>
    describe({ type: event.type, sender: event.sender, reason: expected[index]?.reason && event.content.reason }));
  await until(async () => {
    events = await reader.callEvents(roomId, callId);
    return seen().length >= wanted.length;
  }, { what: 'the timeline' }).catch(() => {});
  assert.deepEqual(seen(), wanted);
  assertConforms(events);
  for (const event of events) {
    assert.equal(event.content.version, '1');
    assert.ok(event.content.party_id, `${event.type} has a party_id`);
  }
  const parties = new Map();
  for (const event of events) {
    assert.equal(parties.get(event.sender) ?? event.content.party_id, event.content.party_id,
      'a user speaks as one party in a call');
    parties.set(event.sender, event.content.party_id);
  }
  return events;
}

/** What of `gathered` is in a user's SDP, and what has to come in events: the end too, unless nothing else has. */
function partition(events, user, gathered) {
  const inSdp = new Set(candidatesInSdp(events, user.userId));
  const apart = gathered.filter((line) => !inSdp.has(plain(line)));
  return { inSdp, apart: apart.join('') === '' ? [] : apart };
}

/** Waits until everything that a user's browser gathered, to the end, stands in the room. */
export function untilMirrored(reader, roomId, callId, user, page) {
  return until(async () => {
    const gathered = await page.gathered();
    if (!gathered.includes('')) return false;
    const events = await reader.callEvents(roomId, callId);
    const sent = new Set(candidatesOf(events, user.userId));
    return partition(events, user, gathered).apart.every((line) => sent.has(line));
  }, { what: `all candidates of ${user.userId} in the room` });
}

/** Fails unless a user's SDP and candidates events together hold exactly what that user's browser gathered. */
export function expectCandidates(events, user, gathered) {
  const { inSdp, apart } = partition(events, user, gathered);
  const sent = candidatesOf(events, user.userId);
  assert.equal(new Set(sent).size, sent.length, 'no candidate is sent twice');
  assert.deepEqual(sent.filter((line) => line === '' ? apart.length > 0 : !inSdp.has(line)), apart);
  assert.deepEqual([...inSdp].filter((line) => !gathered.map(plain).includes(line)), []);
}

/** The rows of one call. */
export async function recordOf(stack, callId) {
  const id = quote(callId);
  const [session] = await stack.query(`SELECT *, extract(epoch FROM initiated_at) * 1000 AS initiated_ms,
    extract(epoch FROM accepted_at) * 1000 AS accepted_ms, extract(epoch FROM connected_at) * 1000 AS connected_ms,
    extract(epoch FROM ended_at) * 1000 AS ended_ms FROM call_sessions
    WHERE id = ${id} OR matrix_call_id = ${id}`);
  assert.ok(session, `call ${callId} is stored`);
  const own = quote(session.id);
  return {
    session,
    participants: await stack.query(`SELECT * FROM call_participants WHERE call_session_id = ${own}`),
    events: await stack.query(`SELECT * FROM call_events WHERE call_session_id = ${own} ORDER BY seq`),
  };
}

/**
 * Fails unless the database holds the call as it was, with times in order and within those of the room's events.
 * @param {{caller, callee, roomId, status, endReason, endedBy?, callType?, answered?, connected?}} expected
 */
export async function expectRecord(stack, callId, expected) {
  const { caller, callee, roomId, status, endReason, endedBy, callType = 'video', answered = true,
    connected = answered } = expected;
  const record = await until(async () => {
    const found = await recordOf(stack, callId);
    return found.session.status === status && found;
  }, { what: `status ${status} in the database` });
  const { session, participants, events } = record;
  assert.equal(session.room_id, roomId);
  assert.equal(session.caller, caller.userId);
  assert.equal(session.callee, callee.userId);
  assert.equal(session.call_type, callType);
  assert.equal(session.end_reason, endReason);
  if (endedBy !== undefined) assert.equal(session.ended_by, endedBy?.userId ?? null);
  assert.equal(session.accepted_at !== null, answered, 'accepted_at');
  assert.equal(session.connected_at !== null, connected, 'connected_at');
  const times = [session.initiated_ms, session.accepted_ms, session.connected_ms, session.ended_ms]
    .filter((time) => time !== null);
  assert.deepEqual(times, [...times].sort((a, b) => a - b), 'times are in order');
  assert.deepEqual(participants.map((row) => row.user_id).sort(), [caller.userId, callee.userId].sort());
  const final = ['ended', 'rejected', 'missed', 'canceled', 'replaced'];
  for (const [types, time] of [[['initiated'], session.initiated_at], [['answered'], session.accepted_at],
    [['connected'], session.connected_at], [final, session.ended_at]]) {
    const found = events.filter((row) => types.includes(row.event_type)).map((row) => row.created_at);
    assert.deepEqual(found, time === null ? [] : [time], `${types[0]} is recorded with the session's time`);
  }
  const sequence = events.map((row) => Number(row.seq));
  assert.deepEqual(sequence, [...new Set(sequence)], 'events are numbered once');
  assert.doesNotMatch(JSON.stringify(events), /v=0|candidate:/, 'events hold neither SDP nor candidates');
  return record;
}
