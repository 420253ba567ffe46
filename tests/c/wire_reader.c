/* Reads one message of the perception wire from a file and prints its pixels: docs/wire.md in fifty lines of C.
   cc -o wire_reader wire_reader.c                         raw messages
   cc -DHAVE_ZSTD -o wire_reader wire_reader.c -lzstd      zstd too
   Little-endian hosts. Exit code 1: not a message, 2: another major version, 3: an encoding not compiled in. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#pragma pack(push, 1)
struct fixed {
    char magic[4];
    uint8_t major, minor, kind, encoding;
    uint32_t header_size, payload_size, raw_size;
    uint16_t width, height;
    uint32_t crc;
    uint64_t seq, frame_seq;
    int64_t stamp_ns;
};
#pragma pack(pop)

static uint32_t crc32_of(uint32_t crc, const uint8_t *p, size_t n) {
    for (crc = ~crc; n--; p++) {
        crc ^= *p;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1));
    }
    return ~crc;
}

static int print_pixels(const struct fixed *f, const uint8_t *raw) {
    uint64_t row = f->kind == 0 ? (f->width + 7u) / 8u : f->kind == 1 ? 2u * f->width : f->width;
    if (f->kind > 2 || row * f->height != f->raw_size) return f->kind > 2 ? 0 : 1;
    for (unsigned y = 0; y < f->height; y++, raw += row)
        for (unsigned x = 0; x < f->width; x++) {
            unsigned v = raw[f->kind == 0 ? x / 8 : f->kind == 1 ? 2 * x : x];
            if (f->kind == 0) v = v >> (7 - x % 8) & 1;
            if (f->kind == 1) v |= (unsigned)raw[2 * x + 1] << 8;
            printf("%u%c", v, x + 1 == f->width ? '\n' : ' ');
        }
    return 0;
}

int main(int argc, char **argv) {
    static uint8_t buf[1 << 24];
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    size_t size = file ? fread(buf, 1, sizeof buf, file) : 0;
    const uint8_t *nul = memchr(buf, 0, size < 49 ? size : 49); /* a topic has at most 48 characters */
    size_t topic = nul ? (size_t)(nul - buf) + 1 : size;
    struct fixed f;
    if (size < topic + sizeof f) return 1;
    memcpy(&f, buf + topic, sizeof f);
    if (memcmp(f.magic, "PMSK", 4)) return 1;
    if (f.major != 1) return 2;
    const uint8_t *payload = buf + topic + sizeof f + f.header_size, *raw = payload;
    if ((uint64_t)topic + sizeof f + f.header_size + f.payload_size != size || f.raw_size > 64u << 20) return 1;
    uint32_t crc = crc32_of(0, buf, topic + 24); /* the four bytes of the checksum itself are left out */
    if (crc32_of(crc, buf + topic + 28, size - topic - 28) != f.crc) return 1;
    printf("%s kind %u %ux%u seq %llu frame %llu stamp %lld\n", buf, f.kind, f.width, f.height,
           (unsigned long long)f.seq, (unsigned long long)f.frame_seq, (long long)f.stamp_ns);
    if (f.encoding == 0 && f.payload_size != f.raw_size) return 1;
#ifdef HAVE_ZSTD
    if (f.encoding == 1) { /* the raw size is known and limited before anything is allocated */
        uint8_t *out = malloc(f.raw_size ? f.raw_size : 1);
        if (!out || ZSTD_decompress(out, f.raw_size, payload, f.payload_size) != f.raw_size) return 1;
        raw = out;
    }
    return f.encoding > 1 ? 3 : print_pixels(&f, raw);
#else
    return f.encoding > 0 ? 3 : print_pixels(&f, raw);
#endif
}
