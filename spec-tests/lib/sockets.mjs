// The stock socket.io-client as one user's tab: it keeps everything it heard, so that tests can wait and count.

import assert from 'node:assert/strict';
import { io } from 'socket.io-client';
import { until } from './until.mjs';

export class Tab {
  /** Connects; fails when refused. `options` go to socket.io-client as they are. */
  static async open(origin, user, options = {}) {
    const tab = new Tab(origin, user, options);
    await tab.connected();
    return tab;
  }

  constructor(origin, user, { auth, ...options } = {}) {
    this.user = user;
    this.heard = [];
    // A manager of its own: tabs share nothing.
    this.socket = io(origin, { forceNew: true, reconnection: false, auth: auth ?? { token: user?.token }, ...options });
    // call-error names the event it is about in a field of the same name.
    this.socket.onAny((event, payload) => this.heard.push({ ...payload, about: payload?.event, event }));
    this.outcome = new Promise((resolve) => {
      this.socket.once('connect', () => resolve(null));
      this.socket.once('connect_error', resolve);
    });
  }

  async connected() {
    const error = await this.outcome;
    if (error) throw error;
  }

  /** Waits for the refusal and returns its data: {errcode, error}. */
  async refusal() {
    const error = await this.outcome;
    assert.ok(error, 'the connection is refused');
    return error.data;
  }

  /** Emits and waits for the ack, whatever it says. */
  ask(event, payload = {}) {
    return this.socket.timeout(10000).emitWithAck(event, payload);
  }

  /** Emits; fails unless the ack says ok. */
  async command(event, payload = {}) {
    const ack = await this.ask(event, payload);
    assert.equal(ack.ok, true, `${event}: ${JSON.stringify(ack)}`);
    return ack;
  }

  /** Emits; fails unless the ack refuses with this errcode. */
  async refused(event, payload, errcode) {
    const ack = await this.ask(event, payload);
    assert.equal(ack.ok, false, `${event}: ${JSON.stringify(ack)}`);
    assert.equal(ack.errcode, errcode, JSON.stringify(ack));
    assert.equal(typeof ack.error, 'string');
    return ack;
  }

  all(event, callId) {
    return this.heard.filter((one) => one.event === event && (callId === undefined || one.callId === callId));
  }

  /** Waits for the first event of that name (and call, and shape). */
  next(event, callId, matches = () => true, seconds = 20) {
    return until(() => this.all(event, callId).find(matches),
      { what: `${event} at ${this.user.userId}`, everyMs: 10, seconds });
  }

  /** Waits until everything that was on its way to this tab has arrived: events keep their order before an ack. */
  async drain() {
    await this.ask('call-end', { callId: 'none' });
  }

  close() {
    this.socket.disconnect();
  }
}
