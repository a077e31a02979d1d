// A TCP connection under the test's full control: bytes one at a time, frames in pieces, a reader that stops reading.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { until } from './until.mjs';

export class RawSocket {
  static async connect(origin) {
    const url = new URL(origin);
    const raw = new RawSocket();
    raw.host = url.host;
    raw.received = Buffer.alloc(0);
    raw.closed = false;
    raw.socket = net.connect(Number(url.port), url.hostname);
    raw.socket.setNoDelay(true);
    raw.socket.on('data', (chunk) => { raw.received = Buffer.concat([raw.received, chunk]); });
    raw.socket.on('error', (error) => { raw.error = error; });
    raw.socket.on('close', () => { raw.closed = true; });
    await new Promise((resolve, reject) => raw.socket.once('connect', resolve).once('error', reject));
    return raw;
  }

  write(data) {
    return new Promise((resolve) => this.socket.write(data, resolve));
  }

  /** Takes one whole HTTP response (with Content-Length) off the connection: {status, head, body}. */
  async response() {
    const head = await until(() => {
      const end = this.received.indexOf('\r\n\r\n');
      if (end < 0) return this.failIfClosed();
      const text = this.received.subarray(0, end).toString('latin1');
      const length = Number(/^content-length: *(\d+)/im.exec(text)?.[1] ?? 0);
      return this.received.length >= end + 4 + length ? { text, end, length } : this.failIfClosed();
    }, { what: 'an HTTP response', everyMs: 5 });
    const body = this.received.subarray(head.end + 4, head.end + 4 + head.length).toString('utf8');
    this.received = this.received.subarray(head.end + 4 + head.length);
    return { status: Number(head.text.split(' ')[1]), head: head.text, body };
  }

  failIfClosed() {
    assert.ok(!this.closed, `the connection closed${this.error ? ` (${this.error.message})` : ''}`);
    return undefined;
  }

  /** Sends the WebSocket upgrade for an Engine.IO connection and checks the answer. */
  async upgrade({ path = '/socket.io/?EIO=4&transport=websocket', headers = [] } = {}) {
    await this.write([`GET ${path} HTTP/1.1`, `Host: ${this.host}`, 'Connection: Upgrade', 'Upgrade: websocket',
      'Sec-WebSocket-Version: 13', `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}`, ...headers, '', '']
      .join('\r\n'));
    const answer = await this.response();
    assert.equal(answer.status, 101, answer.head);
  }

  /** Writes one masked WebSocket frame. opcode: 0 continuation, 1 text, 8 close, 9 ping, 10 pong. */
  frame(payload, { opcode = 1, final = true } = {}) {
    const data = Buffer.from(payload);
    const mask = randomBytes(4);
    const head = data.length < 126
      ? Buffer.from([(final ? 0x80 : 0) | opcode, 0x80 | data.length])
      : Buffer.from([(final ? 0x80 : 0) | opcode, 0x80 | 126, data.length >> 8, data.length & 255]);
    for (let index = 0; index < data.length; index++) data[index] ^= mask[index % 4];
    return this.write(Buffer.concat([head, mask, data]));
  }

  /** Takes one frame off the connection, or undefined when it is not whole yet. */
  takeFrame() {
    const buffer = this.received;
    if (buffer.length < 2) return undefined;
    let length = buffer[1] & 0x7f;
    let offset = 2;
    if (length === 126) {
      if (buffer.length < 4) return undefined;
      length = buffer.readUInt16BE(2);
      offset = 4;
    } else if (length === 127) {
      if (buffer.length < 10) return undefined;
      length = Number(buffer.readBigUInt64BE(2));
      offset = 10;
    }
    if (buffer.length < offset + length) return undefined;
    const data = buffer.subarray(offset, offset + length);
    const frame = { opcode: buffer[0] & 0x0f, data, text: data.toString('utf8') };
    this.received = buffer.subarray(offset + length);
    return frame;
  }

  /** Waits for a frame that starts with `start`; others before it are dropped. */
  nextText(start) {
    return until(() => {
      for (;;) {
        const frame = this.takeFrame();
        if (!frame) return this.failIfClosed();
        if (frame.text.startsWith(start)) return frame.text;
      }
    }, { what: `a frame ${start}...`, everyMs: 5 });
  }

  /** Waits for the end: the code of the server's close frame, or undefined when it just closed. */
  closeCode() {
    return until(() => {
      for (let frame; (frame = this.takeFrame());) {
        if (frame.opcode === 8) return { code: frame.data.length >= 2 ? frame.data.readUInt16BE(0) : 1005 };
      }
      return this.closed && { code: undefined };
    }, { what: 'the connection closed', everyMs: 5 }).then(({ code }) => code);
  }

  /** Upgrades and connects the namespace as that user. */
  async signIn(user) {
    await this.upgrade();
    await this.nextText('0{');
    await this.frame(`40${JSON.stringify({ token: user.token })}`);
    await this.nextText('40{');
  }

  /** Emits a Socket.IO event and waits for its ack. */
  async ask(event, payload, id = 1) {
    await this.frame(`42${id}${JSON.stringify([event, payload])}`);
    return JSON.parse((await this.nextText(`43${id}[`)).slice(`43${id}`.length))[0];
  }

  close() {
    this.socket.destroy();
  }
}
