/* Static guards of call-test.html: what its security policy relies on, and what other tests rely on. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import vm from 'node:vm';

const html = readFileSync(new URL('../../contrib/call-test/call-test.html', import.meta.url), 'utf8');
const scripts = [...html.matchAll(/<script\b([^>]*)>([\s\S]*?)<\/script\s*>/gi)];
const styles = [...html.matchAll(/<style\b([^>]*)>([\s\S]*?)<\/style\s*>/gi)];
const script = scripts[0]?.[2] ?? '';
const style = styles[0]?.[2] ?? '';
const code = script.replace(/\/\*[\s\S]*?\*\//g, '');
const markup = html.replace(script, '').replace(style, '');
const tags = [...markup.matchAll(/<[a-z][^>]*>/gi)].map((match) => match[0]);

/* [tag, attribute, value] of each attribute in the markup. */
const attributes = tags.flatMap((tag) => [...tag.matchAll(/\s([a-zA-Z-]+)(?:="([^"]*)")?/g)]
    .map((match) => [tag, match[1].toLowerCase(), match[2] ?? '']));

test('one script and one style, both without attributes, so that one hash each covers them', () => {
    assert.equal(scripts.length, 1);
    assert.equal(styles.length, 1);
    assert.equal(scripts[0][1], '');
    assert.equal(styles[0][1], '');
    assert.equal((html.match(/<script/gi) ?? []).length, 1);
    assert.equal((html.match(/<style/gi) ?? []).length, 1);
});

test('the script compiles', () => {
    assert.doesNotThrow(() => new vm.Script(script));
});

test('the fragment is read and removed before any other statement', () => {
    const statements = code.split(';').map((one) => one.replace(/\s+/g, ' ').trim());
    assert.deepEqual(statements.slice(0, 3), [
        "'use strict'",
        'const firstFragment = location.hash',
        "history.replaceState(null, '', location.pathname + location.search)",
    ]);
});

test('no markup is ever made from a string, and no string is ever run', () => {
    for (const word of [/\binnerHTML\b/, /\bouterHTML\b/, /\binsertAdjacentHTML\b/, /\bdocument\s*\.\s*write/, /\beval\b/,
        /\bnew\s+Function\b/, /\bcreateContextualFragment\b/, /\bDOMParser\b/, /\bsetHTMLUnsafe\b/, /\bsrcdoc\b/,
        /\bset(?:Timeout|Interval)\(\s*['"`]/, /\bimport\s*\(/, /\bimportScripts\b/]) {
        assert.doesNotMatch(code, word);
    }
});

test('no style is set by attribute from the script', () => {
    assert.doesNotMatch(code, /setAttribute\(\s*['"]style/);
    assert.doesNotMatch(code, /setAttribute\(\s*['"]on/);
    assert.doesNotMatch(code, /\.cssText\b/);
});

test('no handler and no style attributes', () => {
    assert.ok(attributes.length > 100, 'the attributes were found');
    assert.deepEqual(attributes.filter(([, name]) => /^on/.test(name) || name === 'style'), []);
});

test('nothing is loaded from anywhere', () => {
    const loading = new Set(['src', 'href', 'srcset', 'action', 'formaction', 'poster', 'data', 'background', 'ping', 'xlink:href']);
    for (const [tag, name, value] of attributes) {
        if (loading.has(name)) {
            assert.match(value, /^(?:#|data:)/, tag);
        }
    }
    assert.doesNotMatch(style, /url\(|@import|@font-face|expression\(/i);
    assert.doesNotMatch(code, /\b(?:https?|wss?):\/\/[a-z0-9]/i);
    assert.doesNotMatch(markup, /<(?:iframe|object|embed|base|frame|applet|portal)\b/i);
    assert.doesNotMatch(markup, /<meta[^>]*http-equiv/i);
});

test('nothing outlives the tab: no permanent storage, no cookie, no console', () => {
    assert.doesNotMatch(code, /\blocalStorage\b|\bindexedDB\b|\bdocument\s*\.\s*cookie\b|\bconsole\s*\./);
});

test('the ids that tests and links use are there, once each', () => {
    const ids = attributes.filter(([, name]) => name === 'id').map(([, , value]) => value);
    assert.deepEqual(ids.filter((id, at) => ids.indexOf(id) !== at), []);
    for (const id of ['homeserver', 'user', 'password', 'token', 'signin', 'room', 'room-id', 'call-audio', 'call-video',
        'incoming', 'accept', 'decline', 'hangup', 'mute', 'camera', 'share', 'state', 'timer', 'log', 'remote', 'local',
        'stats', 'relay', 'remote-flags']) {
        assert.ok(ids.includes(id), `#${id}`);
    }
    for (const [, id] of code.matchAll(/\$\('([a-z-]+)'\)/g)) {
        assert.ok(ids.includes(id), `the script uses #${id}`);
    }
});

test('each field has a label, each button says what it does', () => {
    const labels = new Set(attributes.filter(([tag, name]) => name === 'for' && /^<label/i.test(tag)).map(([, , value]) => value));
    for (const tag of tags.filter((one) => /^<(?:input|select)\b/i.test(one))) {
        const id = /\sid="([^"]+)"/.exec(tag)?.[1];
        assert.ok(labels.has(id), tag);
    }
    for (const [whole, open, content] of markup.matchAll(/(<button\b[^>]*>)([\s\S]*?)<\/button>/gi)) {
        assert.match(open, /\stype="(?:button|submit)"/, whole);
        assert.ok(/aria-label=/.test(open) || content.replace(/<[^>]*>/g, '').trim(), whole);
    }
    assert.match(markup, /<html lang="en">/);
    assert.match(markup, /<meta name="viewport"/);
});
