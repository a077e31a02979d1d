// The protocol rules of Engine.IO 4, Socket.IO 5 and /ws, by raw frames and by the stock client,
// against the daemon's own sockets on its real transport (socketio_server.c).
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Agent } from 'node:http';
import { after, afterEach, before, describe, it } from 'node:test';
import { io } from 'socket.io-client';
import { WebSocket } from 'ws';
import { http, Polling, soon, startServer, Wire } from '../lib/sio.mjs';
import { until } from '../lib/until.mjs';

let server; // slow heartbeat: nothing here depends on it
let quick; // pings each 300 ms, waits 1 s for the pong and for CONNECT

before(async () => {
  server = await startServer('ping-interval=5000', 'ping-timeout=5000', 'connect-timeout=20000');
  quick = await startServer('ping-interval=300', 'ping-timeout=1000', 'connect-timeout=1000');
});

after(async () => {
  const codes = await Promise.all([server, quick].map((one) => one?.stop()));
  assert.deepEqual(codes, [0, 0]);
});

const UNKNOWN = { code: 1, message: 'Session ID unknown' };
const WS = '/socket.io/?EIO=4&transport=websocket';

async function isGone(session) {
  const res = await session.get();
  assert.equal(res.status, 400);
  assert.deepEqual(JSON.parse(res.text), UNKNOWN);
}

/** What the server counts, asked over a socket of its own. */
async function stats(of = server) {
  const wire = await Wire.connect(of);
  wire.send('421["stats"]');
  const answer = JSON.parse((await wire.next()).slice(3))[0];
  wire.close();
  await wire.closed;
  return answer;
}

describe('Engine.IO handshake', () => {
  it('opens a polling session with exactly the documented keys', async () => {
    const res = await http(server, 'GET', '/socket.io/?EIO=4&transport=polling&t=abc&b64=1');
    assert.equal(res.status, 200);
    assert.equal(res.headers['content-type'].toLowerCase(), 'text/plain; charset=utf-8');
    assert.equal(res.headers['cache-control'], 'no-store');
    assert.equal(res.headers['access-control-allow-origin'], '*');
    assert.equal(res.text[0], '0');
    const open = JSON.parse(res.text.slice(1));
    assert.deepEqual(Object.keys(open).sort(),
      ['maxPayload', 'pingInterval', 'pingTimeout', 'sid', 'upgrades']);
    assert.match(open.sid, /^[A-Za-z0-9_-]{20}$/);
    assert.deepEqual({ ...open, sid: '' }, { sid: '', upgrades: ['websocket'], pingInterval: 5000,
      pingTimeout: 5000, maxPayload: 100000 });
  });

  it('also serves the path without its last slash', async () => {
    const res = await http(server, 'GET', '/socket.io?EIO=4&transport=polling');
    assert.equal(res.status, 200);
  });

  it('opens a WebSocket session that offers no upgrade', async () => {
    const wire = await Wire.eio(server);
    assert.deepEqual(Object.keys(wire.handshake).sort(),
      ['maxPayload', 'pingInterval', 'pingTimeout', 'sid', 'upgrades']);
    assert.deepEqual(wire.handshake.upgrades, []);
    wire.close();
  });

  it('answers OPTIONS of a browser', async () => {
    const res = await http(server, 'OPTIONS', '/socket.io/?EIO=4&transport=polling',
      { headers: { Origin: 'https://a.example', 'Access-Control-Request-Method': 'POST' } });
    assert.equal(res.status, 204);
    assert.equal(res.headers['access-control-allow-origin'], '*');
  });

  const refusals = [
    ['GET', 'EIO=4', 0, 'Transport unknown'],
    ['GET', 'EIO=4&transport=tobi', 0, 'Transport unknown'],
    ['GET', 'EIO=4&transport=__proto__', 0, 'Transport unknown'],
    ['GET', 'EIO=4&transport=polling&sid=nobody', 1, 'Session ID unknown'],
    ['POST', 'EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA', 1, 'Session ID unknown'],
    ['POST', 'EIO=4&transport=polling', 2, 'Bad handshake method'],
    ['PUT', 'EIO=4&transport=polling', 2, 'Bad handshake method'],
    ['DELETE', 'EIO=4&transport=polling', 2, 'Bad handshake method'],
    ['GET', 'EIO=3&transport=polling', 5, 'Unsupported protocol version'],
    ['GET', 'EIO=abc&transport=polling', 5, 'Unsupported protocol version'],
    ['GET', 'transport=polling', 5, 'Unsupported protocol version'],
  ];
  for (const [method, query, code, message] of refusals) {
    it(`refuses ${method} ?${query} with code ${code}`, async () => {
      const res = await http(server, method, `/socket.io/?${query}`);
      assert.equal(res.status, 400);
      assert.match(res.headers['content-type'], /^application\/json/);
      assert.equal(res.headers['access-control-allow-origin'], '*');
      assert.deepEqual(JSON.parse(res.text), { code, message });
    });
  }

  for (const query of ['', 'EIO=4', 'EIO=4&transport=tobi', 'EIO=3&transport=websocket',
    'transport=websocket', 'EIO=4&transport=websocket&sid=nobody', 'EIO=4&transport=polling']) {
    it(`refuses a WebSocket with ?${query}`, async () => {
      const wire = new Wire(server, `/socket.io/?${query}`);
      await soon(wire.closed, 'the refusal');
      assert.equal(wire.messages.length, 0);
      assert.equal(wire.refused, 400);
    });
  }

  it('has no more sessions than its cap', async () => {
    const small = await startServer('max-sessions=2');
    await Polling.open(small);
    const wire = await Wire.eio(small);
    const res = await http(small, 'GET', '/socket.io/?EIO=4&transport=polling');
    assert.equal(res.status, 503);
    wire.close();
    await wire.closed;
    await until(async () => (await http(small, 'GET', '/socket.io/?EIO=4&transport=polling')).status === 200);
    assert.equal(await small.stop(), 0);
  });
});

describe('Engine.IO polling', () => {
  it('carries packets both ways, several in one payload', async () => {
    const session = await Polling.connect(server);
    assert.match(session.welcome, /^40\{"sid":"[A-Za-z0-9_-]{20}"\}$/);
    assert.notEqual(JSON.parse(session.welcome.slice(2)).sid, session.sid);
    const res = await session.post('42["echo",{"a":1}]\x1e42["echo",{"a":"ü€😀"}]');
    assert.equal(res.status, 200);
    assert.equal(res.text, 'ok');
    assert.equal(res.headers['access-control-allow-origin'], '*');
    const poll = await session.get();
    assert.equal(poll.text, '42["echo-back",{"a":1}]\x1e42["echo-back",{"a":"ü€😀"}]');
  });

  it('answers a waiting poll as soon as there is something', async () => {
    const session = await Polling.connect(server);
    const poll = session.get();
    await session.post('42["echo",{"a":2}]');
    assert.equal((await poll).text, '42["echo-back",{"a":2}]');
  });

  it('takes polls and posts on one kept connection', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const session = await Polling.connect(server);
    for (let i = 0; i < 5; i++) {
      const res = await http(server, 'POST', session.path, { agent, body: `42["echo",{"i":${i}}]` });
      assert.equal(res.text, 'ok');
      assert.equal((await session.get({ agent })).text, `42["echo-back",{"i":${i}}]`);
    }
    agent.destroy();
  });

  it('allows one poll at a time', async () => {
    const session = await Polling.connect(server);
    const first = session.get();
    await until(async () => {
      const second = await session.get();
      assert.equal(second.status, 400);
      return true;
    });
    const res = await first;
    // Whichever arrived first gets the close packet; the other one is refused.
    assert.ok(res.status === 400 || res.text === '1');
    await isGone(session);
  });

  it('closes when the client says so, and answers its poll with a noop', async () => {
    const session = await Polling.connect(server);
    const [poll, post] = await Promise.all([session.get(), session.post('1')]);
    assert.deepEqual([poll.status, poll.text], [200, '6']);
    assert.deepEqual([post.status, post.text], [200, 'ok']);
    await isGone(session);
  });

  for (const [what, body] of [['an unknown type', 'abc'], ['an empty body', ''], ['a ping', '2'],
    ['bad base64', 'b*'], ['an empty packet', '3\x1e\x1e3'], ['bytes that are no UTF-8', Buffer.from('42["\xff"]', 'latin1')],
    ['a bad Socket.IO packet', '42{}'], ['text while binary is awaited', '40\x1e451-["x"]\x1e42["y"]']]) {
    it(`closes upon ${what}`, async () => {
      const session = await Polling.open(server);
      assert.equal((await session.post(body)).status, 400);
      await isGone(session);
    });
  }

  it('closes upon application/octet-stream', async () => {
    const session = await Polling.open(server);
    const res = await session.post('40', { 'Content-Type': 'application/octet-stream' });
    assert.equal(res.status, 400);
    await isGone(session);
  });

  it('refuses a body beyond maxPayload and keeps the session', async () => {
    const session = await Polling.connect(server);
    const res = await session.post(`42["echo","${'x'.repeat(100_000)}"]`);
    assert.equal(res.status, 413);
    assert.equal(res.headers['access-control-allow-origin'], '*');
    await session.post(`42["echo","${'x'.repeat(60_000)}"]`);
    assert.equal((await session.next()).length, '42["echo-back",""]'.length + 60_000);
  });

  it('closes the session of a client that leaves its poll', async () => {
    const { disconnected } = await stats(); // stats leaves one more behind
    const session = await Polling.connect(server);
    let request;
    const poll = session.get({ onRequest: (req) => { request = req; } });
    await once(request, 'finish');
    request.destroy();
    await assert.rejects(poll);
    await until(async () => (await session.post('3')).status === 400, { what: 'the session to go' });
    assert.ok((await stats()).disconnected >= disconnected + 2);
  });

  it('reads binary, also from the next POST, and refuses it as an event', async () => {
    const session = await Polling.connect(server);
    await session.post('451-7["file",{"_placeholder":true,"num":0}]');
    await session.post('bAQIDBA==');
    const answer = await session.next();
    assert.match(answer, /^437\[\{"ok":false,"errcode":"M_INVALID_PARAM"/);
    await session.post('42["echo",{}]');
    assert.equal(await session.next(), '42["echo-back",{}]');
  });

  it('closes a client that never polls and is sent too much', async () => {
    const session = await Polling.connect(server);
    await session.post('42["flood",{"n":300}]');
    const poll = await session.get();
    assert.deepEqual([poll.status, poll.text], [200, '1']);
    await isGone(session);
  });
});

describe('Engine.IO WebSocket', () => {
  it('carries packets both ways', async () => {
    const wire = await Wire.connect(server);
    wire.send('42["echo",{"text":"ü€😀"}]');
    assert.equal(await wire.next(), '42["echo-back",{"text":"ü€😀"}]');
    wire.close();
    assert.equal(await soon(wire.closed, 'close'), 1005);
  });

  for (const [what, message] of [['"1"', '1'], ['a ping', '2'], ['an unknown type', 'abc'],
    ['an empty message', ''], ['unexpected binary', Buffer.from([1, 2, 3])]]) {
    it(`closes upon ${what}`, async () => {
      const wire = await Wire.connect(server);
      wire.send(message);
      assert.equal(await wire.next(), null);
    });
  }

  it('closes upon a message beyond maxPayload', async () => {
    const wire = await Wire.connect(server);
    wire.send(`42["echo","${'x'.repeat(100_001)}"]`);
    assert.equal(await soon(wire.closed, 'close'), 1009);
  });

  it('reads binary attachments in step', async () => {
    const wire = await Wire.connect(server);
    wire.send('452-0["file",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]');
    wire.send(Buffer.from([1]));
    wire.send(Buffer.from([2]));
    assert.match(await wire.next(), /^430\[\{"ok":false,/);
    wire.send('421["echo",{}]');
    assert.equal(await wire.next(), '42["echo-back",{}]');
    assert.equal(await wire.next(), '431[{"ok":true}]');
    wire.close();
  });

  it('ends a session when the connection goes', async () => {
    const { sessions } = await stats();
    const wires = await Promise.all(Array.from({ length: 20 }, () => Wire.connect(server)));
    assert.equal((await stats()).sessions, sessions + 20);
    for (const wire of wires) wire.ws.terminate();
    await until(async () => (await stats()).sessions === sessions);
  });
});

describe('Engine.IO upgrade', () => {
  it('moves a session over, and what waits goes with it', async () => {
    const session = await Polling.connect(server);
    const poll = session.get();
    const wire = await Wire.open(server, `${WS}&sid=${session.sid}`);
    wire.send('2probe');
    assert.equal(await wire.next(), '3probe');
    assert.equal((await poll).text, '6');
    await session.post('42["echo",{"by":"post"}]'); // until "5" it waits for a poll
    wire.send('5');
    assert.equal(await wire.next(), '42["echo-back",{"by":"post"}]');
    wire.send('42["echo",{"by":"wire"}]');
    assert.equal(await wire.next(), '42["echo-back",{"by":"wire"}]');
    const late = await session.get();
    assert.deepEqual([late.status, JSON.parse(late.text).code], [400, 3]);
    assert.equal((await session.post('42["echo",{}]')).status, 400);
    wire.close();
    await until(async () => JSON.parse((await session.get()).text).code === 1);
  });

  it('takes "5" right behind the probe', async () => {
    const session = await Polling.connect(server);
    const wire = await Wire.open(server, `${WS}&sid=${session.sid}`);
    wire.send('2probe');
    wire.send('5');
    wire.send('42["echo",{}]');
    assert.equal(await wire.next(), '3probe');
    assert.equal(await wire.next(), '42["echo-back",{}]');
    const second = new Wire(server, `${WS}&sid=${session.sid}`);
    await soon(second.closed, 'the second WebSocket');
    wire.send('42["echo",{}]');
    assert.equal(await wire.next(), '42["echo-back",{}]');
    wire.close();
  });

  for (const [what, message] of [['talks nonsense', 'abc'], ['skips the probe', '5'],
    ['sends an event', '42["echo"]'], ['leaves', null]]) {
    it(`a probe that ${what} does not hurt polling`, async () => {
      const session = await Polling.connect(server);
      const wire = await Wire.open(server, `${WS}&sid=${session.sid}`);
      if (message === null) wire.ws.terminate();
      else wire.send(message);
      await soon(wire.closed, 'the probe');
      await session.post('42["echo",{}]');
      assert.equal(await session.next(), '42["echo-back",{}]');
      const again = await Wire.open(server, `${WS}&sid=${session.sid}`);
      again.send('2probe');
      assert.equal(await again.next(), '3probe');
      again.send('5');
      again.send('42["echo",{}]');
      assert.equal(await again.next(), '42["echo-back",{}]');
      again.close();
    });
  }
});

describe('Engine.IO heartbeat', () => {
  it('pings, and keeps a session that answers', async () => {
    const wire = await Wire.connect(quick);
    for (let i = 0; i < 4; i++) {
      assert.equal(await wire.raw(), '2');
      wire.send('3');
    }
    wire.send('42["echo",{}]');
    assert.equal(await wire.next(), '42["echo-back",{}]');
    wire.close();
  });

  it('closes a WebSocket session that does not answer', async () => {
    const wire = await Wire.connect(quick);
    assert.equal(await wire.raw(), '2');
    assert.equal(await wire.raw(), null);
  });

  it('pings by polling, and closes a session that does not answer', async () => {
    const session = await Polling.connect(quick);
    assert.equal((await session.get()).text, '2');
    assert.equal((await session.get()).text, '1');
    await isGone(session);
  });

  it('closes a session that never comes back', async () => {
    const session = await Polling.connect(quick);
    await until(async () => (await http(quick, 'PUT', session.path)).text.includes('"code":1'));
  });
});

describe('Socket.IO', () => {
  it('refuses with the reason, and lets the client try again', async () => {
    const wire = await Wire.connect(server, '{"token":"bad"}');
    assert.deepEqual(JSON.parse(wire.welcome.slice(2)), { message: 'This token is bad.',
      data: { errcode: 'M_UNKNOWN_TOKEN', error: 'This token is bad.' } });
    assert.equal(wire.welcome.slice(0, 2), '44');
    wire.send('40{"token":"good"}');
    assert.match(await wire.next(), /^40\{"sid":"[^"]+"\}$/);
    wire.close();
  });

  it('accepts later', async () => {
    const wire = await Wire.connect(server, '{"token":"slow"}');
    assert.match(wire.welcome, /^40\{"sid":"[^"]+"\}$/);
    wire.close();
  });

  it('knows no other namespace', async () => {
    const wire = await Wire.connect(server);
    for (const packet of ['40/random,{"a":1}', '40/random,', '40/random']) {
      wire.send(packet);
      assert.equal(await wire.next(), '44/random,{"message":"Invalid namespace"}');
    }
    wire.send('42["echo",{}]');
    assert.equal(await wire.next(), '42["echo-back",{}]');
    wire.close();
  });

  it('closes a connection without CONNECT', async () => {
    const wire = await Wire.eio(quick);
    assert.equal(await wire.next(), null);
  });

  it('closes when CONNECT is never decided and pings go on', async () => {
    const wire = await Wire.eio(quick);
    wire.send('40{"token":"never"}');
    assert.equal(await wire.next(), null);
  });

  it('lets a socket leave and come back on its connection', async () => {
    const wire = await Wire.connect(server);
    wire.send('41');
    wire.send('40');
    const again = await wire.next();
    assert.match(again, /^40\{/);
    assert.notEqual(again, wire.welcome);
    wire.close();
  });

  it('answers acks, at once and late, and drops those of sockets that left', async () => {
    const wire = await Wire.connect(server);
    wire.send('4217["echo",{"seq":3}]');
    assert.equal(await wire.next(), '42["echo-back",{"seq":3}]');
    assert.equal(await wire.next(), '4317[{"ok":true,"seq":3}]');
    wire.send('420["later"]');
    assert.equal(await wire.next(), '430[{"ok":true,"late":true}]');
    wire.send('421["later"]');
    wire.send('41');
    wire.send('40');
    assert.match(await wire.next(), /^40\{/);
    wire.send('422["later"]'); // its answer comes after the dropped one's time
    assert.equal(await wire.next(), '432[{"ok":true,"late":true}]');
    wire.send('4399["an answer nobody waits for"]');
    wire.send('42["echo"]');
    assert.equal(await wire.next(), '42["echo-back",{}]');
    wire.close();
  });

  it('tells errors in the ack, or as call-error', async () => {
    const wire = await Wire.connect(server);
    wire.send('425["nonsense"]');
    assert.equal(await wire.next(),
      '435[{"ok":false,"errcode":"M_UNRECOGNIZED","error":"There is no such event."}]');
    wire.send('42["nonsense"]');
    assert.equal(await wire.next(), '42["call-error",{"event":"nonsense","callId":"z1",'
      + '"errcode":"M_UNRECOGNIZED","error":"There is no such event."}]');
    wire.close();
  });

  for (const depth of [33, 3000, 20000]) {
    it(`answers what is nested ${depth} levels deep, and stays`, async () => {
      const wire = await Wire.connect(server);
      const error = 'The message is nested more than 32 levels deep.';
      wire.send(`425["echo",${'['.repeat(depth)}${']'.repeat(depth)}]`);
      assert.deepEqual(JSON.parse((await wire.next()).slice(3)), [{ ok: false, errcode: 'M_NOT_JSON', error }]);
      wire.send(`42["echo",{"a":${'['.repeat(depth)}${']'.repeat(depth)}}]`);
      const [event, told] = JSON.parse((await wire.next()).slice(2));
      assert.deepEqual([event, told.event, told.errcode, told.error], ['call-error', 'echo', 'M_NOT_JSON', error]);
      wire.send('426["nonsense"]');
      assert.match(await wire.next(), /^436/);
      wire.close();
    });
  }

  for (const packet of ['4', '42', '42{}', '42[]', '42[{}]', '42abc["x"]', '42["x"', '4a', '49',
    '42["connect"]', '42["disconnect"]', '40', '44{"message":"x"}', '45["x"]', '451["x"]',
    '4511-["x"]', '42/random,["x"]', '43{}', `42["x",${'['.repeat(40)}${']'.repeat(40)}`,
    '42["\\ud800"]x']) {
    it(`closes upon ${packet.slice(0, 40)}`, async () => {
      const wire = await Wire.connect(server);
      wire.send(packet);
      assert.equal(await wire.next(), null);
    });
  }

  it('closes upon an event before CONNECT', async () => {
    const wire = await Wire.eio(server);
    wire.send('42["echo",{}]');
    assert.equal(await wire.next(), null);
  });

  it('kicks with DISCONNECT, then closes', async () => {
    const wire = await Wire.connect(server);
    wire.send('42["kick"]');
    assert.equal(await wire.next(), '41');
    assert.equal(await wire.next(), null);
    const session = await Polling.connect(server);
    await session.post('42["kick"]');
    assert.equal(await session.next(), '41');
    assert.equal(await session.next(), '1');
    await isGone(session);
  });
});

describe('plain JSON on /ws', () => {
  const connect = async (auth = {}) => {
    const wire = await Wire.open(server, '/ws');
    wire.send(JSON.stringify({ type: 'connect', auth }));
    wire.welcome = JSON.parse(await wire.next());
    return wire;
  };

  it('connects, sends events, and answers with acks', async () => {
    const wire = await connect();
    assert.equal(wire.welcome.type, 'connect');
    assert.match(wire.welcome.sid, /^[A-Za-z0-9_-]{20}$/);
    wire.send('{"type":"echo","id":4,"a":1}');
    assert.deepEqual(JSON.parse(await wire.next()), { type: 'echo-back', id: 4, a: 1 });
    const ack = await wire.next();
    assert.ok(ack.startsWith('{"type":"ack","id":4,"ok":true'));
    wire.send('{"type":"nonsense","id":5}');
    assert.deepEqual(JSON.parse(await wire.next()), { type: 'ack', id: 5, ok: false,
      errcode: 'M_UNRECOGNIZED', error: 'There is no such event.' });
    wire.send('{"type":"nonsense"}');
    assert.deepEqual(JSON.parse(await wire.next()), { type: 'call-error', event: 'nonsense',
      callId: 'z1', errcode: 'M_UNRECOGNIZED', error: 'There is no such event.' });
    wire.send('{"type":');
    assert.equal(JSON.parse(await wire.next()).errcode, 'M_NOT_JSON');
    const deep = `${'['.repeat(40)}${']'.repeat(40)}`;
    const error = 'The message is nested more than 32 levels deep.';
    wire.send(`{"a":${deep},"type":"echo","id":6}`);
    assert.deepEqual(JSON.parse(await wire.next()), { type: 'ack', id: 6, ok: false, errcode: 'M_NOT_JSON', error });
    wire.send(`{"a":${deep},"type":"echo"}`);
    assert.deepEqual(JSON.parse(await wire.next()), { type: 'call-error', event: 'echo', errcode: 'M_NOT_JSON', error });
    wire.send(`{"a":${'['.repeat(9000)}${']'.repeat(9000)},"type":"echo","id":7}`);
    assert.deepEqual(JSON.parse(await wire.next()), { type: 'call-error', event: '', errcode: 'M_NOT_JSON', error });
    wire.send('{"type":"ping"}');
    assert.equal(await wire.next(), '{"type":"pong"}');
    wire.send('{"type":"kick"}');
    assert.equal(await wire.next(), '{"type":"disconnect"}');
    assert.equal(await wire.next(), null);
  });

  it('refuses with the reason', async () => {
    const wire = await connect({ token: 'bad' });
    assert.deepEqual(wire.welcome, { type: 'connect_error', message: 'This token is bad.',
      data: { errcode: 'M_UNKNOWN_TOKEN', error: 'This token is bad.' } });
    wire.close();
  });

  it('takes the token beside the type, and late answers', async () => {
    const wire = await Wire.open(server, '/ws');
    wire.send('{"type":"auth","token":"slow"}');
    assert.equal(JSON.parse(await wire.next()).type, 'connect');
    wire.close();
  });

  it('wants connect first', async () => {
    const wire = await Wire.open(server, '/ws');
    wire.send('{"type":"echo"}');
    assert.equal(await soon(wire.closed, 'close'), 1008);
  });

  it('is asked whether it is there, and closed when it is not', async () => {
    const { disconnected } = await stats(quick);
    const join = async (options) => {
      const client = new WebSocket(`${quick.url.replace('http', 'ws')}/ws`, options);
      client.pings = 0;
      client.on('ping', () => { client.pings += 1; });
      await soon(once(client, 'open'), 'open');
      client.send('{"type":"connect"}');
      await soon(once(client, 'message'), 'connect');
      return client;
    };
    const [there, away] = await Promise.all([join({}), join({ autoPong: false })]);
    const [code] = await soon(once(away, 'close'), 'close');
    assert.equal(code, 1001);
    assert.equal(away.pings, 1);
    await until(() => there.pings > 3, { what: 'pings' });
    assert.equal(there.readyState, WebSocket.OPEN);
    assert.equal((await stats(quick)).disconnected, disconnected + 2, 'the first stats socket, and the one away');
    there.close();
  });

  it('hears what Socket.IO clients hear', async () => {
    const plain = await connect();
    const wire = await Wire.connect(server);
    const session = await Polling.connect(server);
    wire.send('42["tell-all",{"n":1}]');
    assert.deepEqual(JSON.parse(await plain.next()), { type: 'told', n: 1 });
    assert.equal(await wire.next(), '42["told",{"n":1}]');
    assert.equal(await session.next(), '42["told",{"n":1}]');
    plain.close();
    wire.close();
  });
});

describe('the stock socket.io-client', () => {
  const kinds = {
    'by default': {},
    'by WebSocket alone': { transports: ['websocket'] },
    'by polling alone': { transports: ['polling'] },
    'without the last slash': { addTrailingSlash: false },
  };
  const opened = [];
  const open = (options = {}, of = server) => {
    opened.push(io(of.url, { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 100,
      ...options }));
    return opened.at(-1);
  };
  afterEach(() => { // also after a failure, or it would reconnect for ever
    for (const client of opened.splice(0)) client.disconnect();
  });

  for (const [how, options] of Object.entries(kinds)) {
    it(`connects and talks ${how}`, async () => {
      const client = open(options);
      await soon(once(client, 'connect'), 'connect');
      assert.match(client.id, /^[A-Za-z0-9_-]{20}$/);
      assert.notEqual(client.id, client.io.engine.id);
      if (!options.transports) {
        await until(() => client.io.engine.transport.name === 'websocket', { what: 'the upgrade' });
      }
      const back = once(client, 'echo-back');
      const ack = await client.timeout(5000).emitWithAck('echo', { text: 'ü€😀', n: [1, 2.5, null] });
      assert.deepEqual(ack, { ok: true, text: 'ü€😀', n: [1, 2.5, null] });
      assert.deepEqual((await back)[0], { text: 'ü€😀', n: [1, 2.5, null] });
      const large = { sdp: 'v=0\r\n'.repeat(12_000) };
      assert.equal((await client.timeout(5000).emitWithAck('echo', large)).sdp.length, 60_000);
      assert.deepEqual(await client.timeout(5000).emitWithAck('later'), { ok: true, late: true });
      const all = await Promise.all(Array.from({ length: 100 },
        (_, i) => client.timeout(5000).emitWithAck('echo', { i })));
      assert.deepEqual(all.map((a) => a.i), Array.from({ length: 100 }, (_, i) => i));
      client.disconnect();
    });

    it(`is refused ${how}, with data, and does not insist`, async () => {
      const client = open({ ...options, auth: { token: 'bad' } });
      const [error] = await soon(once(client, 'connect_error'), 'connect_error');
      assert.equal(error.message, 'This token is bad.');
      assert.deepEqual(error.data, { errcode: 'M_UNKNOWN_TOKEN', error: 'This token is bad.' });
      assert.equal(client.active, false);
      client.auth = { token: 'slow' };
      client.connect();
      await soon(once(client, 'connect'), 'the second try');
      client.disconnect();
    });

    it(`is kicked ${how}`, async () => {
      const client = open(options);
      await soon(once(client, 'connect'), 'connect');
      client.emit('kick');
      const [reason] = await soon(once(client, 'disconnect'), 'disconnect');
      assert.equal(reason, 'io server disconnect');
      assert.equal(client.active, false);
      client.disconnect();
    });
  }

  it('survives heartbeats on every transport', async () => {
    const lost = [];
    await Promise.all(['websocket', 'polling'].map(async (transport) => {
      const client = open({ transports: [transport] }, quick);
      await soon(once(client, 'connect'), 'connect');
      client.on('disconnect', (reason) => lost.push(reason));
      let pings = 0;
      client.io.on('ping', () => pings++);
      await until(() => pings >= 4, { what: 'pings' });
    }));
    assert.deepEqual(lost, []);
  });

  it('reconnects when its connection is lost, with a new id', async () => {
    const client = open({ transports: ['websocket'] });
    await soon(once(client, 'connect'), 'connect');
    const first = client.id;
    client.io.engine.transport.ws.terminate();
    const [reason] = await soon(once(client, 'disconnect'), 'disconnect');
    assert.equal(reason, 'transport close');
    await soon(once(client, 'connect'), 'connect again');
    assert.notEqual(client.id, first);
    client.disconnect();
  });

  it('leaves and comes back', async () => {
    const client = open();
    await soon(once(client, 'connect'), 'connect');
    client.disconnect();
    client.connect();
    await soon(once(client, 'connect'), 'connect again');
    client.disconnect();
  });

  it('gets an error for binary, and stays', async () => {
    const client = open({ transports: ['websocket'] });
    await soon(once(client, 'connect'), 'connect');
    const answer = await client.timeout(5000).emitWithAck('file', { bytes: Buffer.from([1, 2, 3]) });
    assert.equal(answer.ok, false);
    assert.equal(answer.errcode, 'M_INVALID_PARAM');
    assert.equal((await client.timeout(5000).emitWithAck('echo', {})).ok, true);
    client.disconnect();
  });

  it('does not find other namespaces', async () => {
    const client = io(`${server.url}/admin`, { forceNew: true });
    const [error] = await soon(once(client, 'connect_error'), 'connect_error');
    assert.equal(error.message, 'Invalid namespace');
    client.io._close();
  });

  it('comes in crowds', async () => {
    const before = (await stats()).sockets; // sessions of earlier tests may still time out
    const clients = Array.from({ length: 60 }, () => open());
    await Promise.all(clients.map((client) => soon(once(client, 'connect'), 'connect')));
    await Promise.all(clients.map((client, i) => client.timeout(8000).emitWithAck('echo', { i })));
    const heard = clients.map((client) => soon(once(client, 'told'), 'told'));
    clients[0].emit('tell-all', { n: 7 });
    for (const [payload] of await Promise.all(heard)) assert.deepEqual(payload, { n: 7 });
    for (const client of clients) client.disconnect();
    await until(async () => (await stats()).sockets <= before, { what: 'all to be gone' });
  });
});
