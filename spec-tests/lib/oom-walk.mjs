// Calls, step by step, with one step's memory running out under it: what the clients are told, whether the step works
// when it is asked for again, and what the books say afterwards.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { answerOf, candidateOf, offerOf } from './sdp.mjs';
import { Tab } from './sockets.mjs';
import { request } from './matrix.mjs';
import { until } from './until.mjs';

const HANGS_MS = 15000;

/** What a step came to. `told`: a refusal or a connection that was closed. */
class Told extends Error {}

const late = (what) => new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`${what} hangs: no answer in ${HANGS_MS} ms`)), HANGS_MS).unref();
});

/** A call between two new users. Each step may run again after it failed. */
export class Walk {
  constructor(daemon, ledger, label) {
    Object.assign(this, { daemon, ledger, label, ...daemon.newPair() });
    this.keys = new Map();
  }

  close() {
    this.a?.close();
    this.b?.close();
  }

  acknowledged(type) {
    const entry = this.ledger.get(this.callId) ?? { label: this.label, types: new Set() };
    entry.types.add(type);
    this.ledger.set(this.callId, entry);
  }

  /** REST: the same request has the same key each time. */
  async rest(user, method, path, body, key = path) {
    if (!this.keys.has(key)) this.keys.set(key, randomUUID());
    let reply;
    try {
      reply = await Promise.race([late(path), request(this.daemon.url, method, path, { token: user.token, body,
        headers: { 'Idempotency-Key': this.keys.get(key) } })]);
    } catch (error) {
      if (/hangs/.test(error.message)) throw error;
      throw new Told(`closed: ${error.cause?.code ?? error.message}`);
    }
    if (reply.status >= 300) this.#refusal(path, reply.status, reply.body);
    return reply.body;
  }

  post(user, command, body = {}) {
    return this.rest(user, 'POST', `/api/calls/${this.callId}/${command}`, body, `${command} ${user.userId}`);
  }

  #refusal(what, status, body) {
    assert.match(String(body?.errcode), /^(M_|ORG\.CALLD\.)[A-Z_]+$/, `${what}: ${status} ${JSON.stringify(body)}`);
    assert.equal(typeof body.error, 'string');
    throw new Told(`${status} ${body.errcode}: ${body.error}`);
  }

  async connect(side, user) {
    const old = this[side];
    old?.close();
    const tab = new Tab(this.daemon.url, user, this.transports ? { transports: this.transports } : {});
    this[side] = tab;
    try {
      await Promise.race([late('connecting'), tab.connected(), new Promise((resolve, reject) => {
        tab.socket.once('disconnect', (reason) => reject(new Told(`closed: ${reason}`)));
      })]);
    } catch (error) {
      tab.close();
      this[side] = undefined;
      if (/hangs/.test(error.message)) throw error;
      if (error instanceof Told) throw error;
      throw new Told(`not connected: ${error.data ? JSON.stringify(error.data) : error.message}`);
    }
  }

  /** A socket command; a tab that was closed is opened again first, and takes its seat. */
  async emit(side, event, payload = {}) {
    const user = side === 'a' ? this.caller : this.callee;
    if (!this[side]?.socket.connected) {
      await this.connect(side, user);
      if (event === 'join-call') { // the daemon may not know yet that the former connection is gone
        payload = { ...payload, takeOver: true };
      } else if (this.callId && event !== 'call-initiate') {
        await this.emit(side, 'join-call', { callId: this.callId, takeOver: true });
      }
    }
    const { socket } = this[side];
    let ack;
    let gone;
    try {
      ack = await Promise.race([late(event), socket.emitWithAck(event, payload), new Promise((resolve, reject) => {
        gone = (reason) => reject(new Told(`closed: ${reason}`));
        socket.once('disconnect', gone);
      })]);
    } finally {
      socket.off('disconnect', gone);
    }
    if (ack.ok !== true) this.#refusal(event, '', ack);
    return ack;
  }

  async transaction(type, content) {
    this.events ??= new Map();
    if (!this.events.has(type)) {
      this.events.set(type, { id: randomUUID(), event: { type: `m.call.${type}`, event_id: `$${randomUUID()}`,
        room_id: this.roomId, sender: this.caller.userId, origin_server_ts: Date.now(),
        content: { call_id: this.matrixId, version: '1', party_id: 'ONE', ...content } } });
    }
    const { id, event } = this.events.get(type);
    let reply;
    try {
      reply = await Promise.race([late(`transaction ${type}`), this.daemon.transaction([event], { id })]);
    } catch (error) {
      if (/hangs/.test(error.message)) throw error;
      throw new Told(`closed: ${error.cause?.code ?? error.message}`);
    }
    if (reply.status !== 200) this.#refusal(`transaction ${type}`, reply.status, await reply.json());
    await reply.text();
  }

  /** The status of the call as its callee is told. */
  async isNow(...wanted) {
    const { status } = await this.rest(this.callee, 'GET', `/api/calls/${this.callId}`);
    assert.ok(wanted.includes(status), `${this.callId} is ${status}, not ${wanted}`);
  }

  /** Steps in their order: name, what is done, and what it makes true. */
  static rest = [
    ['initiate', async (w) => {
      w.callId = (await w.rest(w.caller, 'POST', '/api/calls/initiate', { roomId: w.roomId, offer: offerOf('o') })).callId;
      w.acknowledged('initiated');
    }],
    ['ice-candidate', (w) => w.post(w.caller, 'ice-candidate', { candidate: candidateOf(1) })],
    ['status', (w) => w.rest(w.callee, 'GET', `/api/calls/${w.callId}`)],
    ['answer', async (w) => {
      await w.post(w.callee, 'answer', { answer: answerOf('a') });
      w.acknowledged('answered');
    }],
    ['connected', async (w) => {
      await w.post(w.caller, 'connected');
      w.acknowledged('connected');
    }],
    ['events', (w) => w.rest(w.caller, 'GET', `/api/calls/${w.callId}/events`)],
    ['active', (w) => w.rest(w.caller, 'GET', '/api/calls/active')],
    ['session-token', (w) => w.rest(w.caller, 'POST', '/api/calls/session-token', {})],
    ['end', async (w) => {
      await w.post(w.callee, 'end');
      w.acknowledged('over');
    }],
  ];

  static socket = [
    ['connect', (w) => w.connect('a', w.caller)],
    ['connect callee', (w) => w.connect('b', w.callee)],
    ['call-initiate', async (w) => {
      try {
        w.callId = (await w.emit('a', 'call-initiate', { roomId: w.roomId, offer: offerOf('o') })).callId;
      } catch (error) { // the ack was lost with the connection, and the call was not
        const exists = await w.rest(w.caller, 'GET', '/api/calls/active').catch(() => null);
        if (!/CALL_EXISTS/.test(error.message) || !exists?.calls?.length) throw error;
        w.callId = exists.calls[0].callId;
        await w.emit('a', 'join-call', { callId: w.callId, takeOver: true });
      }
      w.acknowledged('initiated');
    }],
    ['join-call', (w) => w.emit('b', 'join-call', { callId: w.callId })],
    ['ice-candidate', (w) => w.emit('a', 'ice-candidate', { callId: w.callId, candidate: candidateOf(1) })],
    ['call-answer', async (w) => {
      try {
        await w.emit('b', 'call-answer', { callId: w.callId, answer: answerOf('a') });
      } catch (error) { // another socket than the one that has answered: its ack was lost
        if (!/The call is accepted/.test(error.message)) throw error;
      }
      w.acknowledged('answered');
    }],
    ['webrtc-offer', (w) => w.emit('a', 'webrtc-offer', { callId: w.callId, offer: offerOf('again') })],
    ['webrtc-answer', (w) => w.emit('b', 'webrtc-answer', { callId: w.callId, answer: answerOf('again') })],
    ['call-connected', async (w) => {
      await w.emit('b', 'call-connected', { callId: w.callId });
      w.acknowledged('connected');
    }],
    ['toggle-audio', (w) => w.emit('a', 'toggle-audio', { callId: w.callId, enabled: false })],
    ['call-end', async (w) => {
      await w.emit('a', 'call-end', { callId: w.callId });
      w.acknowledged('over');
    }],
  ];

  static matrix = [
    ['connect callee', (w) => w.connect('b', w.callee)],
    ['invite', async (w) => {
      w.matrixId ??= randomUUID();
      await w.transaction('invite', { lifetime: 60000, invitee: w.callee.userId, offer: offerOf('m') });
      w.invited = true;
    }],
    ['candidates', (w) => w.transaction('candidates', { candidates: [candidateOf(1)] })],
    ['answer', async (w) => {
      const active = await w.rest(w.callee, 'GET', '/api/calls/active');
      assert.equal(active.calls.length, 1, 'the call that Matrix began');
      w.callId = active.calls[0].callId;
      w.acknowledged('initiated');
      await w.post(w.callee, 'answer', { answer: answerOf('a') });
      w.acknowledged('answered');
    }],
    ['select_answer', (w) => w.transaction('select_answer', { selected_party_id: 'X' })],
    ['hangup', async (w) => {
      await w.transaction('hangup', { reason: 'user_hangup' });
      await until(async () => (await w.rest(w.callee, 'GET', `/api/calls/${w.callId}`)).status === 'ended');
      w.acknowledged('over');
    }],
  ];
}

/** Runs a step with a fault, and again without. @returns {{faults, seen, told, again}} */
export async function stumble(daemon, faults, walk, step, fault) {
  const out = { faults: 0, seen: 0, told: null, again: 0, ms: Date.now() };
  if (fault) faults.arm(fault.nth, fault);
  try {
    await step(walk);
  } catch (error) {
    if (!(error instanceof Told)) throw error;
    out.told = error.message;
  } finally {
    out.faults = fault ? faults.disarm() : 0;
    out.seen = faults.seen;
  }
  // A socket that missed something is closed; that may show in the next step only.
  if (out.told && !fault && !/closed|not connected/.test(out.told)) throw new Error(out.told);
  if (out.told) {
    await until(async () => {
      out.again += 1;
      await step(walk);
      return true;
    }, { what: `the step after "${out.told}"`, everyMs: 20, seconds: 20 });
  }
  out.ms = Date.now() - out.ms;
  return out;
}
