// What the tests of settings share: a daemon in memory, with a homeserver that can be told what to do, two users in a
// room of it, and requests over the control socket.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { FakeHomeserver } from '../lib/fake-homeserver.mjs';
import { offerOf } from '../lib/sdp.mjs';
import { Tab } from '../lib/sockets.mjs';
import { CallClient } from '../lib/stack.mjs';
import { until } from '../lib/until.mjs';
import { soon } from './transport.mjs';

const top = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
export const program = process.env.MATRIX_CALLD ??
  path.join(process.env.BUILD_DIR ?? path.join(top, 'build'), 'matrix-calld');
export const HS_TOKEN = 'h'.repeat(64);

// The environment of the machine must not configure the daemon under test.
export const environment = Object.fromEntries(Object.entries(process.env)
  .filter(([name]) => !/^(CALLD_|TURN_|STUN_|DATABASE_URL|PORT$|TRUST_PROXY|NODE_ENV)/.test(name)));

export const callPath = (call, rest = '') => `/api/calls/${encodeURIComponent(call.callId)}${rest}`;

/** The body of a reply; fails unless it has this status. */
export function body(reply, status = 200) {
  assert.equal(reply.status, status, JSON.stringify(reply.body));
  return reply.body;
}

/** Fails unless the reply is this refusal; its body. */
export function refused(reply, status, errcode) {
  assert.equal(reply.status, status, JSON.stringify(reply.body));
  assert.equal(reply.body.errcode, errcode, JSON.stringify(reply.body));
  assert.equal(typeof reply.body.error, 'string');
  return reply.body;
}

/** `section.key` settings as the text of a configuration file. */
export function iniOf(settings) {
  const sections = {};
  for (const [name, value] of Object.entries(settings)) {
    const [section, key] = name.split('.');
    (sections[section] ??= []).push(`${key} = ${value}`);
  }
  return Object.entries(sections).map(([section, lines]) => `[${section}]\n${lines.join('\n')}\n`).join('\n');
}

class Daemon {
  /** Users of the fake homeserver: two with a room of their own. */
  newPair() {
    const [caller, callee] = [this.newUser(), this.newUser()];
    const roomId = `!${randomUUID()}:fake.test`;
    this.homeserver.rooms.set(roomId,
      { joined: new Set([caller.userId, callee.userId]), state: new Map(), timeline: [] });
    return { caller, callee, roomId };
  }

  newUser(options) {
    const userId = `@u${randomUUID().slice(0, 8)}:fake.test`;
    this.homeserver.accounts.set(userId, { data: new Map() });
    return { userId, token: this.homeserver.addToken(userId, { deviceId: 'DEV', ...options }) };
  }

  as(user) {
    return new CallClient(this.url, user?.token);
  }

  async tab(user, options) {
    const opened = await Tab.open(this.url, user, options);
    this.tabs.push(opened);
    return opened;
  }

  /** A pair with REST clients and a call that rings. */
  async ringing(request = {}) {
    const pair = this.newPair();
    const [asCaller, asCallee] = [this.as(pair.caller), this.as(pair.callee)];
    const call = body(await asCaller.post('/api/calls/initiate', { roomId: pair.roomId, ...request }), 201);
    return { ...pair, asCaller, asCallee, call };
  }

  /** A pair with a tab each, in a call that was answered. */
  async answered(options = {}) {
    const pair = this.newPair();
    const [a, b] = await Promise.all([this.tab(pair.caller), this.tab(pair.callee, options)]);
    const { callId } = await a.command('call-initiate', { roomId: pair.roomId, offer: offerOf('a') });
    await b.next('call-ringing', callId);
    await b.command('call-answer', { callId });
    await a.next('call-answered', callId);
    return { ...pair, a, b, callId };
  }

  get(target, options) {
    return fetch(this.url + target, options);
  }

  /** A request over the control socket. */
  control(target, headers = {}) {
    return new Promise((resolve, reject) => {
      http.get({ socketPath: this.settings['server.control_socket'], path: target, headers }, (response) => {
        let text = '';
        response.on('data', (chunk) => { text += chunk; });
        response.on('end', () => resolve({ status: response.statusCode, text }));
      }).on('error', reject);
    });
  }

  async metric(name) {
    return Number((await this.control('/metrics')).text.match(new RegExp(`^calld_${name} (\\S+)$`, 'm'))?.[1]);
  }

  /** Settings changed in the file, and read again. */
  async reload(settings) {
    const done = () => this.log.filter((line) => line.includes('reload.done')).length;
    const before = done();
    writeFileSync(this.file, iniOf(Object.assign(this.settings, settings)));
    this.child.kill('SIGHUP');
    await until(() => done() > before, { what: 'the reload' });
  }

  transaction(events, { id = randomUUID(), token = HS_TOKEN, base = '/_matrix/app/v1' } = {}) {
    return fetch(`${this.appservice}${base}/transactions/${id}`, { method: 'PUT',
      headers: { authorization: `Bearer ${token}` }, body: JSON.stringify({ events }) });
  }

  async stop() {
    for (const tab of this.tabs) tab.close();
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill('SIGTERM');
    const [code, signal] = await soon(this.exited, 'the daemon to end', 20);
    rmSync(this.folder, { recursive: true, force: true });
    assert.equal(signal ?? code, 0, this.log.slice(-40).join('\n'));
  }
}

/** Starts a daemon with these settings (`section.key`), stopped after the test, whose exit status must be 0. */
export async function startDaemon(t, settings = {}, { env = {} } = {}) {
  const homeserver = await FakeHomeserver.start();
  const folder = mkdtempSync(path.join(tmpdir(), 'calld-config-'));
  const daemon = new Daemon();
  Object.assign(daemon, { homeserver, folder, file: path.join(folder, 'calld.conf'), log: [], tabs: [] });
  daemon.settings = {
    'server.listen': '127.0.0.1:0', 'server.appservice_listen': '127.0.0.1:0',
    'server.control_socket': path.join(folder, 'control.sock'),
    'matrix.homeserver_url': homeserver.url, 'matrix.server_name': homeserver.serverName,
    'matrix.hs_token': HS_TOKEN, 'matrix.as_token': 'a'.repeat(64), ...settings,
  };
  writeFileSync(daemon.file, iniOf(daemon.settings));
  daemon.child = spawn(program, ['-c', daemon.file],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...environment, ...env } });
  daemon.exited = once(daemon.child, 'exit');
  t.after(async () => {
    homeserver.release();
    try {
      await daemon.stop();
    } finally {
      await homeserver.stop();
    }
  });
  createInterface({ input: daemon.child.stderr }).on('line', (line) => daemon.log.push(line));
  const early = daemon.exited.then(([code]) => { throw new Error(`exit ${code}\n${daemon.log.join('\n')}`); });
  early.catch(() => {});
  await soon(Promise.race([once(createInterface({ input: daemon.child.stdout }), 'line'), early]), 'ready');
  const origin = (role) => daemon.log.map((line) => line.match(new RegExp(`${role} on (127\\.0\\.0\\.1:\\d+)`))?.[1])
    .find(Boolean);
  if (!/^(warn|error)$/.test(settings['log.level'])) {
    await until(() => origin('public') && origin('appservice'), { what: 'the addresses in the log' });
    daemon.url = `http://${origin('public')}`;
    daemon.appservice = `http://${origin('appservice')}`;
  }
  return daemon;
}
