/* secret.c -- sealing, hashing, comparing, random bytes. The only user of libsodium.
 *
 * Owns: the hash key drawn at start. Why: tokens rest in PostgreSQL only sealed (design, section 5). */
#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(CD_SEAL_OVERHEAD == crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES,
               "the header's overhead is libsodium's");

_Static_assert(CD_SIGN_BYTES == crypto_auth_BYTES, "the header's size is libsodium's");
_Static_assert(crypto_kdf_KEYBYTES == crypto_secretbox_KEYBYTES, "other keys are derived from the seal's");

struct cd_seal {
    unsigned n_keys;
    unsigned char keys[2][crypto_secretbox_KEYBYTES]; /* the first one seals */
    unsigned char sign_keys[2][crypto_auth_KEYBYTES], name_keys[2][32]; /* derived from them */
};

static unsigned char hash_key[32];

int cd_secret_init(void)
{
    if (sodium_init() < 0)
        return -1;
    randombytes_buf(hash_key, sizeof(hash_key));
    return 0;
}

void cd_random(void *out, size_t n)
{
    randombytes_buf(out, n);
}

bool cd_secret_equal(struct cd_str a, struct cd_str b)
{
    uint8_t ha[16], hb[16];

    /* hashes have one length, so neither length nor content shows in the time */
    cd_secret_hash16(a, ha);
    cd_secret_hash16(b, hb);
    return sodium_memcmp(ha, hb, sizeof(ha)) == 0 && a.n == b.n;
}

void cd_secret_hash16(struct cd_str data, uint8_t out[16])
{
    crypto_generichash(out, 16, (const unsigned char *)data.p, data.n, hash_key, sizeof(hash_key));
}

void cd_hash16(struct cd_str data, uint8_t out[16])
{
    crypto_generichash(out, 16, (const unsigned char *)data.p, data.n, NULL, 0);
}

static enum cd_rc make_key(const char *path, unsigned char *key, struct cd_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return cd_fail(err, CD_E_INTERNAL, "cannot create the key file %s: %s", path, strerror(errno));
    crypto_secretbox_keygen(key);
    bool ok = write(fd, key, crypto_secretbox_KEYBYTES) == (ssize_t)crypto_secretbox_KEYBYTES &&
              fsync(fd) == 0;
    if (close(fd) != 0 || !ok) {
        unlink(path);
        return cd_fail(err, CD_E_INTERNAL, "cannot write the key file %s", path);
    }
    return CD_OK;
}

static enum cd_rc read_key(const char *path, bool create, unsigned char *key, struct cd_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 && errno == ENOENT && create)
        return make_key(path, key, err);
    if (fd < 0)
        return cd_fail(err, CD_E_INTERNAL, "cannot open the key file %s: %s", path, strerror(errno));
    enum cd_rc rc = CD_OK;
    if (fstat(fd, &st) != 0 || st.st_size != (off_t)crypto_secretbox_KEYBYTES)
        rc = cd_fail(err, CD_E_INTERNAL, "the key file %s must hold exactly 32 bytes", path);
    else if (st.st_mode & 077)
        rc = cd_fail(err, CD_E_INTERNAL, "the key file %s is readable by others: chmod 600 it", path);
    else if (read(fd, key, crypto_secretbox_KEYBYTES) != (ssize_t)crypto_secretbox_KEYBYTES)
        rc = cd_fail(err, CD_E_INTERNAL, "cannot read the key file %s", path);
    close(fd);
    return rc;
}

static void derive(struct cd_seal *s)
{
    for (unsigned i = 0; i < s->n_keys; i++) {
        crypto_kdf_derive_from_key(s->sign_keys[i], sizeof(s->sign_keys[i]), 1, "calldses", s->keys[i]);
        crypto_kdf_derive_from_key(s->name_keys[i], sizeof(s->name_keys[i]), 2, "calldses", s->keys[i]);
    }
}

struct cd_seal *cd_seal_ephemeral(void)
{
    struct cd_seal *s = sodium_malloc(sizeof(*s));

    if (!s)
        return NULL;
    s->n_keys = 1;
    crypto_secretbox_keygen(s->keys[0]);
    derive(s);
    return s;
}

enum cd_rc cd_seal_open(const char *path, const char *path2, struct cd_seal **out, struct cd_err *err)
{
    struct cd_seal *s = sodium_malloc(sizeof(*s));

    if (!s)
        return cd_fail(err, CD_E_NO_MEMORY, NULL);
    s->n_keys = 1;
    enum cd_rc rc = read_key(path, true, s->keys[0], err);
    if (rc == CD_OK && path2 && path2[0]) {
        s->n_keys = 2;
        rc = read_key(path2, false, s->keys[1], err);
    }
    if (rc != CD_OK) {
        cd_seal_close(s);
        return rc;
    }
    derive(s);
    *out = s;
    return CD_OK;
}

void cd_seal_close(struct cd_seal *seal)
{
    sodium_free(seal);
}

void cd_seal_wrap(const struct cd_seal *seal, const void *p, size_t n, uint8_t *out)
{
    randombytes_buf(out, crypto_secretbox_NONCEBYTES);
    crypto_secretbox_easy(out + crypto_secretbox_NONCEBYTES, p, n, out, seal->keys[0]);
}

bool cd_seal_unwrap(const struct cd_seal *seal, const uint8_t *p, size_t n, void *out)
{
    if (n < CD_SEAL_OVERHEAD)
        return false;
    for (unsigned i = 0; i < seal->n_keys; i++)
        if (crypto_secretbox_open_easy(out, p + crypto_secretbox_NONCEBYTES,
                                       n - crypto_secretbox_NONCEBYTES, p, seal->keys[i]) == 0)
            return true;
    return false;
}

void cd_seal_sign(const struct cd_seal *seal, const void *p, size_t n, uint8_t out[CD_SIGN_BYTES])
{
    crypto_auth(out, p, n, seal->sign_keys[0]);
}

bool cd_seal_signed(const struct cd_seal *seal, const void *p, size_t n, const uint8_t tag[CD_SIGN_BYTES])
{
    bool ok = false;

    for (unsigned i = 0; i < seal->n_keys; i++)
        ok |= crypto_auth_verify(tag, p, n, seal->sign_keys[i]) == 0;
    return ok;
}

static void name_with(const unsigned char key[32], struct cd_str secret, uint8_t out[16])
{
    crypto_generichash(out, 16, (const unsigned char *)secret.p, secret.n, key, 32);
}

void cd_seal_name(const struct cd_seal *seal, struct cd_str secret, uint8_t out[16])
{
    name_with(seal->name_keys[0], secret, out);
}

bool cd_seal_named(const struct cd_seal *seal, struct cd_str secret, const uint8_t name[16])
{
    uint8_t mine[16];
    bool ok = false;

    for (unsigned i = 0; i < seal->n_keys; i++) {
        name_with(seal->name_keys[i], secret, mine);
        ok |= sodium_memcmp(mine, name, sizeof(mine)) == 0;
    }
    return ok;
}

size_t cd_base64url_size(size_t n)
{
    return sodium_base64_encoded_len(n, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

void cd_base64url(const void *p, size_t n, char *out)
{
    sodium_bin2base64(out, cd_base64url_size(n), p, n, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

long cd_base64url_read(struct cd_str text, void *out, size_t out_size)
{
    size_t n = 0;
    const char *end = NULL;

    for (size_t i = 0; i < text.n; i++)
        if ((unsigned char)text.p[i] >= 0x80)
            return -1; /* libsodium takes 0xdf for '_' where char is signed */
    if (sodium_base642bin(out, out_size, text.p, text.n, NULL, &n, &end,
                          sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 || end != text.p + text.n)
        return -1;
    return (long)n;
}

void cd_wipe(void *p, size_t n)
{
    if (p)
        sodium_memzero(p, n);
}
