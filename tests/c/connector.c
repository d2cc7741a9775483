/* The connector on plain descriptors: it answers bad lines, reports failed connections, and ends with its input or a signal.
 * After its end there is no further thread or descriptor, and no changed flag or signal mask. */

#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

/* A connector in its own thread, with the test's ends of its pipes. */
struct run {
    pthread_t thread;
    int input, output, log;
    const char *options;
    int32_t status;
    char message[512];
    int commands;
    FILE *answers, *diagnostics;
};

static void *body(void *argument)
{
    struct run *run = argument;
    sigset_t before, after;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &before) == 0);
    run->status = pve_tunnel_connector_run(run->input, run->output, run->log, run->options);
    CHECK(pve_tunnel_last_status() == run->status);
    snprintf(run->message, sizeof run->message, "%s", pve_tunnel_last_error());
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &after) == 0);
    for (int number = 1; number <= SIGSYS; number++)
        CHECK(sigismember(&before, number) == sigismember(&after, number));
    return NULL;
}

static void start(struct run *run, const char *options)
{
    int input[2], output[2], log[2];
    CHECK(pipe(input) == 0 && pipe(output) == 0 && pipe(log) == 0);
    run->input = input[0];
    run->output = output[1];
    run->log = log[1];
    run->options = options;
    run->commands = input[1];
    run->answers = fdopen(output[0], "r");
    run->diagnostics = fdopen(log[0], "r");
    CHECK(run->answers != NULL && run->diagnostics != NULL);
    CHECK(pthread_create(&run->thread, NULL, body, run) == 0);
}

static void command(struct run *run, const char *line)
{
    CHECK(write(run->commands, line, strlen(line)) == (ssize_t)strlen(line));
    CHECK(write(run->commands, "\n", 1) == 1);
}

static void answered(struct run *run, const char *expected)
{
    char line[4096];
    CHECK(fgets(line, sizeof line, run->answers) != NULL);
    CHECK(strchr(line, '\n') != NULL);
    if (strstr(line, expected) == NULL)
        fprintf(stderr, "answer: %slacks: %s\n", line, expected);
    CHECK(strstr(line, "\"success\":false") != NULL);
    CHECK(strstr(line, expected) != NULL);
}

static void end_input(struct run *run)
{
    CHECK(close(run->commands) == 0);
    run->commands = -1;
}

/* Waits for the end. The connector must have written nothing more, and must not have changed the caller's descriptors. */
static void ended(struct run *run, int32_t status)
{
    CHECK(pthread_join(run->thread, NULL) == 0);
    if (run->status != status)
        fprintf(stderr, "status %d: %s\n", (int)run->status, run->message);
    CHECK(run->status == status);
    const int descriptors[3] = {run->input, run->output, run->log};
    for (int i = 0; i < 3; i++) {
        if (descriptors[i] < 0)
            continue;
        CHECK((fcntl(descriptors[i], F_GETFL) & O_NONBLOCK) == 0);
        CHECK(close(descriptors[i]) == 0);
    }
    if (run->answers != NULL) {
        CHECK(fgetc(run->answers) == EOF);
        CHECK(fclose(run->answers) == 0);
    }
    CHECK(fclose(run->diagnostics) == 0);
    if (run->commands >= 0)
        CHECK(close(run->commands) == 0);
}

/* The number of entries in a directory: descriptors or threads of this process. */
static size_t count(const char *directory)
{
    DIR *open = opendir(directory);
    CHECK(open != NULL);
    size_t entries = 0;
    while (readdir(open) != NULL)
        entries++;
    CHECK(closedir(open) == 0);
    return entries;
}

static void the_end_of_input_ends_it(void)
{
    struct run run;
    start(&run, NULL);
    end_input(&run);
    ended(&run, PVE_TUNNEL_STATUS_OK);
    CHECK(strcmp(run.message, "") == 0);

    /* Without a log, and with an incomplete line at the end. */
    start(&run, "{\"mask\":\"random\",\"connect_timeout\":0.5}");
    CHECK(write(run.commands, "{\"cmd\"", 6) == 6);
    end_input(&run);
    ended(&run, PVE_TUNNEL_STATUS_OK);
}

static void bad_lines_are_answered(void)
{
    struct run run;
    start(&run, NULL);
    command(&run, "{broken");
    answered(&run, "msg");
    command(&run, "{\"control\":true,\"cmd\":\"dance\",\"data\":{}}");
    answered(&run, "dance");
    command(&run, "{\"control\":true,\"cmd\":\"forward\",\"data\":5}");
    answered(&run, "forward");
    command(&run, "{\"cmd\":\"version\"}");
    answered(&run, "not connected");
    end_input(&run);
    ended(&run, PVE_TUNNEL_STATUS_OK);
}

static void a_refused_connection_is_reported(void)
{
    /* A bound port without a listening socket: connections to it are refused, and no other program can use it. */
    int bound = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bound >= 0);
    CHECK(bind(bound, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(getsockname(bound, (struct sockaddr *)&address, &length) == 0);
    char connect[512], peer[64];
    snprintf(peer, sizeof peer, "127.0.0.1:%d", (int)ntohs(address.sin_port));
    snprintf(connect, sizeof connect,
             "{\"control\":true,\"cmd\":\"connect\",\"data\":{\"url\":\"wss://%s/x?ticket=SECRET\","
             "\"headers\":[[\"Authorization\",\"SECRET\"]],\"fingerprint\":"
             "\"00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\"}}",
             peer);

    struct run run;
    start(&run, NULL);
    command(&run, connect);
    command(&run, "{\"cmd\":\"version\"}");
    answered(&run, peer);
    char logged[1024];
    CHECK(fgets(logged, sizeof logged, run.diagnostics) != NULL);
    CHECK(strstr(logged, peer) != NULL);
    CHECK(strstr(logged, "SECRET") == NULL);
    end_input(&run);
    ended(&run, PVE_TUNNEL_STATUS_IO);
    CHECK(strstr(run.message, "pve_tunnel_connector_run: ") == run.message);
    CHECK(strstr(run.message, peer) != NULL);
    CHECK(strstr(run.message, "SECRET") == NULL);
    CHECK(close(bound) == 0);
}

/* SIGPIPE has its default action here, which would end this process. */
static void a_closed_output_is_an_error(void)
{
    struct run run;
    start(&run, NULL);
    CHECK(fclose(run.answers) == 0);
    run.answers = NULL;
    command(&run, "{broken");
    ended(&run, PVE_TUNNEL_STATUS_IO);
    sigset_t pending;
    CHECK(sigpending(&pending) == 0);
    CHECK(sigismember(&pending, SIGPIPE) == 0);
}

static volatile sig_atomic_t received;

static void handle(int number)
{
    received = number;
}

/* The caller's handler runs after the connector has ended cleanly. */
static void a_signal_ends_it(void)
{
    struct run run;
    struct sigaction action = {.sa_handler = handle}, before;
    CHECK(sigaction(SIGTERM, &action, &before) == 0);
    received = 0;
    start(&run, NULL);
    command(&run, "{broken");
    /* After the answer the connector is running, so it has blocked the signal. */
    answered(&run, "msg");
    CHECK(pthread_kill(run.thread, SIGTERM) == 0);
    ended(&run, PVE_TUNNEL_STATUS_IO);
    CHECK(strstr(run.message, "SIGTERM") != NULL);
    CHECK(received == SIGTERM);
    CHECK(sigaction(SIGTERM, &before, NULL) == 0);
}

static void bad_arguments_are_refused(void)
{
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK_STATUS(pve_tunnel_connector_run(-1, pipes[1], -1, NULL), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK(strstr(pve_tunnel_last_error(), "input") != NULL);
    CHECK_STATUS(pve_tunnel_connector_run(pipes[0], -1, -1, NULL), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK(strstr(pve_tunnel_last_error(), "output") != NULL);
    CHECK_STATUS(pve_tunnel_connector_run(pipes[0], pipes[1], -2, NULL), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK(strstr(pve_tunnel_last_error(), "log") != NULL);
    CHECK_STATUS(pve_tunnel_connector_run(1000000, pipes[1], -1, NULL), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);

    const char *const bad[] = {"{\"mask\":\"none\"}",          "{\"connect_timeout\":0}", "{\"connect_timeout\":-1}",
                               "{\"connect_timeout\":1e300}",  "{\"conect_timeout\":1}",  "[]",
                               "{\"upgrade_timeout\":\"soon\"}", ""};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_STATUS(pve_tunnel_connector_run(pipes[0], pipes[1], -1, bad[i]), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_connector_run(pipes[0], pipes[1], -1, "{\"mask\":\"\xff\"}"), PVE_TUNNEL_STATUS_NOT_UTF8);

    /* The descriptors are not changed: a byte goes through the pipe. */
    char byte = 0;
    CHECK(write(pipes[1], "x", 1) == 1);
    CHECK(read(pipes[0], &byte, 1) == 1 && byte == 'x');
    CHECK(close(pipes[0]) == 0 && close(pipes[1]) == 0);
}

int main(void)
{
    size_t descriptors = count("/proc/self/fd");
    size_t threads = count("/proc/self/task");
    for (int round = 0; round < 3; round++) {
        the_end_of_input_ends_it();
        bad_lines_are_answered();
        a_refused_connection_is_reported();
        a_closed_output_is_an_error();
        a_signal_ends_it();
        bad_arguments_are_refused();
    }
    CHECK(count("/proc/self/fd") == descriptors);
    CHECK(count("/proc/self/task") == threads);
    return 0;
}
