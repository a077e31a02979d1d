// Raw Engine.IO 4 and Socket.IO 5 for tests: the test server as a child process, polling by hand,
// and WebSockets whose messages are read one at a time.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { request } from 'node:http';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import WebSocket from 'ws';

const top = join(dirname(fileURLToPath(import.meta.url)), '../..');
const program = process.env.SOCKETIO_SERVER ?? join(process.env.BUILD_DIR ?? join(top, 'build'), 'spec-tests/contract/socketio_server');
const DEADLINE_MS = 10_000;

/** Rejects with `what` when `promise` has not settled in time. */
export function soon(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Starts the test server. @param {...string} settings such as "ping-interval=300" */
export async function startServer(...settings) {
  const child = spawn(program, settings, { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const lines = createInterface({ input: child.stdout });
  const failed = exited.then(([code]) => { throw new Error(`${program} ended with ${code}`); });
  failed.catch(() => {});
  const [line] = await soon(Promise.race([once(lines, 'line'), failed]), 'the server to be ready');
  const host = line.split(' ')[1];
  return {
    host,
    url: `http://${host}`,
    pid: child.pid,
    /** Stops it and returns its exit status. */
    async stop() {
      child.kill('SIGTERM');
      const [code, signal] = await soon(exited, 'the server to end');
      return signal ?? code;
    },
  };
}

/** One HTTP request, each on a connection of its own. */
export function http(server, method, target, { body, headers = {}, agent, onRequest } = {}) {
  return soon(new Promise((resolve, reject) => {
    const [hostname, port] = server.host.split(':');
    const length = body === undefined ? {} : { 'Content-Length': Buffer.byteLength(body) };
    const req = request({ hostname, port, method, path: target, agent: agent ?? false,
      headers: { ...length, ...headers } }, (res) => {
      const parts = [];
      res.on('data', (part) => parts.push(part));
      res.on('end', () => resolve({ status: res.statusCode, headers: res.headers,
        text: Buffer.concat(parts).toString('utf8') }));
      res.on('error', reject);
    });
    req.on('error', reject);
    onRequest?.(req);
    req.end(body);
  }), `${method} ${target}`);
}

const BASE = '/socket.io/?EIO=4&transport=polling';

/** A polling session, driven by hand. */
export class Polling {
  constructor(server, sid) {
    this.server = server;
    this.sid = sid;
    this.waiting = []; // packets of a poll that were not read yet
  }

  static async open(server) {
    const res = await http(server, 'GET', BASE);
    if (res.status !== 200) throw new Error(`handshake: ${res.status} ${res.text}`);
    return new Polling(server, JSON.parse(res.text.slice(1)).sid);
  }

  /** As open, and in namespace "/". */
  static async connect(server, auth = '') {
    const session = await Polling.open(server);
    await session.post(`40${auth}`);
    session.welcome = await session.next();
    return session;
  }

  get path() { return `${BASE}&sid=${this.sid}`; }
  get(options) { return http(this.server, 'GET', this.path, options); }
  post(body, headers = { 'Content-Type': 'text/plain;charset=UTF-8' }) {
    return http(this.server, 'POST', this.path, { body, headers });
  }

  /** The next packet; pings are answered and not shown. */
  async next() {
    for (;;) {
      if (this.waiting.length === 0) {
        const res = await this.get();
        if (res.status !== 200) throw new Error(`poll: ${res.status} ${res.text}`);
        this.waiting = res.text.split('\x1e');
      }
      const packet = this.waiting.shift();
      if (packet !== '2') return packet;
      await this.post('3');
    }
  }
}

/** A WebSocket whose messages wait until they are asked for. */
export class Wire {
  constructor(server, target, options) {
    this.ws = new WebSocket(`ws://${server.host}${target}`, options);
    this.messages = [];
    this.readers = [];
    this.refused = null; // status of an HTTP answer that is no 101
    this.closed = new Promise((resolve) => {
      this.ws.on('close', (code) => {
        resolve(code);
        this.wake();
      });
    });
    this.opened = once(this.ws, 'open');
    this.opened.catch(() => {});
    this.ws.on('error', () => {});
    this.ws.on('unexpected-response', (req, res) => {
      this.refused = res.statusCode;
      res.resume();
      req.destroy();
      this.ws.terminate();
    });
    this.ws.on('message', (data, binary) => {
      this.messages.push(binary ? data : data.toString('utf8'));
      this.wake();
    });
  }

  static async open(server, target, options) {
    const wire = new Wire(server, target, options);
    await soon(wire.opened, `WebSocket ${target}`);
    return wire;
  }

  /** On Engine.IO, past the handshake. */
  static async eio(server, more = '') {
    const wire = await Wire.open(server, `/socket.io/?EIO=4&transport=websocket${more}`);
    wire.handshake = JSON.parse((await wire.next()).slice(1));
    return wire;
  }

  /** As eio, and in namespace "/". */
  static async connect(server, auth = '') {
    const wire = await Wire.eio(server);
    wire.send(`40${auth}`);
    wire.welcome = await wire.next();
    return wire;
  }

  wake() { for (const reader of this.readers.splice(0)) reader(); }
  send(data) { this.ws.send(data); }
  close() { this.ws.close(); }

  /** The next message, pings included; null when the connection closed first. */
  raw() {
    return soon((async () => {
      while (this.messages.length === 0) {
        if (this.ws.readyState === WebSocket.CLOSED) return null;
        await new Promise((resolve) => this.readers.push(resolve));
      }
      return this.messages.shift();
    })(), 'a message');
  }

  /** The next message; pings are answered and not shown. */
  async next() {
    for (;;) {
      const message = await this.raw();
      if (message !== '2') return message;
      this.send('3');
    }
  }
}
