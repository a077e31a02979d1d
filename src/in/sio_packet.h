/* sio_packet.h -- the wire forms of Engine.IO 4 and Socket.IO 5: text in, views out. */
#ifndef CD_IN_SIO_PACKET_H
#define CD_IN_SIO_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"
#include "in/sock.h"

#define CD_SIO_JSON_DEPTH CD_SOCK_JSON_DEPTH /* of one argument; the array around it is one more */
#define CD_SIO_ATTACHMENTS 10    /* binary attachments of one packet, as the stock parser has it */
#define CD_SIO_NAMESPACE_MAX 255 /* bytes of a namespace's name */
#define CD_SIO_EVENT_MAX 64      /* bytes of an event name that is decoded, NUL included */

enum cd_sio_type {
    CD_SIO_CONNECT,
    CD_SIO_DISCONNECT,
    CD_SIO_EVENT,
    CD_SIO_ACK,
    CD_SIO_CONNECT_ERROR,
    CD_SIO_BINARY_EVENT,
    CD_SIO_BINARY_ACK
};

/** One Socket.IO packet; all views point into the text that was parsed. */
struct cd_sio_packet {
    enum cd_sio_type type;
    unsigned attachments; /* binary packets that follow */
    int64_t id;           /* ack id; -1: none */
    struct cd_str ns;     /* "/" unless another one is named */
    struct cd_str data;   /* raw JSON; n == 0: none */
    struct cd_str event;  /* events: the first element, raw: "a string" or a number */
    struct cd_str payload; /* events: the second element; "{}" when there is none */
    bool too_deep;         /* events: nested beyond CD_SIO_JSON_DEPTH; the payload is not to be had */
};

/** Cut the next packet off an Engine.IO polling payload (packets joined by 0x1e).
 * @param rest  advanced; its p is NULL once the last packet was taken
 * @return false when there is none left */
bool cd_eio_payload_next(struct cd_str *rest, struct cd_str *packet);
/** Base64 as Engine.IO sends binary (both alphabets, padding optional). */
bool cd_eio_base64_valid(struct cd_str text);
/** One value of a raw query string ("a=1&b=2"), decoded; "?" when it does not decode or fit, which
 * is no value of anything that is looked for.
 * @return false when absent */
bool cd_eio_query(struct cd_str query, const char *name, char *out, size_t out_size);

/** Parse one Socket.IO packet (without the Engine.IO "4").
 * @return false: a parse error, after which the connection has to be closed */
bool cd_sio_parse(struct cd_str text, struct cd_sio_packet *out);
/** The event's name: decoded into @p space, or its raw text if that fails (no event is called so). */
struct cd_str cd_sio_event_name(struct cd_str raw, char *space, size_t space_size);

/* What is sent; each with the leading Engine.IO "4". */
/** 42["event",payload] */
void cd_sio_add_event(struct cd_buf *b, const char *event, struct cd_str payload);
/** 43<id>[{"ok":true,...}] @param members  JSON object text, or "" */
void cd_sio_add_ack_ok(struct cd_buf *b, int64_t id, struct cd_str members);
/** 43<id>[{"ok":false,"errcode":...}] */
void cd_sio_add_ack_fail(struct cd_buf *b, int64_t id, const struct cd_err *err);
/** 40{"sid":"..."} */
void cd_sio_add_connected(struct cd_buf *b, const char *sid);
/** 44{"message":...,"data":{"errcode":...,"error":...}} */
void cd_sio_add_refused(struct cd_buf *b, const struct cd_err *err);
/** 44/ns,{"message":"Invalid namespace"} */
void cd_sio_add_no_namespace(struct cd_buf *b, struct cd_str ns);

/** Is @p text refused for its nesting alone? For what cd_json_valid() has refused. */
bool cd_json_too_deep(struct cd_str text, unsigned max_depth);
/** CD_E_NOT_JSON in words that name the depth taken. */
void cd_sio_fail_depth(struct cd_err *err);
/** Append ",member,member" of a JSON object's text; nothing when it has none. */
void cd_json_add_members(struct cd_buf *b, struct cd_str object);
/** Append ","errcode":...,"error":..." and what else @p err has to say. */
void cd_json_add_err(struct cd_buf *b, const struct cd_err *err);

#endif
