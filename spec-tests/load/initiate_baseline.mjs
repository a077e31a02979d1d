// What the daemon's POST /api/calls/initiate does, on express and a pool of 20 PostgreSQL connections: the yardstick of
// initiate.mjs. It writes the same rows of the same schema in one transaction a call, and believes every token.

import { randomUUID } from 'node:crypto';
import express from 'express';
import pg from 'pg';

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 20, options: '-c search_path=calld' });
const app = express();

const SESSION = `INSERT INTO call_sessions (id, room_id, caller, callee, call_type, kind, media, origin, status,
  matrix_signalling, initiated_at, ring_expires_at, ring_seconds, version, seq)
  VALUES ($1, $2, $3, $4, $5, 'direct', 'p2p', 'rest', 'ringing', 'off', $6, $7, 60, 1, 1)`;
const PARTICIPANTS = `INSERT INTO call_participants (call_session_id, position, user_id, party_id, state, side,
  audio_enabled, video_enabled, screen_sharing, joined_at)
  VALUES ($1, 0, $2, $3, 'joined', 'ours', true, true, false, $5), ($1, 1, $4, NULL, 'ringing', 'none', true, true, false, NULL)`;
const EVENT = `INSERT INTO call_events (call_session_id, seq, event_type, user_id, event_data, created_at)
  VALUES ($1, 1, 'initiated', $2, '{"status":"ringing"}', $3)`;

async function store(call) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    await client.query({ name: 'session', text: SESSION, values: [call.callId, call.roomId, call.caller, call.callee,
      call.callType, new Date(call.initiatedAt), new Date(call.ringExpiresAt)] });
    await client.query({ name: 'participants', text: PARTICIPANTS, values: [call.callId, call.caller, call.partyId,
      call.callee, new Date(call.initiatedAt)] });
    await client.query({ name: 'event', text: EVENT, values: [call.callId, call.caller, new Date(call.initiatedAt)] });
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

app.use(express.json());
app.post('/api/calls/initiate', async (req, res) => {
  const token = /^Bearer dev_(\w+)$/.exec(req.get('authorization') ?? '');
  const { roomId, callType = 'video', invitees } = req.body;
  if (!token) return res.status(401).json({ errcode: 'M_MISSING_TOKEN', error: 'Missing token' });
  if (typeof roomId !== 'string' || !Array.isArray(invitees)) return res.status(400).json({ errcode: 'M_BAD_JSON' });
  const now = Date.now();
  const call = { callId: `z${randomUUID().replaceAll('-', '')}`, partyId: randomUUID(), roomId, callType, kind: 'direct',
    caller: `@${token[1]}:dev`, callee: invitees[0], status: 'ringing', initiatedAt: now, ringExpiresAt: now + 60000 };
  await store(call);
  return res.status(201).json(call);
});

const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.once('SIGTERM', () => { server.close(); server.closeAllConnections(); pool.end(); });
