/* Each thread has its own message. Threads may share a codec: its calls are serialized, and no frame is mixed up. */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <string.h>

#include "check.h"

enum { THREADS = 4, CALLS = 300 };

static pve_tunnel_codec *shared;
static pthread_barrier_t start;

/* Odd threads fail while even threads succeed: each thread sees only its own result. */
static void *work(void *argument)
{
    int number = *(const int *)argument;
    char name[32];
    snprintf(name, sizeof name, "{\"thread-%d\":1}", number);
    pthread_barrier_wait(&start);
    for (int i = 0; i < CALLS; i++) {
        if (number % 2 == 1) {
            pve_tunnel_codec *none = NULL;
            CHECK_STATUS(pve_tunnel_codec_new(name, &none), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
            snprintf(name, sizeof name, "thread-%d", number);
            CHECK(strstr(pve_tunnel_last_error(), name) != NULL);
            snprintf(name, sizeof name, "{\"thread-%d\":1}", number);
        } else {
            CHECK(pve_tunnel_last_status() == PVE_TUNNEL_STATUS_OK);
        }
        /* A whole frame for a server: masked with zeros, with three bytes that identify the thread. */
        uint8_t frame[9] = {0x82, 0x83, 0, 0, 0, 0, 0, 0, 0};
        memset(frame + 6, 'a' + number, 3);
        CHECK_OK(pve_tunnel_codec_feed(shared, frame, sizeof frame));
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    int numbers[THREADS];
    CHECK_OK(pve_tunnel_codec_new("{\"role\":\"server\"}", &shared));
    CHECK(pthread_barrier_init(&start, NULL, THREADS) == 0);
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(pthread_barrier_destroy(&start) == 0);

    int seen[THREADS] = {0};
    for (int i = 0; i < THREADS * CALLS; i++) {
        int32_t opcode = 0;
        bool end = false;
        uint8_t *payload = NULL;
        size_t length = 0;
        CHECK_OK(pve_tunnel_codec_next(shared, &opcode, &end, &payload, &length));
        CHECK(opcode == 2 && end && length == 3);
        CHECK(payload[0] >= 'a' && payload[0] < 'a' + THREADS);
        CHECK(payload[0] == payload[1] && payload[1] == payload[2]);
        seen[payload[0] - 'a']++;
        pve_tunnel_bytes_free(payload, length);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(seen[i] == CALLS);
    pve_tunnel_codec_free(shared);
    return 0;
}
