// A homeserver for faults: it can fail, hang, lie and refuse on demand, which a real one does not.
// What it does when nothing is wrong is pinned by the tests that also run against a real homeserver
// (HOMESERVER_URL), so it holds only as much of the client API as those need.

import { randomUUID } from 'node:crypto';
import http from 'node:http';

const fail = (status, errcode, extra = {}) => ({ status, body: { errcode, error: errcode, ...extra } });
const ok = (body) => ({ status: 200, body });

export class FakeHomeserver {
  static async start({ serverName = 'fake.test' } = {}) {
    const fake = new FakeHomeserver();
    Object.assign(fake, {
      serverName, accounts: new Map(), tokens: new Map(), rooms: new Map(), sent: new Map(),
      requests: [], faults: [], held: [], connections: 0,
    });
    fake.server = http.createServer((request, response) => fake.#serve(request, response));
    fake.server.on('connection', () => { fake.connections += 1; });
    await new Promise((resolve) => fake.server.listen(0, '127.0.0.1', resolve));
    fake.url = `http://127.0.0.1:${fake.server.address().port}`;
    return fake;
  }

  stop() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }

  /** Stops listening and drops every connection; `comeBack` listens on the same port again. */
  async goAway() {
    this.port = this.server.address().port;
    await this.stop();
  }

  async comeBack() {
    this.server = http.createServer((request, response) => this.#serve(request, response));
    await new Promise((resolve) => this.server.listen(this.port, '127.0.0.1', resolve));
  }

  /**
   * Requests whose "METHOD path" matches get `answer` instead: {status, body, headers, raw}, 'hang', 'reset',
   * 'truncate', or a function of the request that returns one of these (undefined: as if nothing were wrong).
   * @param {number} [times] how often
   */
  fault(pattern, answer, times = Infinity) {
    this.faults.push({ pattern, answer, times });
  }

  heal() {
    this.faults = [];
  }

  /** Lets what hangs go on as if nothing had been wrong. */
  release() {
    for (const go of this.held.splice(0)) go();
  }

  /** As after a restart of one that keeps transaction ids in memory. */
  forget() {
    this.sent.clear();
  }

  /** Requests so far whose "METHOD path" matches. */
  seen(pattern) {
    return this.requests.filter((request) => pattern.test(`${request.method} ${request.path}`));
  }

  /** A token out of nothing. */
  addToken(userId, { deviceId, guest = false } = {}) {
    const token = `syt_${randomUUID().replaceAll('-', '')}`;
    this.tokens.set(token, { userId, deviceId, guest });
    return token;
  }

  async #serve(request, response) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString('utf8');
    const url = new URL(request.url, this.url);
    const seen = {
      method: request.method, path: request.url, headers: request.headers, at: Date.now(),
      token: request.headers.authorization?.replace(/^Bearer /, ''), body: text ? JSON.parse(text) : undefined,
    };
    this.requests.push(seen);
    let answer = this.#faulty(seen);
    if (answer === 'hang') {
      await new Promise((resolve) => this.held.push(resolve));
      answer = undefined;
    }
    if (answer === 'reset') {
      request.socket.destroy();
      return;
    }
    if (answer === 'truncate') {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': 4096 });
      response.write('{"user_id": "@trunc');
      response.socket.end();
      return;
    }
    answer ??= this.#answer(seen, url.pathname.split('/').slice(4).map(decodeURIComponent), url.searchParams);
    const body = answer.raw ?? JSON.stringify(answer.body);
    response.writeHead(answer.status, { 'content-type': 'application/json', ...answer.headers });
    response.end(body);
  }

  #faulty(seen) {
    const fault = this.faults.find(({ pattern, times }) => times > 0 && pattern.test(`${seen.method} ${seen.path}`));
    if (!fault) return undefined;
    const answer = typeof fault.answer === 'function' ? fault.answer(seen) : fault.answer;
    if (answer !== undefined) fault.times -= 1;
    return answer;
  }

  #signIn(userId, deviceId = randomUUID().slice(0, 8), guest = false) {
    const token = this.addToken(userId, { deviceId, guest });
    return ok({ user_id: userId, access_token: token, device_id: deviceId });
  }

  #answer(seen, [first, ...rest], query) {
    if (first === 'register') {
      const userId = `@${seen.body.username ?? `guest${this.accounts.size}`}:${this.serverName}`;
      this.accounts.set(userId, { password: seen.body.password, data: new Map() });
      return this.#signIn(userId, undefined, query.get('kind') === 'guest');
    }
    if (first === 'login') {
      const userId = seen.body.identifier.user;
      if (this.accounts.get(userId)?.password !== seen.body.password) return fail(403, 'M_FORBIDDEN');
      return this.#signIn(userId, seen.body.device_id);
    }
    if (seen.path === '/_matrix/client/versions') return ok({ versions: ['v1.11'] });
    if (!seen.token) return fail(401, 'M_MISSING_TOKEN');
    const who = this.tokens.get(seen.token);
    if (!who) return fail(401, 'M_UNKNOWN_TOKEN', { soft_logout: false });
    return this.#signedIn(seen, who, first, rest);
  }

  #signedIn(seen, who, first, rest) {
    switch (first) {
      case 'account':
        return ok({ user_id: who.userId, ...(who.deviceId && { device_id: who.deviceId }), is_guest: who.guest });
      case 'logout':
        this.tokens.delete(seen.token);
        return ok({});
      case 'joined_rooms':
        return ok({ joined_rooms: [...this.rooms].filter(([, room]) => room.joined.has(who.userId)).map(([id]) => id) });
      case 'createRoom': {
        const id = `!${randomUUID().slice(0, 12)}:${this.serverName}`;
        this.rooms.set(id, { joined: new Set([who.userId]), state: new Map(), timeline: [] });
        return ok({ room_id: id });
      }
      case 'user':
        return this.#accountData(seen, who, rest);
      case 'rooms':
        return this.#room(seen, who, rest);
      default:
        return fail(404, 'M_UNRECOGNIZED');
    }
  }

  #accountData(seen, who, [userId, , type]) {
    if (userId !== who.userId) return fail(403, 'M_FORBIDDEN');
    const { data } = this.accounts.get(userId);
    if (seen.method === 'PUT') {
      data.set(type, seen.body);
      return ok({});
    }
    return data.has(type) ? ok(data.get(type)) : fail(404, 'M_NOT_FOUND');
  }

  #room(seen, who, [id, what, type, key = '']) {
    const room = this.rooms.get(id);
    if (room && what === 'join') {
      room.joined.add(who.userId);
      return ok({ room_id: id });
    }
    if (!room?.joined.has(who.userId)) return fail(403, 'M_FORBIDDEN');
    switch (what) {
      case 'leave':
        room.joined.delete(who.userId);
        return ok({});
      case 'joined_members':
        return ok({ joined: Object.fromEntries([...room.joined].map((user) =>
          [user, { display_name: user.slice(1).split(':')[0], avatar_url: null }])) });
      case 'state':
        if (seen.method === 'PUT') {
          room.state.set(`${type}/${key}`, seen.body);
          return ok({ event_id: `$${randomUUID()}` });
        }
        if (type === 'm.room.member' && room.joined.has(key)) return ok({ membership: 'join' });
        return room.state.has(`${type}/${key}`) ? ok(room.state.get(`${type}/${key}`)) : fail(404, 'M_NOT_FOUND');
      case 'send': {
        const txn = `${seen.token} ${seen.path}`;
        if (!this.sent.has(txn)) {
          this.sent.set(txn, `$${randomUUID()}`);
          room.timeline.push({ type, sender: who.userId, content: seen.body, event_id: this.sent.get(txn) });
        }
        return ok({ event_id: this.sent.get(txn) });
      }
      case 'messages':
        return ok({ chunk: [...room.timeline].reverse() });
      default:
        return fail(404, 'M_UNRECOGNIZED');
    }
  }
}
