// A running call of two sockets with `matrix-calld --dev`, and what an administrator asks such a daemon.

import assert from 'node:assert/strict';
import http from 'node:http';
import { answerOf, candidateOf, offerOf } from './sdp.mjs';
import { Tab } from './sockets.mjs';

let rooms = 0;

/** Two users with a socket each, in an answered call. */
export class DevCall {
  static async open(dev, { transports = ['websocket'] } = {}) {
    const [caller, callee] = [`caller${++rooms}`, `callee${rooms}`];
    const roomId = `!room${rooms}:dev`;
    const call = new DevCall();
    [call.alice, call.bob] = await Promise.all([caller, callee].map((name) =>
      Tab.open(dev.origin, { token: `dev_${name}`, userId: `@${name}:dev` },
        { transports: name === callee ? transports : ['websocket'] })));
    const { callId } = await call.alice.command('call-initiate',
      { roomId, invitees: [`@${callee}:dev`], offer: offerOf('caller') });
    await call.bob.command('call-answer', { callId, answer: answerOf('callee') });
    await call.alice.next('call-answered', callId);
    return Object.assign(call, { callId, roomId, candidates: 0 });
  }

  /** A candidate goes from one to the other. @returns how long it took [ms] */
  async relay() {
    const n = ++this.candidates;
    const candidate = candidateOf(n);
    const start = performance.now();
    this.alice.socket.emit('ice-candidate', { callId: this.callId, candidate });
    await this.bob.next('ice-candidate', this.callId, (one) => one.candidate.candidate === candidate.candidate);
    return performance.now() - start;
  }

  end() {
    return this.bob.command('call-end', { callId: this.callId });
  }

  close() {
    this.alice.close();
    this.bob.close();
  }
}

/** Asks the control socket. @returns {{status: number, text: string}} */
export function control(path, socketPath) {
  return new Promise((resolve, reject) => {
    http.get({ socketPath, path, agent: false, timeout: 10000 }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk) => { text += chunk; });
      response.on('end', () => resolve({ status: response.statusCode, text }));
    }).on('error', reject).on('timeout', function late() { this.destroy(new Error(`${path}: no answer`)); });
  });
}

/** One figure of /metrics; `labels` as they stand there. */
export async function metric(socketPath, name, labels = '') {
  const { status, text } = await control('/metrics', socketPath);
  assert.equal(status, 200, text);
  const line = text.split('\n').find((one) => one.startsWith(`calld_${name}${labels} `));
  assert.ok(line, `calld_${name}${labels} is among the metrics`);
  return Number(line.split(' ').at(-1));
}

/** What /ready says, over the control socket. */
export async function ready(socketPath) {
  const { status, text } = await control('/ready', socketPath);
  return { status, ...JSON.parse(text) };
}
