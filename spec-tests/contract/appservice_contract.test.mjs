// What homeservers really send to an application service, and what they must get back, against the
// daemon's own listener on its real transport (appservice_server.c).
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, afterEach, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { rawRequest } from '../lib/raw-http.mjs';
import { until } from '../lib/until.mjs';

const top = join(dirname(fileURLToPath(import.meta.url)), '../..');
const program = process.env.APPSERVICE_SERVER ?? join(process.env.BUILD_DIR ?? join(top, 'build'), 'spec-tests/contract/appservice_server');
const TOKEN = 'the-hs-token-of-the-test';
const V1 = '/_matrix/app/v1';

async function start(...settings) {
  const child = spawn(program, settings, { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const failed = exited.then(([code]) => { throw new Error(`${program} ended with ${code}`); });
  failed.catch(() => {});
  const [line] = await Promise.race([once(createInterface({ input: child.stdout }), 'line'), failed]);
  return {
    url: `http://${line.split(' ')[1]}`,
    async stop() {
      child.kill('SIGTERM');
      const [code, signal] = await exited;
      return signal ?? code;
    },
  };
}

let server;
let legacy;
let hasty;
let number = 0; // of transactions and events, so that no test meets another's

before(async () => { [server, legacy, hasty] = await Promise.all([start(), start('legacy'), start('hasty')]); });
afterEach(async () => {
  await rawRequest(server.url, 'POST', '/test/release/ok', { body: '' });
  await delivered();
});
after(async () => {
  assert.deepEqual(await Promise.all([server, legacy, hasty].map((one) => one?.stop())), [0, 0, 0]);
});

const nextId = () => `${Date.now()}${++number}`;
const stats = async (of = server) => (await rawRequest(of.url, 'GET', '/test/stats')).body;
/** Events handed over since the last question. */
const delivered = async (of = server) => (await rawRequest(of.url, 'GET', '/test/events')).body;
const release = (rc = 'ok', of = server) => rawRequest(of.url, 'POST', `/test/release/${rc}`, { body: '' });

/** PUT a transaction; `body` is an object, or text or bytes to be sent as they are. */
function put(body, { id = nextId(), of = server, path = `${V1}/transactions/${id}`, token = TOKEN } = {}) {
  const raw = typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  return rawRequest(of.url, 'PUT', path, { token, body: raw });
}

function isDone(response) {
  assert.equal(response.status, 200, JSON.stringify(response.body));
  assert.match(response.headers['content-type'], /^application\/json/);
  assert.deepEqual(response.body, {});
}

function fails(response, status, errcode) {
  assert.equal(response.status, status, JSON.stringify(response.body));
  assert.equal(response.body.errcode, errcode);
  assert.equal(typeof response.body.error, 'string');
}

/** An event as Synapse pushes it. */
function event(type, content, more = {}) {
  return {
    type, sender: '@alice:example.org', content, room_id: '!room:example.org',
    origin_server_ts: Date.now() - 1500, event_id: `$event-${++number}`, unsigned: { age: 1500 },
    user_id: '@alice:example.org', age: 1500, ...more,
  };
}
const invite = (callId, more = {}) => event('m.call.invite', {
  call_id: callId, party_id: 'P', version: '1', lifetime: 60000, offer: { type: 'offer', sdp: 'v=0\r\n' },
}, more);
const message = (body = 'hello') => event('m.room.message', { msgtype: 'm.text', body });
const ids = (events) => events.map((one) => one.event_id);

describe('who may call', () => {
  const path = () => `${V1}/transactions/${nextId()}`;
  const ask = (target, headers = {}) => rawRequest(server.url, 'PUT', target, { headers, body: '{"events":[]}' });
  const bearer = (token) => ({ authorization: `Bearer ${token}` });

  it('takes the token from the header, from the query, or from both', async () => {
    isDone(await ask(path(), bearer(TOKEN)));
    isDone(await ask(`${path()}?access_token=${TOKEN}`));
    isDone(await ask(`${path()}?access_token=${TOKEN}`, bearer(TOKEN)));
  });

  it('refuses none with 401 and a wrong one with 403, also when only one of two is wrong', async () => {
    fails(await ask(path()), 401, 'M_MISSING_TOKEN');
    fails(await ask(path(), bearer('wrong')), 403, 'M_FORBIDDEN');
    fails(await ask(path(), bearer(`${TOKEN}x`)), 403, 'M_FORBIDDEN');
    fails(await ask(path(), bearer(TOKEN.slice(0, -1))), 403, 'M_FORBIDDEN');
    fails(await ask(path(), bearer('the-as-token-of-the-test')), 403, 'M_FORBIDDEN');
    fails(await ask(`${path()}?access_token=wrong`), 403, 'M_FORBIDDEN');
    fails(await ask(`${path()}?access_token=wrong`, bearer(TOKEN)), 403, 'M_FORBIDDEN');
    fails(await ask(`${path()}?access_token=${TOKEN}`, bearer('wrong')), 403, 'M_FORBIDDEN');
  });

  it('asks for the token on every route', async () => {
    for (const [method, target] of [['GET', `${V1}/users/@a:b`], ['GET', `${V1}/rooms/%23a:b`], ['POST', `${V1}/ping`]]) {
      fails(await rawRequest(server.url, method, target, {}), 401, 'M_MISSING_TOKEN');
    }
  });
});

describe('the small routes', () => {
  const ask = (method, target, body, of = server) => rawRequest(of.url, method, target, { token: TOKEN, body });

  it('has no users and no rooms, however their names are written', async () => {
    for (const target of ['/users/%40bob%3Aexample.org', '/users/@bob:example.org', '/users/@a/b:example.org',
      '/users/%40a%2Fb%3Aexample.org', '/rooms/%23x%3Aexample.org', '/rooms/%23a/b:example.org']) {
      fails(await ask('GET', V1 + target), 404, 'M_NOT_FOUND');
    }
  });

  it('answers pings, also those without a transaction id', async () => {
    isDone(await ask('POST', `${V1}/ping`, '{"transaction_id":"nonce-1"}'));
    assert.equal((await stats()).ping, 'nonce-1');
    isDone(await ask('POST', `${V1}/ping`, '{"transaction_id":null}'));
    assert.equal((await stats()).ping, '');
    isDone(await ask('POST', `${V1}/ping`, '{}'));
    fails(await ask('POST', `${V1}/ping`, '{"transaction_id"'), 400, 'M_NOT_JSON');
  });

  it('knows no third party networks and no keys', async () => {
    for (const [method, target, body] of [['GET', '/v1/thirdparty/protocol/irc'], ['GET', '/v1/thirdparty/user'],
      ['GET', '/v1/thirdparty/location/x'], ['POST', '/unstable/org.matrix.msc3983/keys/claim', '{}'],
      ['POST', '/unstable/org.matrix.msc3984/keys/query', '{}']]) {
      fails(await ask(method, `/_matrix/app${target}`, body), 404, 'M_UNRECOGNIZED');
    }
  });

  it('tells unknown routes from wrong methods', async () => {
    fails(await ask('GET', `${V1}/nothing`), 404, 'M_UNRECOGNIZED');
    const wrong = await ask('POST', `${V1}/transactions/1`, '{"events":[]}');
    fails(wrong, 405, 'M_UNRECOGNIZED');
    assert.match(wrong.headers.allow, /^PUT\b/);
    fails(await ask('GET', `${V1}/ping`), 405, 'M_UNRECOGNIZED');
  });

  it('has the old paths only when they are switched on', async () => {
    fails(await put({ events: [] }, { path: `/transactions/${nextId()}` }), 404, 'M_UNRECOGNIZED');
    isDone(await put({ events: [] }, { path: `/transactions/${nextId()}`, of: legacy }));
    isDone(await put({ events: [] }, { of: legacy }));
    fails(await ask('GET', '/users/@a:example.org', undefined, legacy), 404, 'M_NOT_FOUND');
    fails(await ask('GET', '/rooms/%23a:example.org', undefined, legacy), 404, 'M_NOT_FOUND');
    fails(await ask('GET', '/users/@a:example.org'), 404, 'M_UNRECOGNIZED');
  });
});

describe('the path of a transaction', () => {
  it('takes any id', async () => {
    for (const id of [nextId(), 'a%2Fb', '%40x', '..', '%2e%2e%2fping', 'Zm9vYmFy-_', 'x'.repeat(300)]) {
      const one = message();
      one.type = 'm.call.hangup';
      const answer = await rawPath(`${V1}/transactions/${id}`, JSON.stringify({ events: [one] }));
      assert.equal(answer, 200, id);
      assert.deepEqual(ids(await delivered()), [one.event_id], id);
    }
  });

  it('refuses a NUL instead of cutting the id there', async () => {
    assert.equal(await rawPath(`${V1}/transactions/a%00b`, '{"events":[]}'), 400);
  });

  /** A PUT whose target goes out exactly as written. @returns the status */
  function rawPath(target, body) {
    return new Promise((resolve, reject) => {
      const url = new URL(server.url);
      const socket = net.connect(Number(url.port), url.hostname);
      let text = '';
      socket.on('data', (chunk) => { text += chunk; });
      socket.on('error', reject);
      socket.on('close', () => resolve(Number(text.split(' ')[1])));
      socket.end(`PUT ${target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${TOKEN}\r\n`
        + `Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`);
    });
  }
});

describe('a transaction', () => {
  it('of Synapse: hands over what is relevant, in order, and nothing else', async () => {
    const events = [
      message(), invite('c1'), event('m.room.topic', { topic: 'x' }, { state_key: '' }),
      event('m.room.member', { membership: 'join', displayname: 'Bob' }, { state_key: '@bob:example.org' }),
      event('m.room.encryption', { algorithm: 'm.megolm.v1.aes-sha2' }, { state_key: '' }),
      event('m.room.encrypted', { ciphertext: 'm.call.invite' }), event('m.call', {}),
      event('org.matrix.call.sdp_stream_metadata_changed', { call_id: 'c1' }),
      event('m.call.candidates', { call_id: 'c1', candidates: [] }), event('m.call.hangup', { call_id: 'c1' }),
    ];
    const before = await stats();
    isDone(await put({
      events, ephemeral: [{ type: 'm.typing', content: {} }], 'de.sorunome.msc2409.ephemeral': [],
      'de.sorunome.msc2409.to_device': [{ type: 'm.call.invite', content: {} }],
      'org.matrix.msc3202.device_lists': { changed: [], left: [] },
      'org.matrix.msc3202.device_one_time_keys_count': {}, 'org.matrix.msc3202.device_one_time_key_counts': {},
      'org.matrix.msc3202.device_unused_fallback_key_types': {},
    }));
    const got = await delivered();
    assert.deepEqual(ids(got), [1, 3, 4, 7, 8, 9].map((i) => events[i].event_id));
    assert.equal(got[0].type, 'm.call.invite');
    assert.equal(got[0].room_id, '!room:example.org');
    assert.equal(got[0].sender, '@alice:example.org');
    assert.equal(got[0].state_key, null);
    assert.equal(got[0].age_ms, 1500);
    assert.deepEqual(got[0].content, events[1].content);
    assert.equal(got[1].state_key, '@bob:example.org');
    assert.equal(got[2].state_key, '');
    const now = await stats();
    assert.equal(now.events - before.events, events.length);
    assert.equal(now.relevant - before.relevant, 6);
    assert.ok(now.lag >= 1500);
  });

  it('of Dendrite: no unsigned, numeric id, one connection', async () => {
    const one = invite('d1', { unsigned: undefined, age: undefined, user_id: undefined });
    isDone(await put({ events: [one] }, { id: '1785000000000000000' }));
    const [got] = await delivered();
    assert.ok(got.age_ms >= 1500 && got.age_ms < 60000, String(got.age_ms));
  });

  it('of tuwunel: a hash as id, the token twice, unprefixed members', async () => {
    const one = invite('t1');
    isDone(await put({ events: [one], ephemeral: [], to_device: [] },
      { path: `${V1}/transactions/-_3q2-7wAAECAwQFBgcICQoLDA0ODw?access_token=${TOKEN}` }));
    assert.deepEqual(ids(await delivered()), [one.event_id]);
  });

  it('may be empty', async () => {
    isDone(await put({ events: [] }));
    isDone(await put(' \r\n{ "events" : [ ] }\n'));
  });

  it('says whether a later event ends the call', async () => {
    isDone(await put({ events: [invite('e1'), event('m.call.hangup', { call_id: 'e1' }), invite('e2'),
      event('m.call.answer', { call_id: 'e2' }, { room_id: '!other:example.org' })] }));
    assert.deepEqual((await delivered()).map((one) => one.ends), [true, false, false, false]);
  });

  it('ignores events that the homeserver soft-failed', async () => {
    const good = invite('s3');
    isDone(await put({ events: [invite('s1', { unsigned: { 'io.element.synapse.soft_failed': true } }),
      invite('s2', { unsigned: { 'io.element.synapse.policy_server_spammy': true } }), good] }));
    assert.deepEqual(ids(await delivered()), [good.event_id]);
  });

  it('drops what the application does not want before it is built', async () => {
    const candidates = event('m.call.candidates', { call_id: 'u', unwanted: 1 });
    const one = invite('u');
    isDone(await put({ events: [candidates, candidates, one] }));
    assert.deepEqual(ids(await delivered()), [one.event_id]);
  });

  it('that is none gets 400', async () => {
    for (const body of ['', 'x', '{', '{"events":[', '{"events":[}', '{"events":[{}}', '{"events":[]}x', '\xff']) {
      fails(await put(body), 400, 'M_NOT_JSON');
    }
    for (const body of ['{}', '[]', '5', 'null', '{"events":{}}', '{"events":null}', '{"ephemeral":[]}']) {
      fails(await put(body), 400, 'M_BAD_JSON');
    }
  });
});

describe('one event twice', () => {
  it('acts once, under the same id and under another', async () => {
    const one = invite('dup1');
    const id = nextId();
    const before = await stats();
    isDone(await put({ events: [one, one] }, { id }));
    isDone(await put({ events: [one] }, { id }));
    isDone(await put({ events: [one] }));
    assert.deepEqual(ids(await delivered()), [one.event_id]);
    assert.equal((await stats()).duplicateEvents - before.duplicateEvents, 3);
  });

  it('a repeated id with more events hands over the new ones', async () => {
    const [a, b] = [invite('dup2'), invite('dup3')];
    const id = nextId();
    isDone(await put({ events: [a] }, { id }));
    isDone(await put({ events: [a, b] }, { id }));
    assert.deepEqual(ids(await delivered()), [a.event_id, b.event_id]);
  });

  it('a repeated id with other events hands them over', async () => {
    const [a, b] = [invite('dup4'), invite('dup5')];
    isDone(await put({ events: [a] }, { id: '1' }));
    isDone(await put({ events: [b] }, { id: '1' }));
    assert.deepEqual(ids(await delivered()), [a.event_id, b.event_id]);
  });
});

describe('the answer', () => {
  const hold = (callId) => event('m.call.invite', { call_id: callId, hold: true });
  /** A request whose state can be looked at. */
  function track(promise) {
    const tracked = { settled: false, promise };
    promise.then(() => { tracked.settled = true; }, () => { tracked.settled = true; });
    return tracked;
  }
  const held = (n, of = server) => until(async () => (await stats(of)).held === n,
    { what: `${n} held events`, everyMs: 10 });

  it('waits until every effect is durable', async () => {
    const pending = track(put({ events: [hold('h1'), hold('h2')] }));
    await held(2);
    await stats();
    assert.equal(pending.settled, false);
    await release();
    isDone(await pending.promise);
  });

  it('is 503 when the store was down or full, and then the same events count again', async () => {
    for (const rc of ['down', 'full']) {
      const [lost, quiet] = [hold(`l-${rc}`), event('m.call.candidates', { call_id: 'x' })];
      const id = nextId();
      const first = put({ events: [lost, quiet] }, { id });
      await held(1);
      await release(rc);
      const refused = await first;
      assert.equal(refused.status, 503, rc);
      const again = put({ events: [lost, quiet] }, { id });
      await held(1);
      await release();
      isDone(await again);
      assert.deepEqual(ids(await delivered()), [lost.event_id, quiet.event_id, lost.event_id]);
    }
  });

  it('is 200 when the store knew the event', async () => {
    const pending = put({ events: [hold('k1')] });
    await held(1);
    await release('duplicate');
    isDone(await pending);
  });

  it('to the same transaction at the same time waits for the first and acts once', async () => {
    const body = { events: [hold('w1')] };
    const id = nextId();
    const before = await stats();
    const both = [track(put(body, { id })), track(put(body, { id }))];
    await until(async () => (await stats()).duplicateTxns > before.duplicateTxns, { everyMs: 10 });
    await held(1);
    assert.deepEqual(both.map((one) => one.settled), [false, false]);
    await release();
    for (const one of both) isDone(await one.promise);
    assert.equal((await delivered()).length, 1);
  });

  it('keeps transactions in order behind one that waits', async () => {
    const [a, b] = [hold('o1'), invite('o2')];
    const first = track(put({ events: [a] }));
    await held(1);
    const second = track(put({ events: [b] }));
    isDone(await rawRequest(server.url, 'POST', `${V1}/ping`, { token: TOKEN, body: '{}' }));
    assert.equal(second.settled, false);
    await release();
    isDone(await first.promise);
    isDone(await second.promise);
    assert.deepEqual(ids(await delivered()), [a.event_id, b.event_id]);
  });

  it('is 503 when the store takes too long; what it did in the end is not done again', async () => {
    const events = [hold('late'), ...Array.from({ length: 3 }, (_, i) => invite(`late${i}`))];
    const behind = invite('behind');
    const first = put({ events }, { of: hasty });
    await held(1, hasty);
    const second = put({ events: [behind] }, { of: hasty });
    assert.equal((await first).status, 503);
    assert.equal((await second).status, 503);
    await release('ok', hasty);
    isDone(await put({ events }, { of: hasty }));
    isDone(await put({ events: [behind] }, { of: hasty }));
    assert.deepEqual(ids(await delivered(hasty)), ids([...events, behind]));
  });

  it('is 503 when more wait than can, and they are served later', async () => {
    const first = put({ events: [hold('crowd')] });
    await held(1);
    const crowd = await Promise.all(Array.from({ length: 40 }, async (_, i) => {
      const answer = track(put({ events: [invite(`crowd${i}`)] }));
      return answer;
    }));
    await until(() => crowd.some((one) => one.settled), { what: 'a refusal', everyMs: 10 });
    await release();
    isDone(await first);
    const statuses = (await Promise.all(crowd.map((one) => one.promise))).map((one) => one.status);
    assert.deepEqual([...new Set(statuses)].sort(), [200, 503]);
    assert.equal((await delivered()).length, 1 + statuses.filter((status) => status === 200).length);
  });

  it('goes nowhere when the homeserver has left, and nothing breaks', async () => {
    const body = JSON.stringify({ events: [hold('gone')] });
    const url = new URL(server.url);
    const socket = net.connect(Number(url.port), url.hostname);
    socket.write(`PUT ${V1}/transactions/${nextId()} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${TOKEN}\r\n`
      + `Content-Length: ${body.length}\r\n\r\n${body}`);
    await held(1);
    socket.destroy();
    await once(socket, 'close');
    await release();
    isDone(await put({ events: [] }));
  });
});

describe('poison among good events', () => {
  const E = (rest) => `{"type":"m.call.invite","event_id":"$poison-${++number}","room_id":"!r:x","sender":"@a:x",${rest}}`;
  const kept = [ // name, element: quarantined
    ['a number that is none', () => E('"content":{"a":Infinity}')],
    ['a number that is too large', () => E('"content":{"a":1e400}')],
    ['an integer of more than 64 bits', () => E('"content":{"a":9223372036854775808}')],
    ['a control character', () => E('"content":{"a":"\x01"}')],
    ['bytes that are no UTF-8', () => Buffer.concat([Buffer.from('{"type":"m.room.message","content":{"b":"'),
      Buffer.from([0xff, 0xfe, 0xc0]), Buffer.from(`${++number}"}}`)])],
    ['nesting without end', () => E(`"content":${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}`)],
    ['content that is no object', () => E('"content":[]')],
    ['no content', () => E('"x":1')],
    ['an event id with a NUL', () => `{"type":"m.call.invite","event_id":"$\\u0000${++number}","room_id":"!r","sender":"@a","content":{}}`],
    ['a room that is a number', () => `{"type":"m.call.invite","event_id":"$${++number}","room_id":5,"sender":"@a","content":{}}`],
    ['a state key of another type', () => E('"content":{},"state_key":null')],
    ['an id that is too long', () => `{"type":"m.call.invite","event_id":"$${'x'.repeat(300)}${++number}","room_id":"!r","sender":"@a","content":{}}`],
    ['an event that is too large', () => E(`"content":{"a":"${'x'.repeat(70000)}"}`)],
    ['no object', () => `${++number}`],
    ['null', () => `[null,${++number}]`],
  ];
  for (const [name, element] of kept) {
    it(`${name}: is put aside and the others are taken`, async () => {
      const [a, b] = [invite('p1'), invite('p2')];
      const parts = [Buffer.from(`{"events":[${JSON.stringify(a)},`), Buffer.from(element()),
        Buffer.from(`,${JSON.stringify(b)}]}`)];
      const before = await stats();
      isDone(await put(Buffer.concat(parts)));
      isDone(await put(Buffer.concat(parts)));
      assert.deepEqual(ids(await delivered()), [a.event_id, b.event_id]);
      assert.equal((await stats()).quarantined - before.quarantined, 1);
    });
  }

  it('takes an event with NUL characters and lone surrogates, mended', async () => {
    const before = await stats();
    isDone(await put(`{"events":[${E('"content":{"call_id":"n","text":"a\\u0000b","k\\u0000":"\\ud83d","d":"\\ud83d\\ude00"}')}]}`));
    const [got] = await delivered();
    assert.deepEqual(got.content, { call_id: 'n', text: 'a\ufffdb', 'k\ufffd': '\ufffd', d: '\u{1f600}' });
    assert.equal((await stats()).quarantined, before.quarantined);
  });

  it('does not care what stands beside the events', async () => {
    const one = invite('p3');
    isDone(await put(`{"ephemeral":[{"a":Infinity,"b":"\x02"},NaN],"events":[${JSON.stringify(one)}],"x":{"\\ud800":1e999}}`));
    assert.deepEqual(ids(await delivered()), [one.event_id]);
  });

  it('keeps the whole type in mind: escapes, endings, 255 bytes', async () => {
    const a = { ...invite('p4') };
    const text = JSON.stringify(a).replace('m.call.invite', 'm.c\\u0061ll.invite');
    isDone(await put(`{"events":[${text},{"type":"${'m'.repeat(255)}"},{"type":{}},{}]}`));
    const got = await delivered();
    assert.deepEqual(ids(got), [a.event_id]);
    assert.equal(got[0].type, 'm.call.invite');
  });
});

describe('large and slow bodies', () => {
  const MIB = 1024 * 1024;

  it('takes 64 MiB, finds the call in it, and serves others meanwhile', async () => {
    const one = invite('big1');
    const filler = JSON.stringify(message('x'.repeat(60000)));
    const parts = ['{"events":['];
    let size = 0;
    while (size < 64 * MIB - 200000) {
      parts.push(filler, ',');
      size += filler.length + 1;
    }
    parts.push(JSON.stringify(one), ']}');
    const whole = parts.join('');
    const body = `${whole.slice(0, -1)}${' '.repeat(64 * MIB - whole.length)}}`;
    assert.equal(body.length, 64 * MIB);
    const answer = put(body);
    isDone(await rawRequest(server.url, 'POST', `${V1}/ping`, { token: TOKEN, body: '{}' }));
    isDone(await answer);
    assert.deepEqual(ids(await delivered()), [one.event_id]);
  });

  it('works on many relevant events in slices', async () => {
    const events = Array.from({ length: 30000 }, () => event('m.call.candidates', { call_id: 'm', quiet: true }));
    const before = await stats();
    isDone(await put({ events }));
    assert.equal((await stats()).delivered - before.delivered, events.length);
  });

  it('refuses more than 64 MiB on its headers', async () => {
    const url = new URL(server.url);
    const socket = net.connect(Number(url.port), url.hostname);
    let text = '';
    socket.on('data', (chunk) => { text += chunk; });
    socket.on('error', () => {});
    socket.write(`PUT ${V1}/transactions/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${TOKEN}\r\n`
      + `Content-Length: ${64 * MIB + 1}\r\n\r\n`);
    await until(() => text.includes('M_TOO_LARGE'), { what: 'the refusal', everyMs: 10 });
    assert.match(text, /^HTTP\/1.1 413 /);
    socket.destroy();
  });

  it('takes a body byte by byte', async () => {
    const one = invite('slow');
    const body = JSON.stringify({ events: [one] });
    const url = new URL(server.url);
    const socket = net.connect(Number(url.port), url.hostname);
    socket.setNoDelay(true);
    let text = '';
    socket.on('data', (chunk) => { text += chunk; });
    socket.write(`PUT ${V1}/transactions/${nextId()} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${TOKEN}\r\n`
      + `Content-Length: ${body.length}\r\n\r\n`);
    for (const byte of body) await new Promise((resolve) => socket.write(byte, resolve));
    await until(() => text.endsWith('{}'), { what: 'the answer', everyMs: 10 });
    assert.match(text, /^HTTP\/1.1 200 /);
    socket.destroy();
    assert.deepEqual(ids(await delivered()), [one.event_id]);
  });

  it('takes chunked bodies', async () => {
    const one = invite('chunked');
    const url = new URL(server.url);
    const socket = net.connect(Number(url.port), url.hostname);
    const text = JSON.stringify({ events: [one] });
    let answer = '';
    socket.on('data', (chunk) => { answer += chunk; });
    socket.write(`PUT ${V1}/transactions/${nextId()} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${TOKEN}\r\n`
      + `Transfer-Encoding: chunked\r\n\r\n${text.length.toString(16)}\r\n${text}\r\n0\r\n\r\n`);
    await until(() => answer.endsWith('{}'), { what: 'the answer', everyMs: 10 });
    socket.destroy();
    assert.deepEqual(ids(await delivered()), [one.event_id]);
  });
});
