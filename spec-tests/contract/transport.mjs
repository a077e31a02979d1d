// What the transport tests share: the server under test, raw sockets, a WebSocket client of bytes.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const top = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const build = process.env.BUILD_DIR ?? path.join(top, 'build');
const program = process.env.TRANSPORT_SERVER ?? path.join(build, 'spec-tests/contract/transport_server');

/** Rejects when `promise` takes longer than any healthy run does. */
export function soon(promise, what, seconds = 20) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Starts the test server. Its stderr must stay free of sanitizer reports, its exit status 0. */
export async function startServer(...args) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const lines = createInterface({ input: child.stdout });
  const failed = exited.then(([code, signal]) => { throw new Error(`${program}: ${signal ?? code}`); });
  failed.catch(() => {});
  const [line] = await soon(Promise.race([once(lines, 'line'), failed]), 'the server to listen');
  const facts = JSON.parse(line);
  const port = Number(facts.public.split(':').pop());
  const appservicePort = Number(facts.appservice.split(':').pop());
  return {
    backend: facts.backend,
    port,
    pid: child.pid,
    url: `http://127.0.0.1:${port}`,
    appserviceUrl: `http://[::1]:${appservicePort}`,
    appservicePort,
    connect: (options = {}) => Raw.connect({ host: '127.0.0.1', port, ...options }),
    ws: (target = '/ws', options = {}) => WsClient.open(port, target, options),
    async stats() {
      return (await fetch(`http://127.0.0.1:${port}/stats`, { headers: { connection: 'close' } })).json();
    },
    signal: (name) => child.kill(name),
    exited: () => soon(exited, 'the server to end').then(([code, signal]) => signal ?? code),
    async stop() {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      return this.exited();
    },
  };
}

/** A TCP (or unix) connection whose bytes the test sees. */
export class Raw {
  static async connect(options) {
    const raw = new Raw(net.connect(options));
    await soon(once(raw.socket, 'connect'), 'to connect');
    return raw;
  }

  constructor(socket) {
    this.socket = socket;
    this.data = Buffer.alloc(0);
    this.ended = false;
    this.error = null;
    this.waiters = [];
    socket.setNoDelay?.(true);
    socket.on('data', (chunk) => { this.data = Buffer.concat([this.data, chunk]); this.#wake(); });
    socket.on('end', () => { this.ended = true; this.#wake(); });
    socket.on('error', (error) => { this.error = error; this.ended = true; this.#wake(); });
    socket.on('close', () => { this.ended = true; this.#wake(); });
  }

  #wake() {
    for (const wake of this.waiters.splice(0)) wake();
  }

  write(data) {
    return new Promise((resolve) => { this.socket.write(data, () => resolve()); });
  }

  end() {
    this.socket.end();
  }

  destroy() {
    this.socket.destroy();
  }

  /** Waits until `probe` returns something other than undefined; it may throw. */
  async until(probe, what) {
    const loop = async () => {
      for (;;) {
        const value = probe();
        if (value !== undefined) return value;
        if (this.ended) throw new Error(`${what}: the connection ended, ${this.error?.code ?? 'cleanly'}`);
        await new Promise((resolve) => { this.waiters.push(resolve); });
      }
    };
    return soon(loop(), what);
  }

  take(n) {
    const part = this.data.subarray(0, n);
    this.data = this.data.subarray(n);
    return part;
  }

  /** Resolves when the other side has closed. */
  async closed() {
    const loop = async () => {
      while (!this.ended) await new Promise((resolve) => { this.waiters.push(resolve); });
    };
    await soon(loop(), 'the connection to be closed');
  }

  /** The next HTTP response. @param {{head?: boolean}} options head: it answers HEAD */
  async response({ head = false } = {}) {
    const headEnd = await this.until(() => {
      const at = this.data.indexOf('\r\n\r\n');
      return at < 0 ? undefined : at;
    }, 'a response head');
    const lines = this.take(headEnd + 4).toString('latin1').trimEnd().split('\r\n');
    const status = Number(lines[0].split(' ')[1]);
    const headers = {};
    for (const line of lines.slice(1)) {
      const colon = line.indexOf(':');
      headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
    }
    if (status === 100) return this.response({ head });
    const length = head || status === 204 || status === 101 ? 0 : Number(headers['content-length'] ?? 0);
    await this.until(() => (this.data.length >= length ? true : undefined), 'a response body');
    const text = this.take(length).toString('utf8');
    return { status, headers, text, json: () => JSON.parse(text) };
  }
}

export const handshakeKey = () => randomBytes(16).toString('base64');

export function acceptOf(key) {
  return createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
}

/** The text of a WebSocket handshake. @param {Record<string, string | undefined>} headers added or replaced */
export function handshake(target, key, headers = {}) {
  const all = {
    Host: 'localhost', Upgrade: 'websocket', Connection: 'Upgrade', 'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': key, ...headers,
  };
  const lines = Object.entries(all).filter(([, value]) => value !== undefined).map(([name, value]) => `${name}: ${value}`);
  return `GET ${target} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`;
}

/** One masked client frame. */
export function frame(opcode, payload, { fin = true, mask = randomBytes(4) } = {}) {
  const body = Buffer.from(payload);
  let head;
  if (body.length < 126) {
    head = Buffer.from([0, 0x80 | body.length]);
  } else if (body.length < 65536) {
    head = Buffer.alloc(4);
    head[1] = 0x80 | 126;
    head.writeUInt16BE(body.length, 2);
  } else {
    head = Buffer.alloc(10);
    head[1] = 0x80 | 127;
    head.writeBigUInt64BE(BigInt(body.length), 2);
  }
  head[0] = (fin ? 0x80 : 0) | opcode;
  for (let i = 0; i < body.length; i++) body[i] ^= mask[i % 4];
  return Buffer.concat([head, mask, body]);
}

export const TEXT = 1;
export const BINARY = 2;
export const CLOSE = 8;
export const PING = 9;
export const PONG = 10;

/** A WebSocket client that sees frames. The first message of the server's is in `facts`. */
export class WsClient {
  static async open(port, target, { headers, raw, readFacts = true } = {}) {
    const client = new WsClient(raw ?? await Raw.connect({ host: '127.0.0.1', port }));
    const key = handshakeKey();
    await client.raw.write(handshake(target, key, headers));
    await client.finishHandshake(key);
    if (readFacts) client.facts = JSON.parse(await client.text());
    return client;
  }

  constructor(raw) {
    this.raw = raw;
  }

  async finishHandshake(key) {
    const response = await this.raw.response();
    assert.equal(response.status, 101);
    assert.equal(response.headers['sec-websocket-accept'], acceptOf(key));
    assert.equal(response.headers['sec-websocket-extensions'], undefined);
    this.response = response;
  }

  send(opcode, payload, options) {
    return this.raw.write(frame(opcode, payload, options));
  }

  /** The next frame of the server's. */
  async frame() {
    return this.raw.until(() => {
      const { data } = this.raw;
      if (data.length < 2) return undefined;
      let length = data[1] & 0x7f;
      let at = 2;
      if (length === 126) {
        if (data.length < 4) return undefined;
        length = data.readUInt16BE(2);
        at = 4;
      } else if (length === 127) {
        if (data.length < 10) return undefined;
        length = Number(data.readBigUInt64BE(2));
        at = 10;
      }
      if (data.length < at + length) return undefined;
      assert.equal(data[1] & 0x80, 0, 'a server must not mask');
      const result = { opcode: data[0] & 0x0f, fin: (data[0] & 0x80) !== 0, rsv: data[0] & 0x70, payload: null };
      result.payload = Buffer.from(data.subarray(at, at + length));
      this.raw.take(at + length);
      return result;
    }, 'a frame');
  }

  async message(opcode) {
    const one = await this.frame();
    assert.equal(one.opcode, opcode);
    assert.equal(one.rsv, 0);
    assert.ok(one.fin);
    return one.payload;
  }

  async text() {
    return (await this.message(TEXT)).toString('utf8');
  }

  /** Reads up to the close frame. @returns {Promise<number>} its code */
  async closeCode() {
    for (;;) {
      const one = await this.frame();
      if (one.opcode === CLOSE) return one.payload.length >= 2 ? one.payload.readUInt16BE(0) : 1005;
    }
  }
}
