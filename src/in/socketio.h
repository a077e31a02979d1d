/* socketio.h -- Socket.IO 5 on Engine.IO sessions: namespace "/", events, acks. */
#ifndef CD_IN_SOCKETIO_H
#define CD_IN_SOCKETIO_H

#include "in/engineio.h"

/** What Engine.IO calls; everything else goes through sock.h. */
extern const struct cd_eio_ops cd_sio_session_ops;

#endif
