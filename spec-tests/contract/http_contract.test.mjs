// HTTP as clients see it, by raw bytes, on both outer loops: what libmicrohttpd in one shared loop must
// not get wrong, what is refused on the head alone, and how the daemon drains.

import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { until } from '../lib/until.mjs';
import { Raw, soon, startServer } from './transport.mjs';

const get = (target, headers = '') => `GET ${target} HTTP/1.1\r\nHost: x\r\n${headers}\r\n`;
const post = (target, body, headers = '') =>
  `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: ${Buffer.byteLength(body)}\r\n${headers}\r\n${body}`;

/** One exchange on a connection of its own. */
async function once(server, request, options) {
  const raw = await server.connect();
  await raw.write(request);
  const response = await raw.response(options);
  raw.destroy();
  return response;
}

for (const backend of ['libuv', 'poll']) {
  describe(`HTTP on ${backend}`, () => {
    const args = backend === 'poll' ? ['--poll'] : [];
    let server;
    let folder;

    before(async () => {
      folder = await mkdtemp(path.join(os.tmpdir(), 'calld-http-'));
      server = await startServer(...args, '--control', path.join(folder, 'control.sock'));
    });
    after(async () => {
      assert.equal(await server.stop(), 0);
      await rm(folder, { recursive: true });
    });

    it('runs on the loop it was asked for', () => {
      assert.equal(server.backend, backend);
    });

    it('keeps a connection alive over answers, refusals without a body and preflights', async () => {
      const raw = await server.connect();
      for (const [request, status] of [[get('/hello'), 200], [get('/nothing'), 404], [get('/private'), 401],
        ['OPTIONS /echo HTTP/1.1\r\nHost: x\r\n\r\n', 204], ['PUT /hello HTTP/1.1\r\nHost: x\r\n\r\n', 405],
        [get('/hello'), 200]]) {
        await raw.write(request);
        assert.equal((await raw.response()).status, status, request);
      }
      raw.destroy();
    });

    it('wakes parked requests that another request releases', async () => {
      const parked = await Promise.all([1, 2, 3].map(() => server.connect()));
      for (const raw of parked) await raw.write(get('/park'));
      await until(async () => (await server.stats()).parked === 3, { what: 'three parked' });
      assert.equal((await once(server, post('/release', ''))).text, 'ok');
      for (const raw of parked) {
        assert.equal((await raw.response()).text, 'released');
        await raw.write(get('/hello'));
        assert.equal((await raw.response()).text, 'hello');
        raw.destroy();
      }
      assert.equal((await server.stats()).parked, 0);
    });

    it('answers late, and at once although parked', async () => {
      assert.equal((await once(server, get('/late'))).text, 'late');
      assert.equal((await once(server, get('/at-once'))).text, 'at once');
    });

    it('takes a 60 kB POST and sends large answers', async () => {
      const body = 'x'.repeat(60000);
      assert.equal((await once(server, post('/echo', body))).text, body);
      const big = await once(server, get('/big?n=3000000'));
      assert.equal(big.text.length, 3000000);
    });

    it('answers 20 pipelined GETs, also when some wait', async () => {
      const raw = await server.connect();
      await raw.write(Array.from({ length: 20 }, (_, i) => get(i % 5 === 4 ? '/late?ms=5' : `/items/${i}`)).join(''));
      for (let i = 0; i < 20; i++) {
        const response = await raw.response();
        if (i % 5 === 4) assert.equal(response.text, 'late');
        else assert.equal(response.json().param, String(i));
      }
      raw.destroy();
    });

    it('serves a client that sends one byte at a time', async () => {
      const raw = await server.connect();
      for (const byte of post('/echo', 'slow', 'X-A: b\r\n')) await raw.write(byte);
      assert.equal((await raw.response()).text, 'slow');
      raw.destroy();
    });

    it('takes chunked bodies, and Expect: 100-continue', async () => {
      const chunked = 'POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n';
      assert.equal((await once(server, `${chunked}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n`)).text, 'abcde');
      const raw = await server.connect();
      await raw.write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n');
      await raw.until(() => (raw.data.includes('100 Continue') ? true : undefined), '100 Continue');
      await raw.write('ok');
      assert.equal((await raw.response()).text, 'ok');
      raw.destroy();
    });

    describe('refusals on the head', () => {
      it('answers 413 to a huge Content-Length before any body, and the answer arrives', async () => {
        const raw = await server.connect();
        await raw.write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n');
        const response = await raw.response();
        assert.equal(response.status, 413);
        assert.equal(response.json().errcode, 'M_TOO_LARGE');
        assert.equal(response.headers.connection, 'close');
        assert.equal(response.headers['access-control-allow-origin'], '*');
        raw.destroy();
      });

      it('lets a client that is still sending read its refusal', async () => {
        for (const [target, status, bytes] of [['/echo', 413, 3e6], ['/nothing', 404, 3e6], ['/private', 401, 200000]]) {
          const raw = await server.connect();
          await raw.write(`POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: ${bytes}\r\n\r\n`);
          for (let i = 0; i < bytes; i += 100000) await raw.write('y'.repeat(100000)); // all of it, whatever was answered
          const response = await raw.response();
          assert.equal(response.status, status, target);
          await raw.closed();
          assert.equal(raw.error, null, `${target}: no reset`);
        }
      });

      it('stops reading after 4 MiB or 2 s', async () => {
        const raw = await server.connect();
        await raw.write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 500000000\r\n\r\n');
        let sent = 0;
        while (!raw.error && sent < 30e6) {
          await soon(raw.write(Buffer.alloc(200000)), 'a write');
          sent += 200000;
        }
        assert.ok(sent < 30e6, `the server took ${sent} bytes`);
        raw.destroy();
      });

      it('cuts a chunked body at the cap of its route', async () => {
        const raw = await server.connect();
        await raw.write('POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n');
        await raw.write(`32\r\n${'z'.repeat(50)}\r\n`);
        await raw.write(`40\r\n${'z'.repeat(64)}\r\n`);
        const response = await raw.response();
        assert.equal(response.status, 413);
        assert.equal(response.json().errcode, 'M_TOO_LARGE');
        assert.equal(response.headers['access-control-allow-origin'], '*');
        await raw.closed();
        assert.equal(raw.error, null);
        assert.equal((await once(server, post('/small', 'z'.repeat(100)))).status, 200);
        assert.equal((await once(server, post('/small', 'z'.repeat(101)))).status, 413);
      });

      it('judges the token before the body, also when the judge takes its time', async () => {
        const raw = await server.connect();
        await raw.write('POST /private HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer slow-bad\r\nContent-Length: 9\r\n\r\n');
        const response = await raw.response();
        assert.equal(response.status, 401);
        assert.equal(response.json().errcode, 'M_UNKNOWN_TOKEN');
        raw.destroy();
        for (const token of ['good', 'slow']) {
          assert.equal((await once(server, get('/private', `Authorization: Bearer ${token}\r\n`))).text, 'hello');
          assert.equal((await once(server, post('/private', 'body', `Authorization: Bearer ${token}\r\n`))).text, 'body');
        }
        const large = 'w'.repeat(200000); // arrives while the judge still thinks
        assert.equal((await once(server, post('/private', large, 'Authorization: Bearer slow\r\n'))).text, large);
        const missing = await once(server, get('/private'));
        assert.equal(missing.status, 401);
        assert.equal(missing.json().errcode, 'M_MISSING_TOKEN');
      });

      it('ends a judgement that never comes', async () => {
        const { cancelled } = await server.stats();
        const response = await once(server, get('/private', 'Authorization: Bearer slow-parked\r\n'));
        assert.equal(response.status, 503);
        assert.equal((await server.stats()).cancelled, cancelled + 1);
      });

      it('refuses two readings of a body\'s length', async () => {
        for (const headers of ['Content-Length: 3\r\nTransfer-Encoding: chunked\r\n', 'Content-Length: 3\r\nContent-Length: 4\r\n',
          'Content-Length: 3x\r\n', 'Content-Length: -1\r\n']) {
          const { handled } = await server.stats();
          const response = await once(server, `POST /echo HTTP/1.1\r\nHost: x\r\n${headers}\r\nabc`);
          assert.ok([400, 413].includes(response.status), `${headers} ${response.status}`);
          assert.equal((await server.stats()).handled, handled, 'no handler ran');
        }
      });

      const unclear = ['Content-Length : 3\r\n', 'Content-Length\t: 3\r\n', ' Content-Length: 3\r\n', 'X y: 3\r\n',
        'Transfer-Encoding: xchunked\r\n', 'Transfer-Encoding: identity\r\n', 'Transfer-Encoding: chunked, identity\r\n',
        'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n',
        'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n'];
      const lengths = ['Content-Length: +3\r\n', 'Content-Length: -3\r\n', 'Content-Length: 3, 3\r\n', 'Content-Length: 0x3\r\n',
        'Content-Length:\r\n', 'Content-Length: 99999999999999999999999\r\n', 'No colon\r\n'];

      it('refuses what leaves open where the body ends, and never reads on', async () => {
        for (const headers of [...unclear, ...lengths, ': 3\r\n']) {
          const { handled } = await server.stats();
          const raw = await server.connect();
          await raw.write(`POST /echo HTTP/1.1\r\nHost: x\r\n${headers}\r\nabc${get('/hello')}`);
          const response = await raw.response();
          assert.equal(response.status, 400, headers);
          assert.equal(response.json().errcode, 'M_INVALID_PARAM', headers);
          await raw.closed();
          assert.equal(raw.data.length, 0, `${headers} nothing more was answered`);
          assert.equal((await server.stats()).handled, handled, `${headers} no handler ran`);
        }
      });

      it('refuses it on a connection that served before, too', async () => {
        for (const headers of [...unclear, ...lengths]) {
          const raw = await server.connect();
          await raw.write(get('/hello'));
          assert.equal((await raw.response()).text, 'hello');
          const { handled } = await server.stats();
          await raw.write(`POST /echo HTTP/1.1\r\nHost: x\r\n${headers}\r\nabc${get('/hello')}`);
          const response = await raw.response();
          assert.ok([400, 413].includes(response.status), `${headers} ${response.status}`);
          // libmicrohttpd speaks for itself there, and closes
          if (unclear.includes(headers)) assert.equal(response.json().errcode, 'M_INVALID_PARAM', headers);
          await raw.closed();
          assert.doesNotMatch(String(raw.data), /HTTP\/1\.1 200/, headers);
          assert.equal((await server.stats()).handled, handled, `${headers} no handler ran`);
        }
      });

      it('takes a chunked body in any case of letters', async () => {
        const raw = await server.connect();
        await raw.write('POST /echo HTTP/1.1\r\nHost: x\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n');
        assert.equal((await raw.response()).text, 'abc');
        raw.destroy();
      });

      it('answers heads that are too large', async () => {
        const response = await once(server, get('/hello', `X-Long: ${'h'.repeat(30000)}\r\n`));
        assert.ok([413, 431].includes(response.status), String(response.status));
        const long = await once(server, get(`/${'u'.repeat(30000)}`));
        assert.ok([400, 414, 431].includes(long.status), String(long.status));
        assert.equal((await once(server, get('/hello'))).status, 200);
      });
    });

    describe('routing', () => {
      it('answers 404 and 405 as Matrix errors with Allow and CORS', async () => {
        const unknown = await once(server, get('/nothing'));
        assert.equal(unknown.status, 404);
        assert.equal(unknown.json().errcode, 'M_UNRECOGNIZED');
        const method = await once(server, 'DELETE /hello HTTP/1.1\r\nHost: x\r\n\r\n');
        assert.equal(method.status, 405);
        assert.equal(method.json().errcode, 'M_UNRECOGNIZED');
        assert.equal(method.headers.allow, 'GET, HEAD, POST, OPTIONS');
        const strange = await once(server, 'BREW /hello HTTP/1.1\r\nHost: x\r\n\r\n');
        assert.equal(strange.status, 405);
        for (const response of [unknown, method, strange]) {
          assert.equal(response.headers['access-control-allow-origin'], '*');
          assert.equal(response.headers['content-type'], 'application/json');
          assert.equal(response.headers['access-control-allow-credentials'], undefined);
          assert.ok(response.headers['x-request-id']);
        }
      });

      it('answers preflights', async () => {
        const response = await once(server, 'OPTIONS /items/7 HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n'
          + 'Access-Control-Request-Method: DELETE\r\nAccess-Control-Request-Headers: authorization\r\n\r\n');
        assert.equal(response.status, 204);
        assert.equal(response.headers['access-control-allow-origin'], '*');
        assert.match(response.headers['access-control-allow-methods'], /DELETE/);
        assert.match(response.headers['access-control-allow-headers'], /Authorization.*Idempotency-Key/);
        assert.equal(response.headers.allow, 'GET, HEAD, DELETE, OPTIONS');
      });

      it('answers HEAD where there is GET', async () => {
        const raw = await server.connect();
        await raw.write('HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n');
        const response = await raw.response({ head: true });
        assert.equal(response.status, 200);
        assert.equal(response.headers['content-length'], '5');
        await raw.write(get('/hello'));
        assert.equal((await raw.response()).text, 'hello', 'nothing of the body was sent');
        raw.destroy();
      });

      it('decodes segment by segment and refuses %00', async () => {
        assert.equal((await once(server, get('/items/a%2Fb%20c+d'))).json().param, 'a/b c+d');
        assert.equal((await once(server, get('/rest/%40a/b%3Ahs'))).json().param, '@a/b:hs');
        for (const bad of ['/items/a%00b', '/items/%ff', '/items/a%zz', '/rest/x/%00']) {
          const response = await once(server, get(bad));
          assert.equal(response.status, 400, bad);
          assert.equal(response.json().errcode, 'M_INVALID_PARAM');
        }
        assert.equal((await once(server, get('/items%2F1'))).status, 404);
        assert.equal((await once(server, get('/items/../hello'))).status, 404);
      });

      it('decodes query values', async () => {
        const x = async (query) => (await once(server, get(`/items/1?${query}`))).json().x;
        assert.equal(await x('x=a+b%26c'), 'a b&c');
        assert.equal(await x('y=1&x=2&x=3'), '2');
        assert.equal(await x('x'), '');
        assert.equal(await x('y=x=1'), null);
        assert.equal(await x('x=%00'), null);
        assert.equal((await once(server, get('/items/1?x=/../y%2F'))).json().path, '/items/1');
      });

      it('serves absolute-form targets as their origin form', async () => {
        for (const origin of ['http://x', 'HTTP://other.example:8080', 'https://[::1]:3000']) {
          assert.equal((await once(server, get(`${origin}/hello`))).text, 'hello', origin);
          assert.equal((await once(server, get(`${origin}/items/a%2Fb?q=1`))).json().param, 'a/b', origin);
          assert.equal((await once(server, get(origin))).status, 404);
          assert.equal((await once(server, get(`${origin}?q=1`))).status, 404);
        }
        const refused = await once(server, 'PUT http://x/hello HTTP/1.1\r\nHost: x\r\n\r\n');
        assert.equal(refused.status, 405);
        for (const target of ['http:///hello', 'ftp://x/hello', 'http:/hello', 'x/hello']) {
          assert.ok([400, 404].includes((await once(server, get(target))).status), target);
        }
      });

      it('keeps the roles apart', async () => {
        assert.equal((await once(server, get('/control'))).status, 404);
        assert.equal((await once(server, 'PUT /transactions/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n')).status, 404);
        const appservice = await Raw.connect({ host: '::1', port: server.appservicePort });
        await appservice.write(get('/hello'));
        assert.equal((await appservice.response()).status, 404);
        await appservice.write(`PUT /transactions/a%2Fb HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hs\r\nContent-Length: 2\r\n\r\n{}`);
        assert.equal((await appservice.response()).text, '2');
        await appservice.write(`PUT /transactions/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}`);
        assert.equal((await appservice.response()).status, 401);
        appservice.destroy();
        const file = path.join(folder, 'control.sock');
        assert.equal((await stat(file)).mode & 0o777, 0o660);
        const control = await Raw.connect({ path: file });
        await control.write(get('/control'));
        assert.equal((await control.response()).text, 'hello');
        await control.write(get('/hello'));
        assert.equal((await control.response()).status, 404);
        control.destroy();
      });

      it('caps bodies by role', async () => {
        const length = async (raw, method, target, n, headers = '') => {
          await raw.write(`${method} ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: ${n}\r\n${headers}\r\n`);
          await raw.write(Buffer.alloc(n));
          const response = await raw.response();
          raw.destroy();
          return response.status === 200 ? Number(response.text) : response.status;
        };
        const appservice = () => Raw.connect({ host: '::1', port: server.appservicePort });
        const control = () => Raw.connect({ path: path.join(folder, 'control.sock') });
        const hs = 'Authorization: Bearer hs\r\n';
        assert.equal(await length(await appservice(), 'PUT', '/transactions/1', 5000000, hs), 5000000);
        assert.equal(await length(await control(), 'POST', '/length', 1 << 20), 1 << 20);
        assert.equal(await length(await control(), 'POST', '/length', (1 << 20) + 1), 413);
        const large = 'v'.repeat(256 * 1024);
        assert.equal((await once(server, post('/echo', large))).text.length, large.length);
        assert.equal((await once(server, post('/echo', `${large}v`))).status, 413);
      });
    });

    describe('headers', () => {
      it('echoes a sane X-Request-ID and replaces others', async () => {
        const id = async (value) => (await once(server, get('/hello', `X-Request-ID: ${value}\r\n`))).headers['x-request-id'];
        assert.equal(await id('req-1_2.3:4/5+6=7@8~'), 'req-1_2.3:4/5+6=7@8~');
        for (const bad of ['a b', 'a"b', 'a\tb', 'a<script>', 'x'.repeat(65), '', 'a\r\n Injected: yes']) {
          const echoed = await id(bad);
          assert.match(echoed, /^[A-Za-z0-9]{16}$/, JSON.stringify(bad));
        }
        assert.notEqual((await once(server, get('/hello'))).headers['x-request-id'],
          (await once(server, get('/hello'))).headers['x-request-id']);
      });

      it('never lets a value begin a header of its own', async () => {
        const response = await once(server, get('/inject'));
        assert.equal(response.status, 200);
        assert.equal(response.headers['x-good'], 'fine');
        assert.equal(response.headers['x-injected'], undefined);
        assert.equal(response.headers['x-bad'], undefined);
        assert.equal(response.headers['cache-control'], 'max-age=60', 'a handler may replace the default');
        assert.equal(response.headers['x-content-type-options'], 'nosniff');
      });

      it('turns codes into errors with Retry-After', async () => {
        const response = await once(server, get('/refused'));
        assert.equal(response.status, 429);
        assert.equal(response.headers['retry-after'], '2');
        assert.deepEqual(response.json(), { errcode: 'M_LIMIT_EXCEEDED', error: 'Slow "down".', retry_after_ms: 1500 });
        assert.equal((await once(server, get('/silent'))).status, 500);
      });
    });

    describe('clients that leave or do nothing', () => {
      it('tells the owner of a parked request that its client has left', async () => {
        const { cancelled } = await server.stats();
        const raw = await server.connect();
        await raw.write(get('/park?watch=1'));
        await until(async () => (await server.stats()).parked === 1, { what: 'it to park' });
        raw.destroy();
        await until(async () => {
          const now = await server.stats();
          return now.cancelled === cancelled + 1 && now.parked === 0;
        }, { what: 'the cancellation' });
      });

      it('survives an unwatched client leaving while parked', async () => {
        const raw = await server.connect();
        await raw.write(get('/late?ms=300'));
        await until(async () => (await server.stats()).parked === 1, { what: 'it to park' });
        raw.destroy();
        await until(async () => (await server.stats()).parked === 0, { what: 'it to end' });
        assert.equal((await once(server, get('/hello'))).status, 200);
      });

      it('answers 503 when a parked request times out', async () => {
        const { cancelled } = await server.stats();
        const response = await once(server, get('/park?timeout=50'));
        assert.equal(response.status, 503);
        assert.equal(response.json().errcode, 'ORG.CALLD.OVERLOADED');
        assert.equal((await server.stats()).cancelled, cancelled + 1);
      });

      it('closes a TLS hello and a half-closed partial line at once', async () => {
        const tls = await server.connect();
        await tls.write(Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]));
        await tls.closed();
        const half = await server.connect();
        await half.write('GET /he');
        half.end();
        await half.closed();
        const empty = await server.connect();
        empty.end();
        await empty.closed();
      });

      it('spends no CPU on a silent partial line, and closes it after its deadline', async () => {
        const raws = await Promise.all(Array.from({ length: 5 }, () => server.connect()));
        const started = Date.now();
        for (const raw of raws) await raw.write('GET /w');
        const before = (await server.stats()).cpuMs;
        await Promise.all(raws.map((raw) => raw.closed()));
        const waited = Date.now() - started;
        const spent = (await server.stats()).cpuMs - before;
        assert.ok(waited > 5000, `closed after ${waited} ms`);
        assert.ok(spent < waited / 10, `${spent} ms of CPU in ${waited} ms`);
      });

      it('classifies unfinished and overlong targets', async () => {
        const raw = await server.connect();
        await raw.write(`GET /items/${'k'.repeat(3000)}`);
        await raw.write(' HTTP/1.1\r\nHost: x\r\n\r\n');
        const response = await raw.response();
        assert.equal(response.status, 200);
        assert.equal(response.json().param.length, 3000);
        raw.destroy();
      });
    });
  });

  describe(`HTTP settings on ${backend}`, () => {
    const args = backend === 'poll' ? ['--poll'] : [];

    it('strips the path prefix, whole segments only', async () => {
      const server = await startServer(...args, '--prefix', '/calld');
      assert.equal((await once(server, get('/calld/hello'))).text, 'hello');
      assert.equal((await once(server, get('/hello'))).text, 'hello', 'the proxy may have cut it off');
      assert.equal((await once(server, get('/calldhello'))).status, 404);
      assert.equal((await once(server, get('/calld'))).status, 404);
      assert.equal((await once(server, get('/calld/items/1?x=2'))).json().path, '/items/1');
      assert.equal(await server.stop(), 0);
    });

    it('names the client behind trusted proxies only', async () => {
      const ip = async (server, forwarded) =>
        (await once(server, get('/items/1', `X-Forwarded-For: ${forwarded}\r\n`))).json().ip;
      const trusting = await startServer(...args, '--trust', 'true');
      assert.equal(await ip(trusting, '6.6.6.6, 1.2.3.4'), '1.2.3.4');
      assert.equal(await trusting.stop(), 0);
      const listed = await startServer(...args, '--trust', '127.0.0.0/8, 10.0.0.0/8');
      assert.equal(await ip(listed, '6.6.6.6, 1.2.3.4, 10.9.8.7'), '1.2.3.4');
      assert.equal(await listed.stop(), 0);
      const plain = await startServer(...args);
      assert.equal(await ip(plain, '1.2.3.4'), '127.0.0.1');
      assert.equal(await plain.stop(), 0);
    });

    it('answers listed web origins exactly', async () => {
      const server = await startServer(...args, '--origins', 'https://a.example https://b.example:8443');
      const allow = async (origin) => {
        const response = await once(server, get('/nothing', origin ? `Origin: ${origin}\r\n` : ''));
        assert.equal(response.headers.vary, 'Origin');
        return response.headers['access-control-allow-origin'];
      };
      assert.equal(await allow('https://a.example'), 'https://a.example');
      assert.equal(await allow('https://b.example:8443'), 'https://b.example:8443');
      for (const other of ['https://a.example.evil', 'https://b.example', 'http://a.example', 'null', undefined]) {
        assert.equal(await allow(other), undefined, other);
      }
      assert.equal(await server.stop(), 0);
    });

    it('limits connections an address, and says so', async () => {
      const server = await startServer(...args, '--per-ip', '3');
      const raws = [];
      for (let i = 0; i < 3; i++) {
        const raw = await server.connect();
        await raw.write(get('/hello'));
        assert.equal((await raw.response()).status, 200);
        raws.push(raw);
      }
      const fourth = await server.connect();
      await fourth.write(get('/hello'));
      const response = await fourth.response();
      assert.equal(response.status, 429);
      assert.equal(response.json().errcode, 'M_LIMIT_EXCEEDED');
      await fourth.closed();
      assert.equal(fourth.error, null);
      const socket = await server.connect();
      await socket.write('GET /ws HTTP/1.1\r\nHost: x\r\n\r\n');
      assert.equal((await socket.response()).status, 429, 'WebSockets count too');
      raws[0].destroy();
      await until(async () => (await once(server, get('/hello'))).status === 200, { what: 'a free place' });
      for (const raw of raws) raw.destroy();
      assert.equal(await server.stop(), 0);
    });

    it('limits the clients behind a trusted proxy, not the proxy', async () => {
      const server = await startServer(...args, '--per-ip', '2', '--trust', 'true');
      const held = [];
      const ask = async (client) => {
        const raw = await server.connect();
        held.push(raw);
        await raw.write(get('/hello', `X-Forwarded-For: ${client}\r\n`));
        return { status: (await raw.response()).status, raw };
      };
      for (let i = 1; i <= 6; i++) assert.equal((await ask(`9.9.9.${i}`)).status, 200);
      assert.equal((await ask('9.9.9.1')).status, 200);
      assert.equal((await ask('9.9.9.1')).status, 429);
      const other = await ask('9.9.9.7'); // the same connection may next serve another client
      await other.raw.write(get('/hello', 'X-Forwarded-For: 9.9.9.8\r\n'));
      assert.equal((await other.raw.response()).status, 200);
      for (const raw of held) raw.destroy();
      assert.equal(await server.stop(), 0);
    });

    it('refuses bodies beyond the budget, and gives it back', async () => {
      const server = await startServer(...args, '--bodies', '100000');
      const raw = await server.connect();
      await raw.write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 80000\r\n\r\n');
      await raw.write('x'.repeat(10));
      await until(async () => (await once(server, post('/echo', 'y'.repeat(50000)))).status === 503, { what: 'a 503' });
      assert.equal((await once(server, post('/echo', 'y'.repeat(10000)))).status, 200);
      raw.destroy();
      await until(async () => (await once(server, post('/echo', 'y'.repeat(50000)))).status === 200, { what: 'the budget back' });
      assert.equal(await server.stop(), 0);
    });

    it('turns connections away beyond its maximum', async () => {
      const server = await startServer(...args, '--max', '2');
      const raws = [await server.connect(), await server.connect()];
      for (const raw of raws) {
        await raw.write(get('/hello'));
        assert.equal((await raw.response()).status, 200);
      }
      const third = await once(server, get('/hello'));
      assert.equal(third.status, 503);
      assert.equal(third.json().errcode, 'ORG.CALLD.OVERLOADED');
      for (const raw of raws) raw.destroy();
      await until(async () => (await once(server, get('/hello'))).status === 200, { what: 'a free place' });
      assert.equal(await server.stop(), 0);
    });

    it('reloads origins and trusted proxies while it runs', async () => {
      const server = await startServer(...args);
      const ask = () => once(server, get('/items/1', 'Origin: https://other.example\r\nX-Forwarded-For: 1.2.3.4\r\n'));
      assert.equal((await ask()).headers['access-control-allow-origin'], '*');
      server.signal('SIGHUP');
      await until(async () => (await ask()).headers['access-control-allow-origin'] === undefined, { what: 'the new origins' });
      assert.equal((await ask()).json().ip, '1.2.3.4');
      assert.equal(await server.stop(), 0);
    });

    it('gives every descriptor back', async () => {
      const server = await startServer(...args);
      const open = async () => (await readdir(`/proc/${server.pid}/fd`)).length;
      await server.stats();
      const before = await open();
      for (let i = 0; i < 20; i++) {
        await once(server, get('/hello'));
        await once(server, post('/nothing', 'refused with a body'));
        await once(server, 'POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n80\r\n'
          + `${'x'.repeat(128)}\r\n`);
        await once(server, get('/ws'));
        (await server.ws()).raw.destroy();
        const raw = await server.connect();
        await raw.write(get('/hello'));
        await raw.response();
        (await server.ws('/ws', { raw })).raw.destroy();
        const parked = await server.connect();
        await parked.write(get('/park?watch=1'));
        const partial = await server.connect();
        await partial.write('GET /');
        await until(async () => (await server.stats()).parked === 1, { what: 'it to park', everyMs: 5 });
        parked.destroy();
        partial.destroy();
      }
      await until(async () => (await open()) <= before, { what: `at most ${before} descriptors` });
      assert.equal(await server.stop(), 0);
    });

    it('drains: parked requests get 503, idle connections end, the exit is clean', async () => {
      const server = await startServer(...args);
      const parked = await Promise.all([1, 2, 3].map(() => server.connect()));
      for (const raw of parked) await raw.write(get('/park'));
      const idle = await server.connect();
      await idle.write(get('/hello'));
      assert.equal((await idle.response()).status, 200);
      const asking = await server.connect();
      await asking.write(get('/private', 'Authorization: Bearer slow\r\n'));
      await until(async () => (await server.stats()).parked === 4, { what: 'four waiting' });
      server.signal('SIGTERM');
      for (const raw of parked) {
        const response = await raw.response();
        assert.equal(response.status, 503);
        assert.equal(response.headers.connection, 'close');
        await raw.closed();
      }
      assert.equal((await asking.response()).status, 200, 'what is under way is finished');
      await idle.closed();
      assert.equal(await server.exited(), 0);
    });

    it('stops without an abort while requests are parked and judged', async () => {
      const server = await startServer(...args);
      const raws = await Promise.all([1, 2, 3].map(() => server.connect()));
      await raws[0].write(get('/park'));
      await raws[1].write(get('/park?watch=1&timeout=60000'));
      await raws[2].write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc');
      await until(async () => (await server.stats()).parked === 2, { what: 'two parked' });
      server.signal('SIGUSR1'); // no drain at all
      assert.equal(await server.exited(), 0);
      for (const raw of raws) raw.destroy();
    });
  });
}

it('works with an ordinary keep-alive client', async () => {
  const server = await startServer();
  const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
  const ask = (i) => new Promise((resolve, reject) => {
    http.get(`${server.url}/items/${i}`, { agent }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += chunk; });
      response.on('end', () => resolve(JSON.parse(text).param));
    }).on('error', reject);
  });
  const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => ask(i)));
  assert.deepEqual(answers, Array.from({ length: 200 }, (_, i) => String(i)));
  agent.destroy();
  assert.equal(await server.stop(), 0);
});
