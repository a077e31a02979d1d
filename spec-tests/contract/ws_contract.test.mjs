// WebSockets through the seam of in/ws.h, by raw bytes, on both outer loops: what libwebsockets leaves
// to its users, refusals, slow readers, and upgrades on connections that carried REST before.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { WebSocket } from 'ws';
import { until } from '../lib/until.mjs';
import {
  BINARY, CLOSE, PING, PONG, Raw, TEXT, WsClient, acceptOf, frame, handshake, handshakeKey, soon, startServer,
} from './transport.mjs';

const get = (target) => `GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`;

for (const backend of ['libuv', 'poll']) {
  const args = backend === 'poll' ? ['--poll'] : [];

  describe(`WebSockets on ${backend}`, () => {
    let server;

    before(async () => { server = await startServer(...args); });
    after(async () => { assert.equal(await server.stop(), 0); });

    it('names target, address and origin', async () => {
      assert.equal(server.backend, backend);
      const client = await server.ws('/ws?a=%2F&b=%20', { headers: { Origin: 'https://a.example' } });
      assert.deepEqual(client.facts, { target: '/ws?a=%2F&b=%20', ip: '127.0.0.1', origin: 'https://a.example' });
      client.raw.destroy();
      const io = await server.ws('/socket.io/?EIO=4&transport=websocket');
      assert.equal(io.facts.target, '/socket.io/?EIO=4&transport=websocket');
      io.raw.destroy();
    });

    it('echoes text and binary of every length class', async () => {
      const client = await server.ws();
      for (const n of [1, 125, 126, 127, 128, 600, 1000, 1024, 1025, 4096, 5000, 65535, 65536, 100000]) {
        const text = 'é'.repeat(n / 2) + (n % 2 ? 'x' : '');
        await client.send(TEXT, text);
        assert.equal(await client.text(), text, `${n} bytes`);
        const bytes = randomBytes(n);
        await client.send(BINARY, bytes);
        assert.deepEqual(await client.message(BINARY), bytes);
      }
      client.raw.destroy();
    });

    it('puts messages together whose frames cross the read buffer', async () => {
      const client = await server.ws();
      const messages = Array.from({ length: 200 }, (_, i) => `${i}:${'m'.repeat(440 + (i * 37) % 400)}`);
      await client.raw.write(Buffer.concat(messages.map((text) => frame(TEXT, text))));
      for (const text of messages) assert.equal(await client.text(), text);
      client.raw.destroy();
    });

    it('puts fragments together, with a ping between them', async () => {
      const client = await server.ws();
      await client.send(TEXT, 'he', { fin: false });
      await client.send(0, 'll', { fin: false });
      await client.send(PING, 'are you there');
      await client.send(0, 'o');
      const [first, second] = [await client.frame(), await client.frame()];
      const pong = first.opcode === PONG ? first : second;
      const text = first.opcode === PONG ? second : first;
      assert.equal(pong.opcode, PONG);
      assert.equal(pong.payload.toString(), 'are you there');
      assert.equal(text.payload.toString(), 'hello');
      await client.send(BINARY, Buffer.from([1, 2]), { fin: false });
      await client.send(0, Buffer.from([3]));
      assert.deepEqual(await client.message(BINARY), Buffer.from([1, 2, 3]));
      client.raw.destroy();
    });

    it('pings, and hears the pong', async () => {
      const { wsPongs } = await server.stats();
      const client = await server.ws();
      await client.send(TEXT, 'ping');
      const asked = await client.frame();
      assert.equal(asked.opcode, PING);
      assert.equal((await server.stats()).wsPongs, wsPongs);
      await client.send(PONG, asked.payload);
      await until(async () => (await server.stats()).wsPongs === wsPongs + 1, { what: 'on_pong' });
      client.raw.destroy();
    });

    it('takes a UTF-8 character split over fragments, and refuses broken text', async () => {
      const client = await server.ws();
      const euro = Buffer.from('€');
      await client.send(TEXT, euro.subarray(0, 1), { fin: false });
      await client.send(0, euro.subarray(1));
      assert.equal(await client.text(), '€');
      for (const bad of [[0xc0, 0x80], [0xed, 0xa0, 0x80], [0xff], [0xe2, 0x82]]) {
        const broken = await server.ws();
        await broken.send(TEXT, Buffer.from(bad));
        assert.equal(await broken.closeCode(), 1007);
        broken.raw.destroy();
      }
      client.raw.destroy();
    });

    it('serves a handshake and frames that come one byte at a time', async () => {
      const raw = await server.connect();
      const key = handshakeKey();
      for (const byte of handshake('/ws', key)) await raw.write(byte);
      const client = new WsClient(raw);
      await client.finishHandshake(key);
      await client.text();
      for (const byte of frame(TEXT, 'slowly')) await raw.write(Buffer.from([byte]));
      assert.equal(await client.text(), 'slowly');
      raw.destroy();
    });

    it('serves a handshake in two parts with the first frame glued on', async () => {
      const raw = await server.connect();
      const key = handshakeKey();
      const head = handshake('/ws', key);
      await raw.write(head.slice(0, 60));
      await until(async () => (await server.stats()).backend, { what: 'a turn of the loop' });
      await raw.write(Buffer.concat([Buffer.from(head.slice(60)), frame(TEXT, 'glued')]));
      const client = new WsClient(raw);
      await client.finishHandshake(key);
      await client.text();
      assert.equal(await client.text(), 'glued');
      raw.destroy();
    });

    it('takes 4.2 kB and 12 kB of cookies', async () => {
      for (const n of [4200, 12000]) {
        const client = await server.ws('/ws', { headers: { Cookie: `a=${'c'.repeat(n)}` } });
        await client.send(TEXT, 'cookies');
        assert.equal(await client.text(), 'cookies');
        client.raw.destroy();
      }
    });

    it('negotiates no extension and answers a stock client', async () => {
      const socket = new WebSocket(`ws://127.0.0.1:${server.port}/ws`, { perMessageDeflate: true });
      const messages = [];
      socket.on('message', (data) => messages.push(String(data)));
      await soon(new Promise((resolve, reject) => { socket.on('open', resolve); socket.on('error', reject); }), 'to open');
      assert.equal(socket.extensions, '');
      socket.send('stock');
      await until(() => messages.includes('stock'), { what: 'the echo' });
      socket.close(1000);
      await soon(new Promise((resolve) => { socket.on('close', resolve); }), 'to close');
    });

    describe('refusals', () => {
      const refused = async (request, status) => {
        const raw = await server.connect();
        await raw.write(request);
        const response = await raw.response();
        assert.equal(response.status, status);
        assert.equal(response.headers.connection, 'close');
        assert.equal(response.headers['access-control-allow-origin'], '*');
        await raw.write(get('/hello')).catch(() => {}); // a proxy must not reuse the connection
        await raw.closed();
        assert.equal(raw.data.length, 0);
        return response;
      };

      it('closes after every answer but 101', async () => {
        assert.equal((await refused(get('/ws'), 426)).json().errcode, 'M_INVALID_PARAM');
        const full = await refused(handshake('/ws?refuse', handshakeKey()), 503);
        assert.equal(full.json().error, 'No room.');
        assert.equal(full.headers['retry-after'], '5');
        assert.deepEqual((await refused(handshake('/ws?refuse=json', handshakeKey()), 403)).json(), { code: 4 });
        assert.equal((await server.stats()).ws, 0);
      });

      it('answers a subprotocol it does not speak, and keeps its own loop out of reach', async () => {
        for (const name of ['chat', 'calld-reactor', 'calld-ws']) {
          await refused(handshake('/ws', handshakeKey(), { 'Sec-WebSocket-Protocol': name }), 400);
        }
        assert.equal((await server.stats()).ws, 0);
      });

      it('refuses a handshake of another version or without a key', async () => {
        for (const headers of [{ 'Sec-WebSocket-Version': '8' }, { 'Sec-WebSocket-Version': undefined },
          { 'Sec-WebSocket-Key': 'short' }]) {
          await refused(handshake('/ws', handshakeKey(), headers), 400);
        }
        for (const headers of [{ 'Sec-WebSocket-Key': undefined }, { Upgrade: 'h2c' }]) {
          const raw = await server.connect();
          await raw.write(handshake('/ws', handshakeKey(), headers));
          await raw.closed();
          assert.ok(!raw.data.includes('101 Switching'), JSON.stringify(headers));
        }
        const { wsOpened, wsClosed } = await server.stats();
        assert.equal(wsOpened, wsClosed);
      });

      it('closes 1009 on a message over the cap, whole or in fragments', async () => {
        const whole = await server.ws();
        await whole.send(TEXT, 'x'.repeat(100001));
        assert.equal(await whole.closeCode(), 1009);
        await whole.send(CLOSE, Buffer.from([0x03, 0xf1]));
        await whole.raw.closed();
        const parts = await server.ws();
        for (let i = 0; i < 11 && !parts.raw.ended; i++) {
          await parts.send(i ? 0 : TEXT, 'y'.repeat(10000), { fin: false });
        }
        assert.equal(await parts.closeCode(), 1009);
        parts.raw.destroy();
      });

      it('closes 1002 on reserved bits and opcodes', async () => {
        for (const bytes of [Buffer.from([0xc1, 0x80, 1, 2, 3, 4]), Buffer.from([0x83, 0x80, 1, 2, 3, 4])]) {
          const client = await server.ws();
          await client.raw.write(bytes);
          assert.equal(await client.closeCode(), 1002);
          client.raw.destroy();
        }
      });
    });

    describe('closing', () => {
      it('sends what is queued, then the code it was given', async () => {
        const client = await server.ws();
        await client.send(TEXT, 'one');
        await client.send(TEXT, 'close 4001');
        assert.equal(await client.text(), 'one');
        const last = await client.frame();
        assert.equal(last.opcode, CLOSE);
        assert.equal(last.payload.readUInt16BE(0), 4001);
        assert.equal(last.payload.subarray(2).toString(), 'as ordered');
        await client.send(CLOSE, last.payload.subarray(0, 2));
        await client.raw.closed();
      });

      it('echoes the client\'s close and tells its owner once', async () => {
        const { wsClosed } = await server.stats();
        const client = await server.ws();
        await client.send(CLOSE, Buffer.from([0x03, 0xe8]));
        assert.equal(await client.closeCode(), 1000);
        await client.raw.closed();
        await until(async () => (await server.stats()).wsClosed === wsClosed + 1, { what: 'one on_close' });
      });

      it('notices clients that vanish', async () => {
        const { wsClosed } = await server.stats();
        const clients = await Promise.all([1, 2, 3, 4].map(() => server.ws()));
        clients[0].raw.socket.resetAndDestroy();
        clients[1].raw.destroy();
        clients[2].raw.end();
        await clients[3].raw.write(frame(TEXT, 'half').subarray(0, 5));
        clients[3].raw.destroy();
        await until(async () => (await server.stats()).wsClosed === wsClosed + 4, { what: 'four on_close' });
      });
    });

    describe('much output', () => {
      it('keeps the order when the socket fills, and drains', async () => {
        const { wsFilled } = await server.stats();
        const client = await server.ws();
        client.raw.socket.pause();
        await client.send(TEXT, 'fill');
        await until(async () => (await server.stats()).wsFilled > wsFilled, { what: 'messages to wait' });
        client.raw.socket.resume();
        let n = 0;
        for (let text = await client.text(); !text.startsWith('filled'); text = await client.text()) {
          assert.equal(text.length, 20000);
          assert.equal(parseInt(text.slice(0, 8), 10), n++);
        }
        assert.ok(n > 20);
        await until(async () => (await server.stats()).wsQueued === 0, { what: 'the queue to drain' });
        client.raw.destroy();
      });

      it('closes a slow reader instead of keeping its messages', async () => {
        const { wsClosed } = await server.stats();
        const client = await server.ws();
        client.raw.socket.pause();
        await client.send(TEXT, 'flood 100000 1000');
        await until(async () => (await server.stats()).wsClosed === wsClosed + 1, { what: 'the slow reader to be closed' });
        client.raw.destroy();
        const other = await server.ws();
        await other.send(TEXT, 'still here');
        assert.equal(await other.text(), 'still here');
        other.raw.destroy();
      });
    });

    describe('upgrades on a connection that carried REST', () => {
      it('bridges them, many times', async () => {
        for (let i = 0; i < 20; i++) {
          const raw = await server.connect();
          await raw.write(get('/hello'));
          assert.equal((await raw.response()).text, 'hello');
          const client = await WsClient.open(server.port, '/socket.io/?EIO=4&transport=websocket', { raw });
          assert.equal(client.facts.target, '/socket.io/?EIO=4&transport=websocket');
          assert.equal(client.facts.ip, '127.0.0.1');
          await client.send(TEXT, `bridged ${i}`);
          assert.equal(await client.text(), `bridged ${i}`);
          raw.destroy();
        }
        await until(async () => (await server.stats()).ws === 0, { what: 'all to end' });
      });

      it('carries large messages, a glued first frame and closes both ways', async () => {
        const raw = await server.connect();
        await raw.write(get('/hello'));
        await raw.response();
        const key = handshakeKey();
        await raw.write(Buffer.concat([Buffer.from(handshake('/ws', key)), frame(TEXT, 'glued')]));
        const client = new WsClient(raw);
        await client.finishHandshake(key);
        await client.text();
        assert.equal(await client.text(), 'glued');
        const bytes = randomBytes(99000);
        for (let i = 0; i < 5; i++) {
          await client.send(BINARY, bytes);
          assert.deepEqual(await client.message(BINARY), bytes);
        }
        await client.send(TEXT, 'close 4002');
        assert.equal(await client.closeCode(), 4002);
        await client.send(CLOSE, Buffer.from([0x0f, 0xa2]));
        await raw.closed();
      });

      it('takes absolute-form targets', async () => {
        const client = await server.ws('http://localhost/ws?x=1');
        assert.equal(client.facts.target, '/ws?x=1');
        client.raw.destroy();
      });

      it('refuses what is no handshake', async () => {
        for (const headers of [{ 'Sec-WebSocket-Version': '8' }, { 'Sec-WebSocket-Key': 'short' }, { 'Sec-WebSocket-Protocol': 'chat' }]) {
          const raw = await server.connect();
          await raw.write(get('/hello'));
          await raw.response();
          await raw.write(handshake('/ws', handshakeKey(), headers));
          assert.equal((await raw.response()).status, 400);
          raw.destroy();
        }
      });

      it('serves REST and sockets over one pool, as a proxy with keep-alive does', async () => {
        const pool = await Promise.all(Array.from({ length: 4 }, () => server.connect()));
        for (let round = 0; round < 3; round++) {
          for (const raw of pool) {
            await raw.write(get(`/items/${round}`));
            assert.equal((await raw.response()).json().param, String(round));
          }
        }
        const clients = await Promise.all(pool.map((raw) => WsClient.open(server.port, '/ws', { raw })));
        for (const client of clients) await client.send(TEXT, 'x');
        for (const client of clients) assert.equal(await client.text(), 'x');
        for (const raw of pool) raw.destroy();
      });
    });
  });

  describe(`WebSocket settings on ${backend}`, () => {
    it('strips the prefix, also on the bridge', async () => {
      const server = await startServer(...args, '--prefix', '/calld');
      const direct = await server.ws('/calld/ws?x=1');
      assert.equal(direct.facts.target, '/ws?x=1');
      const bare = await server.ws('/ws');
      assert.equal(bare.facts.target, '/ws');
      const raw = await server.connect();
      await raw.write(get('/calld/hello'));
      assert.equal((await raw.response()).text, 'hello');
      const bridged = await WsClient.open(server.port, '/calld/ws?y', { raw });
      assert.equal(bridged.facts.target, '/ws?y');
      for (const one of [direct, bare, bridged]) one.raw.destroy();
      assert.equal(await server.stop(), 0);
    });

    it('names the client behind a trusted proxy, also on the bridge', async () => {
      const server = await startServer(...args, '--trust', '127.0.0.1, 10.0.0.0/8');
      const headers = { 'X-Forwarded-For': '6.6.6.6, 1.2.3.4, 10.1.1.1' };
      assert.equal((await server.ws('/ws', { headers })).facts.ip, '1.2.3.4');
      const raw = await server.connect();
      await raw.write(get('/hello'));
      await raw.response();
      assert.equal((await WsClient.open(server.port, '/ws', { raw, headers })).facts.ip, '1.2.3.4');
      assert.equal(await server.stop(), 0);
      const plain = await startServer(...args);
      assert.equal((await plain.ws('/ws', { headers })).facts.ip, '127.0.0.1');
      assert.equal(await plain.stop(), 0);
    });

    it('takes listed origins only, also on the bridge', async () => {
      const server = await startServer(...args, '--origins', 'https://a.example');
      assert.equal((await server.ws('/ws', { headers: { Origin: 'https://a.example' } })).facts.origin, 'https://a.example');
      assert.equal((await server.ws('/ws')).facts.origin, null, 'no browser');
      for (const reused of [false, true]) {
        const raw = await server.connect();
        if (reused) {
          await raw.write(get('/hello'));
          await raw.response();
        }
        await raw.write(handshake('/ws', handshakeKey(), { Origin: 'https://evil.example' }));
        const response = await raw.response();
        assert.equal(response.status, 403);
        assert.equal(response.headers['access-control-allow-origin'], undefined);
        raw.destroy();
      }
      assert.equal(await server.stop(), 0);
    });

    it('counts the sockets of each client', async () => {
      const server = await startServer(...args, '--per-ip', '2', '--trust', 'true');
      const open = (ip) => WsClient.open(server.port, '/ws', { headers: { 'X-Forwarded-For': ip } });
      const held = [await open('9.9.9.1'), await open('9.9.9.1'), await open('9.9.9.2')];
      const raw = await server.connect();
      await raw.write(handshake('/ws', handshakeKey(), { 'X-Forwarded-For': '9.9.9.1' }));
      assert.equal((await raw.response()).status, 429);
      held[0].raw.destroy();
      await until(async () => {
        const again = await Raw.connect({ host: '127.0.0.1', port: server.port });
        const key = handshakeKey();
        await again.write(handshake('/ws', key, { 'X-Forwarded-For': '9.9.9.1' }));
        const response = await again.response();
        if (response.status === 101) assert.equal(response.headers['sec-websocket-accept'], acceptOf(key));
        return response.status === 101;
      }, { what: 'a free place' });
      assert.equal(await server.stop(), 0);
    });

    it('closes everything with 1001 when it drains, bridged or not', async () => {
      const server = await startServer(...args);
      const direct = await server.ws();
      const raw = await server.connect();
      await raw.write(get('/hello'));
      await raw.response();
      const bridged = await WsClient.open(server.port, '/ws', { raw });
      server.signal('SIGTERM');
      for (const client of [direct, bridged]) {
        assert.equal(await client.closeCode(), 1001);
        await client.send(CLOSE, Buffer.from([0x03, 0xe9]));
        await client.raw.closed();
      }
      assert.equal(await server.exited(), 0);
    });

    it('ends cleanly with live sockets, a bridge and a stalled handshake', async () => {
      const server = await startServer(...args);
      const clients = await Promise.all([server.ws(), server.ws()]);
      const raw = await server.connect();
      await raw.write(get('/hello'));
      await raw.response();
      clients.push(await WsClient.open(server.port, '/ws', { raw }));
      const stalled = await server.connect();
      await stalled.write('GET /ws HTTP/1.1\r\nHost: x\r\nUpgr');
      await until(async () => (await server.stats()).ws === 3, { what: 'three sockets' });
      server.signal('SIGUSR1');
      assert.equal(await server.exited(), 0);
      for (const client of clients) client.raw.destroy();
      stalled.destroy();
    });
  });
}
