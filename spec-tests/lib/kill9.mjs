// Calls that go on while the daemon is killed under them, and the audit afterwards: what was acknowledged must be there,
// once, in the database and in the rooms.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { answerOf, candidateOf, offerOf } from './sdp.mjs';
import { Tab } from './sockets.mjs';
import { binary } from './stack.mjs';
import { until } from './until.mjs';

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** A generator of numbers in [0, 1) that a seed repeats. */
export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A daemon that is started, killed and started again. */
export class Mortal {
  constructor(config) {
    this.config = config;
    this.deaths = 0;
  }

  async start() {
    this.startedAt = Date.now();
    this.child = spawn(binary, ['-c', this.config], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.child.stderr.setEncoding('utf8').on('data', (text) => { this.log = ((this.log ?? '') + text).slice(-20000); });
    this.exit = once(this.child, 'exit');
    const lines = createInterface({ input: this.child.stdout });
    const [line] = await Promise.race([once(lines, 'line'), this.exit.then(() => ['(ended)'])]);
    if (line !== 'ready') throw new Error(`the daemon did not start again: ${this.log}`);
  }

  /** No chance to write anything down. */
  async kill() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) {
      throw new Error(`the daemon had ended by itself (${this.child.exitCode ?? this.child.signalCode}): ${this.log}`);
    }
    this.child.kill('SIGKILL');
    const [, signal] = await this.exit;
    if (signal !== 'SIGKILL') throw new Error('it was not killed');
    this.deaths += 1;
  }

  async stop() {
    this.child.kill('SIGTERM');
    return (await this.exit)[0];
  }
}

/** Everything that somebody was told. */
export class Ledger {
  constructor() {
    this.calls = new Map();
    this.seats = { returned: 0, refused: [] };
    this.undone = []; // acknowledged, and then not so
    this.odd = []; // answers that should not have been given
  }

  acknowledged(callId, type) {
    const call = this.calls.get(callId) ?? { acknowledged: [], candidates: [] };
    call.acknowledged.push(type);
    this.calls.set(callId, call);
    return call;
  }
}

/** A caller and a callee in a room of theirs, one call after the other. */
export class Pair {
  constructor(stack, ledger, random, { caller, callee, roomId }, { matrixCallee }) {
    Object.assign(this, { stack, ledger, random, caller, callee, roomId, matrixCallee });
    this.started = 0;
  }

  /** Sends until somebody answers: the same request, the same key. */
  async persist(user, path, body) {
    const key = randomUUID();
    return until(async () => {
      const reply = await this.stack.as(user).post(path, body, { headers: { 'Idempotency-Key': key } });
      return reply.status === 503 || reply.status === 502 || reply.status === 429 ? null : reply;
    }, { what: path, seconds: 90, everyMs: 15 });
  }

  async command(user, callId, command, type, body = {}) {
    const reply = await this.persist(user, `/api/calls/${callId}/${command}`, body);
    // Its ring time ended first: on a busy machine, with deaths in between, that happens; the audit looks at the time.
    if (reply.status === 409 && reply.body.status === 'missed') return null;
    if (reply.status !== 200) {
      this.ledger.odd.push(`${command} of ${callId}: ${reply.status} ${JSON.stringify(reply.body)}`);
      return null;
    }
    this.ledger.acknowledged(callId, type);
    return reply.body;
  }

  /** Signals are accepted, not durable: one attempt, whatever becomes of it. */
  async candidate(user, callId) {
    const candidate = candidateOf(Math.floor(this.random() * 1e9));
    await this.stack.as(user).post(`/api/calls/${callId}/ice-candidate`, { candidate }).catch(() => {});
  }

  think() {
    return pause(this.random() * 250);
  }

  async status(callId) {
    return until(async () => {
      const { status, body } = await this.stack.as(this.caller).get(`/api/calls/${callId}`);
      return status === 200 && body;
    }, { what: `the status of ${callId}`, seconds: 90, everyMs: 20 });
  }

  /** What the homeserver has to bring comes late: it waits longer after each attempt that met a dead daemon. */
  untilStatus(callId, wanted) {
    return until(async () => wanted.includes((await this.status(callId)).status),
      { what: `${callId} to be ${wanted}`, seconds: 600, everyMs: 100 });
  }

  async start() {
    const body = { roomId: this.roomId, offer: offerOf(`o${this.started}`), ringSeconds: 15 };
    const reply = await this.persist(this.caller, '/api/calls/initiate', body);
    if (reply.body.errcode === 'ORG.CALLD.CALL_EXISTS') { // the pair's last call is over, as somebody was told
      this.ledger.undone.push(`the end of ${reply.body.callId}`);
      await this.persist(this.caller, `/api/calls/${reply.body.callId}/end`, {});
      return this.start();
    }
    if (reply.status !== 201) throw new Error(`initiate: ${reply.status} ${JSON.stringify(reply.body)}`);
    this.started += 1;
    this.ledger.acknowledged(reply.body.callId, 'initiated');
    return reply.body.callId;
  }

  async one() {
    const callId = await this.start();
    const dice = this.random();
    await this.think();
    if (dice < 0.15) await this.command(this.caller, callId, 'end', 'over');
    else if (dice < 0.3) await this.command(this.callee, callId, 'reject', 'over');
    else if (dice < 0.36) await this.untilStatus(callId, ['missed']);
    else if (this.matrixCallee) await this.answeredByMatrix(callId);
    else await this.answered(callId);
  }

  async answered(callId) {
    const seat = await this.command(this.callee, callId, 'answer', 'answered', { answer: answerOf('a') });
    if (!seat) return;
    this.seat = { callId, partyId: seat.partyId };
    const sat = this.tab ? this.sit() : null;
    for (let n = 0; n < 3; n += 1) {
      await this.candidate(this.random() < 0.5 ? this.caller : this.callee, callId);
      await this.think();
    }
    if (!await this.command(this.caller, callId, 'connected', 'connected')) return;
    await this.think();
    await sat;
    this.seat = null;
    await this.command(this.random() < 0.5 ? this.caller : this.callee, callId, 'end', 'over');
  }

  async answeredByMatrix(callId) {
    const party = `P${randomUUID().slice(0, 8)}`;
    const send = (type, content) => this.callee.send(this.roomId, `m.call.${type}`,
      { call_id: callId, version: '1', party_id: party, ...content });
    await until(async () => (await this.callee.callEvents(this.roomId, callId)).some((e) => e.type === 'm.call.invite')
      || (await this.status(callId)).status !== 'ringing', { what: 'the invite', seconds: 90, everyMs: 150 });
    if ((await this.status(callId)).status !== 'ringing') return;
    await send('answer', { answer: answerOf('m') });
    await this.untilStatus(callId, ['accepted', 'connected', 'missed']);
    if ((await this.status(callId)).status === 'missed') return; // the homeserver brought it too late
    this.ledger.acknowledged(callId, 'answered');
    await this.candidate(this.caller, callId);
    await this.think();
    if (this.random() < 0.5) {
      await send('hangup', { reason: 'user_hangup' });
      await this.untilStatus(callId, ['ended', 'failed']);
      this.ledger.acknowledged(callId, 'over');
    } else {
      await this.command(this.caller, callId, 'end', 'over');
    }
  }

  /** A tab of the callee that comes back to its seat after each death. */
  openTab() {
    this.tab = new Tab(this.stack.daemon, this.callee, { reconnection: true, reconnectionDelay: 20,
      reconnectionDelayMax: 100, transports: ['websocket'] });
    this.tab.socket.on('connect', () => { if (this.seat) this.sit().catch(() => {}); });
  }

  /** Joins, again and again until it may; a call that is over meanwhile needs no seat. */
  async sit() {
    const { seat } = this;
    await until(async () => {
      if (this.seat !== seat) return true;
      const ack = await this.tab.socket.timeout(2000).emitWithAck('join-call', seat);
      if (ack.ok && ack.partyId === seat.partyId) {
        this.ledger.seats.returned += 1;
        return true;
      }
      if (ack.errcode === 'ORG.CALLD.SEAT_TAKEN' || (ack.ok && ack.partyId !== seat.partyId)) {
        this.ledger.seats.refused.push(JSON.stringify(ack));
        return true;
      }
      return ack.errcode === 'ORG.CALLD.INVALID_STATE';
    }, { what: 'the seat', seconds: 60, everyMs: 30 });
  }

  async run(goesOn) {
    if (!this.matrixCallee) this.openTab();
    while (goesOn()) await this.one();
    this.tab?.close();
  }
}

const FINAL = ['ended', 'rejected', 'missed', 'canceled'];
const ONCE = ['m.call.invite', 'm.call.answer', 'm.call.select_answer', 'm.call.reject', 'm.call.hangup'];
const SLACK_MS = 5000; // what was on its way when its deadline came

const counted = (list, keyOf) => {
  const counts = new Map();
  for (const one of list) counts.set(keyOf(one), (counts.get(keyOf(one)) ?? 0) + 1);
  return counts;
};

/** What the database says about the acknowledged: {lost: [], doubled: []}, a sentence each. */
export async function auditDatabase(stack, ledger, pairs) {
  const lost = [];
  const doubled = [];
  const events = await stack.query('SELECT call_session_id AS id, event_type AS type, seq FROM call_events');
  const sessions = await stack.query(`SELECT id, room_id, status, status = 'missed' AND ended_at < ring_expires_at AS early
    FROM call_sessions`);
  const types = counted(events, (event) => `${event.id} ${event.type}`);
  for (const [key, n] of counted(events, (event) => `${event.id} ${event.seq}`)) {
    if (n > 1) doubled.push(`the number ${key} was given out ${n} times`);
  }
  for (const { id } of sessions) {
    const finals = FINAL.reduce((sum, type) => sum + (types.get(`${id} ${type}`) ?? 0), 0);
    if (finals > 1) doubled.push(`${id} ended ${finals} times`);
    for (const type of ['initiated', 'answered', 'connected']) {
      if ((types.get(`${id} ${type}`) ?? 0) > 1) doubled.push(`${id} was ${type} more than once`);
    }
  }
  for (const [id, { acknowledged }] of ledger.calls) {
    for (const type of acknowledged) {
      const there = type === 'over' ? FINAL.some((final) => types.has(`${id} ${final}`)) : types.has(`${id} ${type}`);
      if (!there) lost.push(`${id}: ${type}`);
    }
  }
  const rooms = counted(sessions, (session) => session.room_id);
  for (const { roomId, started } of pairs) {
    if ((rooms.get(roomId) ?? 0) > started) doubled.push(`${roomId}: ${rooms.get(roomId)} calls of ${started} starts`);
  }
  for (const { id, status, early } of sessions) {
    if (early) lost.push(`${id} was missed before its time`);
    if (['ringing', 'accepted', 'connected'].includes(status)) lost.push(`${id} is ${status} for ever`);
  }
  return { lost, doubled };
}

/** What stands where about one call, for whoever looks into a loss. */
async function story(stack, id, own) {
  const [session] = await stack.query(`SELECT status, end_reason, invite_tried, version, initiated_at, accepted_at, ended_at
    FROM call_sessions WHERE id = '${id}'`);
  const events = await stack.query(`SELECT event_type AS type, user_id AS "by", created_at AS at FROM call_events
    WHERE call_session_id = '${id}' ORDER BY seq`);
  return { ...session, events, room: own.map((event) => ({ type: event.type, sender: event.sender, at: event.origin_server_ts })) };
}

/** The same of one room's timeline. */
export async function auditRoom(stack, pair) {
  const lost = [];
  const doubled = [];
  const late = [];
  const rows = await stack.query(`SELECT id, ring_seconds, (extract(epoch FROM initiated_at) * 1000)::bigint AS started,
    (extract(epoch FROM ended_at) * 1000)::bigint AS ended FROM call_sessions WHERE room_id = '${pair.roomId}'`);
  const calls = new Map(rows.map((row) => [row.id, row]));
  const events = await pair.callee.callEvents(pair.roomId);
  const ofType = counted(events.filter((event) => ONCE.includes(event.type)),
    (event) => `${event.content.call_id} ${event.type} ${event.sender}`);
  for (const [key, n] of ofType) if (n > 1) doubled.push(`${key}: ${n} times in the room`);
  const candidates = counted(events.filter((event) => event.type === 'm.call.candidates')
    .flatMap((event) => event.content.candidates.filter((one) => one.candidate)
      .map((one) => `${event.content.call_id} ${event.sender} ${one.candidate}`)), (key) => key);
  for (const [key, n] of candidates) if (n > 1) doubled.push(`${key}: ${n} times in the room`);
  for (const [id, call] of calls) {
    const own = events.filter((event) => event.content.call_id === id);
    const invite = own.find((event) => event.type === 'm.call.invite');
    if (invite && !own.some((event) => ['m.call.hangup', 'm.call.reject'].includes(event.type))) {
      lost.push(`${id} has an invite in the room and no end: ${JSON.stringify(await story(stack, id, own))}`);
    }
    if (invite && invite.origin_server_ts > call.started + call.ring_seconds * 1000 + SLACK_MS) late.push(`invite of ${id}`);
    for (const event of own) {
      if (['m.call.candidates', 'm.call.negotiate'].includes(event.type) && event.sender === pair.caller.userId &&
          event.origin_server_ts > call.ended + SLACK_MS) late.push(`${event.type} of ${id}`);
    }
  }
  return { lost, doubled, late };
}
