// Chromium for tests: profiles of their own with fake media, and the matrix-js-sdk page as an object.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { until } from './until.mjs';

const flags = [
  '--no-sandbox',
  // Without both no camera appears, and no invite is ever sent.
  '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
  '--autoplay-policy=no-user-gesture-required',
  // Some machines have no interface but lo; harmless elsewhere.
  '--allow-loopback-in-peer-connection',
  '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update',
  '--disable-renderer-backgrounding', '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows', '--no-first-run',
];

/** Records what every RTCPeerConnection of a page gathers, in order: tests compare it with what was sent. */
function recordPeerConnections() {
  const Original = window.RTCPeerConnection;
  window.gathered = [];
  window.RTCPeerConnection = class extends Original {
    constructor(...parameters) {
      super(...parameters);
      this.addEventListener('icecandidate', ({ candidate }) => {
        window.gathered.push(candidate ? candidate.candidate : '');
      });
    }
  };
}

/** One Chromium with a fresh profile. */
export class Profile {
  static async launch({ viewport = { width: 1000, height: 800 } } = {}) {
    const profile = new Profile();
    profile.directory = mkdtempSync(join(tmpdir(), 'calld-profile-'));
    profile.context = await chromium.launchPersistentContext(profile.directory, {
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: flags, viewport,
    });
    await profile.context.addInitScript(recordPeerConnections);
    return profile;
  }

  async newPage() {
    const page = await this.context.newPage();
    page.problems = [];
    page.on('pageerror', (error) => page.problems.push(String(error)));
    return page;
  }

  async close() {
    await this.context?.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Several profiles at once. */
export function launchProfiles(count) {
  return Promise.all(Array.from({ length: count }, () => Profile.launch()));
}

/** What the SDK page and the call page have in common; subclasses give media(). */
export class Client {
  constructor(page) {
    this.page = page;
  }

  /** The candidates gathered so far, as candidate lines, '' for the end. */
  gathered() {
    return this.page.evaluate(() => window.gathered);
  }

  /** Fails unless frames and audio packets keep arriving here. */
  async expectMedia({ video = true } = {}) {
    const first = await this.media();
    await until(async () => {
      const later = await this.media();
      return later.audioPackets > first.audioPackets + 5 && (!video || later.framesDecoded > first.framesDecoded + 5);
    }, { what: `media arriving at ${this.name}` });
  }

  /** Waits until a candidate pair carries media, and returns the local candidate's type. */
  localCandidateType() {
    return until(async () => (await this.media()).localCandidateType, { what: `a selected pair at ${this.name}` });
  }

  /** Closes the page; fails when its scripts threw. */
  async close() {
    await this.page.close();
    assert.deepEqual(this.page.problems, []);
  }
}

/** matrix-js-sdk's own call API in a page (spec-tests/browser/sdk-page). */
export class SdkClient extends Client {
  /**
   * @param {Profile} profile
   * @param {string} url where the page is served
   * @param {MatrixUser} user
   * @param {string} roomId where its calls are placed
   */
  static async open(profile, url, user, roomId, { relayOnly = false } = {}) {
    const client = new SdkClient(await profile.newPage());
    client.roomId = roomId;
    client.name = `sdk ${user.userId}`;
    await client.page.goto(url);
    await client.page.waitForFunction(() => window.sdk);
    const { device_id: deviceId } = await user.api('GET', '/account/whoami');
    await client.page.evaluate((options) => window.sdk.start(options),
      { homeserver: user.homeserver, userId: user.userId, accessToken: user.token, deviceId, relayOnly });
    return client;
  }

  sdk() {
    return this.page.evaluate(() => JSON.parse(JSON.stringify(window.sdk)));
  }

  place({ video = true } = {}) {
    return this.page.evaluate(([room, options]) => window.sdk.place(room, options), [this.roomId, { video }]);
  }

  waitForIncoming() {
    return until(async () => {
      const sdk = await this.sdk();
      return sdk.incoming && sdk.state === 'ringing' && sdk.callId;
    }, { what: `a call ringing at ${this.name}` });
  }

  answer(options = {}) {
    return this.page.evaluate((given) => window.sdk.answer(given), options);
  }

  reject() {
    return this.page.evaluate(() => window.sdk.reject());
  }

  hangUp() {
    return this.page.evaluate(() => window.sdk.hangup());
  }

  waitForState(state, seconds = 30) {
    return until(async () => (await this.sdk()).state === state, { what: `${this.name} ${state}`, seconds });
  }

  media() {
    return this.page.evaluate(() => window.sdk.media());
  }

  mutes() {
    return this.page.evaluate(() => window.sdk.readMutes());
  }

  setMicrophoneMuted(muted) {
    return this.page.evaluate((value) => window.sdk.setMicrophoneMuted(value), muted);
  }

  setCameraOff(muted) {
    return this.page.evaluate((value) => window.sdk.setLocalVideoMuted(value), muted);
  }
}
