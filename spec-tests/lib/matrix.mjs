// A small Matrix client for tests: what a user does through the homeserver's own client API.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';

const escape = encodeURIComponent;

/** One HTTP request; never throws on a status. @returns {Promise<{status: number, headers: Headers, body: any}>} */
export async function request(origin, method, path, { token, body, headers = {}, raw } = {}) {
  const reply = await fetch(origin + path, {
    method,
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined && raw === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    body: raw ?? (body === undefined ? undefined : JSON.stringify(body)),
  });
  const text = await reply.text();
  let parsed = text;
  try {
    parsed = JSON.parse(text);
  } catch {
    // A page or an empty body: the caller sees the text.
  }
  return { status: reply.status, headers: reply.headers, body: parsed };
}

export class MatrixUser {
  constructor(homeserver, { userId, accessToken, password }) {
    Object.assign(this, { homeserver, userId, token: accessToken, password });
  }

  /** Registers a new account; the name is made up when none is given. */
  static async register(homeserver, name = `u${randomUUID().slice(0, 8)}`, { guest = false } = {}) {
    const password = randomUUID();
    const path = `/_matrix/client/v3/register${guest ? '?kind=guest' : ''}`;
    const body = guest ? {} : { auth: { type: 'm.login.dummy' }, username: name, password };
    const reply = await request(homeserver, 'POST', path, { body });
    assert.equal(reply.status, 200, JSON.stringify(reply.body));
    return new MatrixUser(homeserver,
      { userId: reply.body.user_id, accessToken: reply.body.access_token, password });
  }

  /** A request that must succeed; its JSON. */
  async api(method, path, body) {
    const reply = await request(this.homeserver, method, `/_matrix/client/v3${path}`, { token: this.token, body });
    assert.equal(reply.status, 200, `${method} ${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
    return reply.body;
  }

  /** Another device of the same user. */
  async logIn(deviceId) {
    const reply = await request(this.homeserver, 'POST', '/_matrix/client/v3/login', {
      body: { type: 'm.login.password', identifier: { type: 'm.id.user', user: this.userId },
        password: this.password, device_id: deviceId },
    });
    assert.equal(reply.status, 200, JSON.stringify(reply.body));
    return new MatrixUser(this.homeserver,
      { userId: this.userId, accessToken: reply.body.access_token, password: this.password });
  }

  logOut() {
    return this.api('POST', '/logout', {});
  }

  /** A private, unencrypted room in which this user and all `others` are joined. */
  async roomWith(...others) {
    const { room_id: roomId } = await this.api('POST', '/createRoom', {
      preset: 'trusted_private_chat', is_direct: others.length === 1, invite: others.map((user) => user.userId),
    });
    for (const user of others) await user.join(roomId);
    return roomId;
  }

  join(roomId) {
    return this.api('POST', `/rooms/${escape(roomId)}/join`, {});
  }

  leave(roomId) {
    return this.api('POST', `/rooms/${escape(roomId)}/leave`, {});
  }

  async send(roomId, type, content) {
    const path = `/rooms/${escape(roomId)}/send/${escape(type)}/${randomUUID()}`;
    return (await this.api('PUT', path, content)).event_id;
  }

  setState(roomId, type, content, stateKey = '') {
    return this.api('PUT', `/rooms/${escape(roomId)}/state/${escape(type)}/${escape(stateKey)}`, content);
  }

  /** The room's whole timeline as this user sees it, oldest first. */
  async messages(roomId) {
    const events = [];
    let from = '';
    for (;;) {
      const page = await this.api('GET', `/rooms/${escape(roomId)}/messages?dir=b&limit=100${from}`);
      events.push(...page.chunk);
      if (!page.end || page.chunk.length === 0) return events.reverse();
      from = `&from=${escape(page.end)}`;
    }
  }

  /** The m.call.* events of one call (or of all), oldest first. */
  async callEvents(roomId, callId) {
    return (await this.messages(roomId)).filter((event) => event.type.startsWith('m.call.') &&
      (callId === undefined || event.content.call_id === callId));
  }
}
