/* id.c -- identifiers. */
#include "base/id.h"

#include "base/secret.h"

void cd_id_call(int64_t wall_ms, char *out)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t u[16];

    cd_random(u, sizeof(u));
    for (unsigned i = 0; i < 6; i++)
        u[i] = (uint8_t)((uint64_t)wall_ms >> (40 - 8 * i));
    u[6] = (uint8_t)((u[6] & 0x0f) | 0x70); /* version 7 */
    u[8] = (uint8_t)((u[8] & 0x3f) | 0x80); /* RFC 9562 variant */
    out[0] = 'z';
    for (unsigned i = 0; i < 16; i++) {
        out[1 + 2 * i] = hex[u[i] >> 4];
        out[2 + 2 * i] = hex[u[i] & 15];
    }
    out[CD_CALL_ID_LEN] = '\0';
}

void cd_id_alnum(size_t n, char *out)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    uint8_t r[32]; /* a system call each: drawn by the block */
    size_t i = 0;

    while (i < n) {
        size_t want = n - i < sizeof(r) ? n - i : sizeof(r);

        cd_random(r, want);
        for (size_t k = 0; k < want; k++)
            if (r[k] < 248) /* 4 * 62: keeps the letters equally likely */
                out[i++] = set[r[k] % 62];
    }
    out[n] = '\0';
}

void cd_id_base64url(size_t nbytes, char *out, size_t out_size)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t raw[48];
    size_t n = 0;

    for (size_t i = 0; i + 3 <= nbytes && n + 4 < out_size; i += 3) {
        const uint8_t *r = raw + i % sizeof(raw);
        if (r == raw)
            cd_random(raw, nbytes - i < sizeof(raw) ? nbytes - i : sizeof(raw));
        uint32_t v = (uint32_t)r[0] << 16 | (uint32_t)r[1] << 8 | r[2];
        for (int shift = 18; shift >= 0; shift -= 6)
            out[n++] = set[v >> shift & 63];
    }
    if (out_size)
        out[n] = '\0';
}
