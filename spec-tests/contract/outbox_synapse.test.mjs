// The contracts of fetch, auth, rooms and outbox against a real Synapse: what the fake homeserver does when nothing is
// wrong is pinned here. Tests of faults are not part of it.

import { after } from 'node:test';
import { startStack } from '../lib/stack.mjs';

const stack = await startStack({ appservice: false });
process.env.HOMESERVER_URL = stack.homeserver;
after(() => stack.stop());

for (const part of ['fetch', 'auth', 'rooms', 'outbox']) await import(`./${part}_contract.test.mjs`);
