// A Matrix client as plain as can be: matrix-js-sdk's own call API behind a few functions for tests.

import { createClient, ClientEvent, SyncState } from 'matrix-js-sdk';
import { CallEventHandlerEvent } from 'matrix-js-sdk/lib/webrtc/callEventHandler';
import { CallEvent, createNewMatrixCall } from 'matrix-js-sdk/lib/webrtc/call';

const now = () => performance.now();

let client;
let call = null;

/** What tests read: the state of the current call, and when (performance.now()) what happened. */
const sdk = {
  ready: false, state: 'idle', callId: null, incoming: false, error: null, hangupReason: null, hangupParty: null,
  remoteAudioMuted: null, remoteVideoMuted: null, timings: {},
  // Set by benchmarks: no time is lost between ringing and answering.
  answerAtOnce: false,
};
window.sdk = sdk;

function show() {
  document.getElementById('state').textContent = `${sdk.state} ${sdk.callId ?? ''} ${sdk.error ?? ''}`;
}

function note(name) {
  sdk.timings[name] ??= now();
}

function playRemote() {
  const feed = call.remoteUsermediaFeed;
  const video = document.getElementById('remote');
  if (!feed || video.srcObject === feed.stream) return;
  video.srcObject = feed.stream;
  video.play().catch(() => {});
  video.requestVideoFrameCallback(() => note('firstFrame'));
}

function readMutes() {
  const feed = call?.remoteUsermediaFeed;
  sdk.remoteAudioMuted = feed ? feed.isAudioMuted() : null;
  sdk.remoteVideoMuted = feed ? feed.isVideoMuted() : null;
}

function watch(newCall) {
  call = newCall;
  Object.assign(sdk, { callId: call.callId, state: call.state, error: null, hangupReason: null, hangupParty: null });
  call.on(CallEvent.State, (state) => {
    sdk.state = state;
    note(state);
    show();
  });
  call.on(CallEvent.FeedsChanged, () => {
    playRemote();
    readMutes();
  });
  call.on(CallEvent.Error, (error) => {
    sdk.error = `${error.code}: ${error.message}`;
    show();
  });
  call.on(CallEvent.Hangup, () => {
    sdk.state = 'ended';
    sdk.hangupReason = call.hangupReason ?? null;
    sdk.hangupParty = call.hangupParty ?? null;
    note('ended');
    show();
  });
  show();
}

sdk.start = async ({ homeserver, userId, accessToken, deviceId, relayOnly = false }) => {
  client = createClient({
    baseUrl: homeserver, userId, accessToken, deviceId, forceTURN: relayOnly, fallbackICEServerAllowed: false,
  });
  // Before the first sync, or an invite that is waiting would be missed.
  client.on(CallEventHandlerEvent.Incoming, (incoming) => {
    sdk.timings = {};
    note('incoming');
    sdk.incoming = true;
    watch(incoming);
    if (sdk.answerAtOnce) sdk.answer();
  });
  const synced = new Promise((resolve) => {
    client.on(ClientEvent.Sync, (state) => {
      if (state === SyncState.Prepared || state === SyncState.Syncing) resolve();
    });
  });
  await client.startClient({ initialSyncLimit: 1, lazyLoadMembers: false });
  await synced;
  const deadline = now() + 15000;
  while (client.getTurnServers().length === 0 && now() < deadline) await new Promise((next) => setTimeout(next, 20));
  sdk.turnServers = client.getTurnServers().length;
  sdk.ready = true;
};

sdk.place = async (roomId, { video = true } = {}) => {
  sdk.timings = {};
  sdk.incoming = false;
  const placed = createNewMatrixCall(client, roomId);
  watch(placed);
  note('place');
  await (video ? placed.placeVideoCall() : placed.placeVoiceCall());
  return placed.callId;
};

sdk.answer = async ({ video } = {}) => {
  note('answer');
  await call.answer(true, video);
};

sdk.reject = () => call.reject();

sdk.hangup = () => {
  note('hangup');
  call.hangup('user_hangup', false);
};

sdk.setMicrophoneMuted = (muted) => call.setMicrophoneMuted(muted);
sdk.setLocalVideoMuted = (muted) => call.setLocalVideoMuted(muted);

sdk.readMutes = () => {
  readMutes();
  return { audio: sdk.remoteAudioMuted, video: sdk.remoteVideoMuted };
};

/** What has arrived by now: decoded frames, audio packets, and the type of the local candidate in use. */
sdk.media = async () => {
  const result = { framesDecoded: 0, audioPackets: 0, localCandidateType: null };
  const connection = call?.peerConn;
  if (!connection) return result;
  const stats = await connection.getStats();
  for (const entry of stats.values()) {
    if (entry.type === 'inbound-rtp' && entry.kind === 'video') result.framesDecoded += entry.framesDecoded ?? 0;
    if (entry.type === 'inbound-rtp' && entry.kind === 'audio') result.audioPackets += entry.packetsReceived ?? 0;
    if (entry.type === 'candidate-pair' && entry.nominated && entry.state === 'succeeded') {
      result.localCandidateType = stats.get(entry.localCandidateId)?.candidateType ?? null;
    }
  }
  return result;
};

show();
