// How long a call takes, beside a plain matrix-js-sdk call in the same run.
//
//   spec-tests/load/calls [--json] [--calls N] [--only socket|page|sdk]
//
// Figures, in milliseconds, p50 and p95 of N calls (default 50) each, any candidate and relay only:
//   ring    the caller starts -> the callee rings
//   frame   the caller starts -> both sides have shown a first decoded frame (the callee answers at once)
// `socket` is the bare way: call-initiate over Socket.IO -> call-ringing at the callee's socket. The first call of each
// kind warms the browsers up and does not count. --json prints one line a figure.

import { launchProfiles, SdkClient } from '../lib/browser.mjs';
import { CallPage } from '../lib/call-page.mjs';
import { serveSdkPage } from '../lib/sdk-page.mjs';
import { offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { binary, startStack } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';
import { daemonAt } from './needs.mjs';

const json = process.argv.includes('--json');
const option = (name, fallback) => {
  const index = process.argv.indexOf(name);
  return index < 0 ? fallback : process.argv[index + 1];
};
const calls = Number(option('--calls', 50));
const only = option('--only', '');
daemonAt(binary);

function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)];
}

function report(what, figure, values) {
  const line = { what, figure, calls: values.length, p50_ms: Math.round(percentile(values, 0.5) * 10) / 10,
    p95_ms: Math.round(percentile(values, 0.95) * 10) / 10 };
  console.log(json ? JSON.stringify(line)
    : `${what.padEnd(16)} ${figure.padEnd(6)} p50 ${line.p50_ms} ms, p95 ${line.p95_ms} ms of ${line.calls}`);
}

async function bareSocket(stack) {
  const { caller, callee, roomId } = await stack.newPair();
  const [a, b] = await Promise.all([Tab.open(stack.daemon, caller, { transports: ['websocket'] }),
    Tab.open(stack.daemon, callee, { transports: ['websocket'] })]);
  const values = [];
  for (let index = 0; index <= calls; index++) {
    const rung = new Promise((resolve) => b.socket.once('call-ringing', () => resolve(performance.now())));
    const started = performance.now();
    const { callId } = await a.command('call-initiate', { roomId, offer: offerOf('figure') });
    values.push(await rung - started);
    await a.command('call-end', { callId });
  }
  a.close();
  b.close();
  report('socket', 'ring', values.slice(1));
}

/** Both sides of one kind of client; each gives {place, ring, frame} of a call as absolute milliseconds. */
const kinds = {
  page: {
    open: (profile, stack, user, roomId, options) => CallPage.open(profile, stack, user, roomId, options),
    answerAtOnce: (client) => client.page.evaluate(() => {
      const dialog = document.getElementById('incoming');
      new MutationObserver(() => dialog.open && document.getElementById('accept').click())
        .observe(dialog, { attributes: true, attributeFilter: ['open'] });
    }),
    times: (client) => client.page.evaluate(() => {
      const { timeOrigin, placed, ringing, firstFrame } = window.callTest.timings;
      return { place: timeOrigin + placed, ring: timeOrigin + ringing, frame: timeOrigin + firstFrame };
    }),
  },
  sdk: {
    open: (profile, stack, user, roomId, options) => SdkClient.open(profile, options.site.url, user, roomId, options),
    answerAtOnce: (client) => client.page.evaluate(() => {
      window.sdk.answerAtOnce = true;
    }),
    times: (client) => client.page.evaluate(() => {
      const { place, incoming, firstFrame } = window.sdk.timings;
      const origin = performance.timeOrigin;
      return { place: origin + place, ring: origin + incoming, frame: origin + firstFrame };
    }),
  },
};

async function between(kind, stack, profiles, site, relayOnly) {
  const { caller, callee, roomId } = await stack.newPair();
  const { open, answerAtOnce, times } = kinds[kind];
  const [a, b] = await Promise.all([open(profiles[0], stack, caller, roomId, { relayOnly, site }),
    open(profiles[1], stack, callee, roomId, { relayOnly, site })]);
  await answerAtOnce(b);
  const ring = [];
  const frame = [];
  for (let index = 0; index <= calls; index++) {
    await a.place();
    const [atCaller, atCallee] = await until(async () => {
      const both = await Promise.all([times(a), times(b)]);
      // The callee's figures may still be those of the call before.
      return both.every((one) => Number.isFinite(one.frame)) && both[1].ring > both[0].place && both;
    }, { what: 'frames on both sides', seconds: 30 });
    if (index > 0) {
      ring.push(atCallee.ring - atCaller.place);
      frame.push(Math.max(atCaller.frame, atCallee.frame) - atCaller.place);
    }
    await a.hangUp();
    await Promise.all([a.waitForState('ended'), b.waitForState('ended')]);
  }
  await Promise.all([a.close(), b.close()]);
  const name = `${kind} ${relayOnly ? 'relay' : 'any'}`;
  report(name, 'ring', ring);
  report(name, 'frame', frame);
}

const stack = await startStack({ liftRateLimits: true, set: { 'limits.starts_per_hour': 0,
  'limits.room_starts_per_hour': 0, 'limits.requests_per_second': 0, 'limits.user_requests_per_second': 0,
  'limits.events_per_second': 0 } });
let site;
let profiles = [];
try {
  if (only !== 'socket') {
    site = await serveSdkPage();
    profiles = await launchProfiles(2);
  }
  if (!only || only === 'socket') await bareSocket(stack);
  for (const relayOnly of [false, true]) {
    for (const kind of Object.keys(kinds)) {
      if (!only || only === kind) await between(kind, stack, profiles, site, relayOnly);
    }
  }
} finally {
  await Promise.all(profiles.map((profile) => profile.close()));
  await site?.close();
  await stack.stop();
}
