// contrib/call-test/call-test.html, served by the daemon and used as a person would: by its buttons.

import assert from 'node:assert/strict';
import { Client } from './browser.mjs';
import { until } from './until.mjs';

export class CallPage extends Client {
  /**
   * Opens the page signed in, with a room chosen, by a link as quickstart prints them.
   * @param {Profile} profile
   * @param {Stack} stack
   * @param {MatrixUser} user
   * @param {string} roomId
   */
  static async open(profile, stack, user, roomId, { relayOnly = false } = {}) {
    const client = new CallPage(await profile.newPage());
    client.name = `page ${user.userId}`;
    const fragment = new URLSearchParams({ homeserver: stack.homeserver, user: user.userId, token: user.token,
      room: roomId, ...(relayOnly ? { relay: '1' } : {}) });
    await client.page.goto(`${stack.daemon}/call-test.html#${fragment}`);
    await until(() => client.callTest('connected'), { what: `${client.name} connected` });
    assert.equal(await client.callTest('userId'), user.userId);
    return client;
  }

  /** One property of window.callTest. */
  callTest(name) {
    return this.page.evaluate((key) => window.callTest[key], name);
  }

  click(id) {
    return this.page.click(`#${id}`);
  }

  /** Places a call; resolves with its id, once the daemon gave one. */
  async place({ video = true } = {}) {
    const before = await this.callTest('callId');
    await this.click(video ? 'call-video' : 'call-audio');
    return until(async () => {
      const id = await this.callTest('callId');
      return id !== before && id;
    }, { what: `${this.name} has a call id` });
  }

  async waitForIncoming() {
    await this.page.locator('#incoming').waitFor({ state: 'visible', timeout: 20000 });
    return this.callTest('callId');
  }

  answer() {
    return this.click('accept');
  }

  reject() {
    return this.click('decline');
  }

  hangUp() {
    return this.click('hangup');
  }

  waitForState(state, seconds = 30) {
    return until(async () => await this.callTest('state') === state, { what: `${this.name} ${state}`, seconds });
  }

  /** Waits for the end, and for what the page then says of it: {status, endReason, endedBy, durationSeconds}. */
  async waitForEnd(seconds = 30) {
    await this.waitForState('ended', seconds);
    return this.callTest('lastEnd');
  }

  /** Waits until the other side's microphone or camera shows as on or off here. */
  waitForRemote(kind, on) {
    return until(async () => (await this.callTest('remote'))?.[kind] === on,
      { what: `${this.name} sees the other side's ${kind} ${on ? 'on' : 'off'}` });
  }

  media() {
    return this.page.evaluate(async () => {
      const result = { framesDecoded: 0, audioPackets: 0, localCandidateType: null };
      const connection = window.callTest.pc;
      if (!connection) return result;
      const stats = await connection.getStats();
      for (const entry of stats.values()) {
        if (entry.type === 'inbound-rtp' && entry.kind === 'video') result.framesDecoded += entry.framesDecoded ?? 0;
        if (entry.type === 'inbound-rtp' && entry.kind === 'audio') result.audioPackets += entry.packetsReceived ?? 0;
        if (entry.type === 'candidate-pair' && entry.nominated && entry.state === 'succeeded') {
          result.localCandidateType = stats.get(entry.localCandidateId)?.candidateType ?? null;
        }
      }
      return result;
    });
  }
}
