// HTTP as a test needs it and fetch forbids it: any bytes, any source address, one byte at a time.

import http from 'node:http';
import { until } from './until.mjs';

/**
 * One request with a body of raw bytes.
 * @param {object} options
 * @param {string} [options.from] source address: limits that count by address see another client
 * @returns {Promise<{status: number, headers: object, body: any}>} body: parsed when it is JSON, else text
 */
export function rawRequest(origin, method, path, { token, headers = {}, body, from } = {}) {
  const url = new URL(path, origin);
  return new Promise((resolve, reject) => {
    const request = http.request({
      host: url.hostname, port: url.port, path: url.pathname + url.search, method, localAddress: from, agent: false,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
        ...headers,
      },
    }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8');
        let parsed = text;
        try {
          parsed = JSON.parse(text);
        } catch {
          // Not JSON: the caller sees the text.
        }
        resolve({ status: response.statusCode, headers: response.headers, body: parsed });
      });
    });
    request.on('error', reject);
    request.end(body);
  });
}

/** Counts the lines of a growing log that match, once the count has stopped changing for a moment. */
export async function settledCount(readLog, pattern) {
  let last = -1;
  return until(() => {
    const now = (readLog().match(pattern) ?? []).length;
    const settled = now === last;
    last = now;
    return settled && { count: now };
  }, { what: 'a settled log', everyMs: 300 }).then(({ count }) => count);
}
