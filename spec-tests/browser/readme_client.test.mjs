// The client that README.md prints, as it stands there: two pages call each other with it, behind a path prefix.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { build } from 'esbuild';
import { launchProfiles } from '../lib/browser.mjs';
import { startStack, top } from '../lib/stack.mjs';

const limit = { timeout: 120000 };
const patience = { timeout: 30000 };
let stack;
let server;
let profiles = [];

async function servePrintedClient() {
  const readme = readFileSync(join(top, 'README.md'), 'utf8');
  const contents = readme.match(/<!-- docs_test: client -->\n```js\n([^]*?)```/)?.[1];
  assert.ok(contents, 'README.md holds the client');
  const bundle = await build({ stdin: { contents, resolveDir: join(top, 'spec-tests') }, bundle: true, write: false,
    format: 'iife', globalName: 'client', logLevel: 'error' });
  server = createServer((request, response) => {
    const script = request.url === '/client.js';
    response.writeHead(200, { 'content-type': script ? 'text/javascript' : 'text/html' })
      .end(script ? bundle.outputFiles[0].text : '<script src="client.js"></script><video autoplay muted></video>');
  });
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
}

before(async () => {
  stack = await startStack({ set: { 'server.path_prefix': '/calld' } });
  await servePrintedClient();
  profiles = await launchProfiles(2);
}, limit);

after(async () => {
  await Promise.all(profiles.map((profile) => profile.close()));
  server?.close();
  server?.closeAllConnections();
  await stack?.stop();
}, limit);

async function open(profile, user, answers) {
  const page = await profile.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.evaluate(async ({ origin, token, takes }) => {
    /* global client */
    const video = document.querySelector('video');
    window.over = null;
    window.phone = client.phone({ origin, token, path: '/calld/socket.io/',
      media: await navigator.mediaDevices.getUserMedia({ audio: true, video: true }),
      onRemote: (stream) => { video.srcObject = stream; },
      onRinging: async () => takes,
      onOver: (message) => { window.over = message; } });
  }, { origin: stack.daemon, token: user.token, takes: answers });
  return page;
}

/** A caller and a callee, who takes calls or not; a socket that connects while it rings is told then. */
async function openPair(answers) {
  const { caller, callee, roomId } = await stack.newPair();
  const pages = await Promise.all([open(profiles[0], caller, true), open(profiles[1], callee, answers)]);
  return { pages, caller, roomId };
}

test('the printed client places, takes and ends a video call', limit, async () => {
  const { pages, roomId } = await openPair(true);
  await pages[0].evaluate((room) => window.phone.call(room), roomId);
  for (const page of pages) {
    await page.waitForFunction(() => document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames > 5,
      null, patience);
  }
  await pages[1].evaluate(() => window.phone.hangUp());
  for (const page of pages) await page.waitForFunction(() => window.over, null, patience);
  const over = await Promise.all(pages.map((page) => page.evaluate(() => [window.over.status, window.over.endReason])));
  assert.deepEqual(over, [['ended', 'user_hangup'], ['ended', 'user_hangup']]);
  await Promise.all(pages.map((page) => page.close()));
});

test('the printed client declines', limit, async () => {
  const { pages, caller, roomId } = await openPair(false);
  // Not awaited: when the refusal overtakes the offer, the description of a closed connection never settles.
  await pages[0].evaluate((room) => { window.phone.call(room).catch(() => {}); }, roomId);
  await pages[0].waitForFunction(() => window.over, null, patience);
  assert.equal(await pages[0].evaluate(() => window.over.status), 'declined');
  assert.deepEqual((await stack.as(caller).get('/calld/api/calls/active')).body.calls, []);
  await Promise.all(pages.map((page) => page.close()));
});
