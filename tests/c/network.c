/* Ports are bound when they are returned, an address is found or its absence explained, announced endpoints and clear text are
 * checked. The Rust tests check the decisions. */

#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

static struct sockaddr_in loopback(uint16_t port)
{
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void a_bound_port_accepts(void)
{
    int fd = -1, other = -1;
    uint16_t port = 0, other_port = 0;
    CHECK_OK(pve_tunnel_port_bind("127.0.0.1", &fd, &port));
    CHECK(port >= 60000 && port < 60050);
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);

    /* The port is bound, so the next call returns another port. */
    CHECK_OK(pve_tunnel_port_bind("127.0.0.1", &other, &other_port));
    CHECK(other != fd && other_port != port);
    CHECK(close(other) == 0);

    int client = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = loopback(port);
    CHECK(client >= 0);
    CHECK(connect(client, (struct sockaddr *)&address, sizeof address) == 0);
    int server = accept(fd, NULL, NULL);
    CHECK(server >= 0);
    CHECK(write(client, "x", 1) == 1);
    char byte = 0;
    CHECK(read(server, &byte, 1) == 1 && byte == 'x');
    CHECK(close(client) == 0 && close(server) == 0);

    /* The caller owns the descriptor and can close it. */
    CHECK(close(fd) == 0);
    CHECK(fcntl(fd, F_GETFD) == -1);

    fd = -7;
    port = 7;
    CHECK_STATUS(pve_tunnel_port_bind("localhost", &fd, &port), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_port_bind("127.0.0.1/8", &fd, &port), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_port_bind("", &fd, &port), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    /* 240.0.0.0/4 is reserved: no host has such an address. */
    CHECK_STATUS(pve_tunnel_port_bind("240.0.0.1", &fd, &port), PVE_TUNNEL_STATUS_IO);
    CHECK(strstr(pve_tunnel_last_error(), "240.0.0.1") != NULL);
    CHECK(fd == -7 && port == 7);
}

static void an_address_or_a_reason(void)
{
    /* No interface of any machine has a reserved address. The addresses are those of the kernel. */
    char *out = NULL;
    CHECK_STATUS(pve_tunnel_network_address("240.0.0.0/24", "node", &out), PVE_TUNNEL_STATUS_REFUSED);
    CHECK(strstr(pve_tunnel_last_error(), "240.0.0.0/24") != NULL);
    CHECK_STATUS(pve_tunnel_network_address("10.0.0.0/33", "node", &out), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK(out == NULL);

    /* Loopback is accepted because the network names it. Every machine has this address. */
    CHECK_OK(pve_tunnel_network_address("127.0.0.1/32", "node", &out));
    CHECK(strcmp(out, "{\"address\":\"127.0.0.1\",\"prefix_len\":8,\"interface\":\"lo\",\"uri_host\":\"127.0.0.1\"}") == 0);
    pve_tunnel_string_free(out);
}

typedef int32_t check_function(const char *input, char **out);

static void passes(check_function *check, const char *input, const char *expected)
{
    char *out = NULL;
    CHECK_OK(check(input, &out));
    if (strcmp(out, expected) != 0)
        fprintf(stderr, "answer: %s\n", out);
    CHECK(strcmp(out, expected) == 0);
    pve_tunnel_string_free(out);
}

static void fails(check_function *check, const char *input, int32_t status)
{
    char *out = NULL;
    CHECK_STATUS(check(input, &out), status);
    CHECK(out == NULL);
}

static void accepted(const char *input, const char *expected)
{
    passes(pve_tunnel_endpoint_check, input, expected);
}

static void refused(const char *input, int32_t status)
{
    fails(pve_tunnel_endpoint_check, input, status);
}

static void announced_endpoints(void)
{
    accepted("{\"migrate\":{\"proto\":\"tcp\",\"addr\":\"10.0.0.7\",\"port\":60000},\"network\":\"10.0.0.0/24\"}",
             "{\"address\":\"10.0.0.7\",\"port\":60000,\"uri\":\"tcp:10.0.0.7:60000\"}");
    accepted("{\"nbd_uri\":\"nbd:10.0.0.7:60001:exportname=drive-scsi0\",\"network\":null,\"allow_loopback\":false}",
             "{\"address\":\"10.0.0.7\",\"port\":60001,\"uri\":\"nbd:10.0.0.7:60001:exportname=drive-scsi0\","
             "\"export\":\"drive-scsi0\"}");
    refused("{\"migrate\":{\"proto\":\"tcp\",\"addr\":\"10.0.1.7\",\"port\":60000},\"network\":\"10.0.0.0/24\"}",
            PVE_TUNNEL_STATUS_REFUSED);
    refused("{}", PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    refused("[]", PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    refused("{\"migrate\":5}", PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    refused("{\"nbd_uri\":\"nbd:10.0.0.7:60001:exportname=drive-scsi0\",\"network\":\"eth0\"}",
            PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
}

static void clear_text(void)
{
    /* The route is that of the kernel. Loopback is accepted because the network names it. */
    passes(pve_tunnel_guard_check, "{\"address\":\"127.0.0.1\",\"network\":\"127.0.0.0/8\",\"source_network\":\"lo\"}",
           "{\"address\":\"127.0.0.1\",\"source\":\"127.0.0.1\",\"interface\":\"lo\",\"gateway\":null,\"scope\":\"loopback\","
           "\"warnings\":[\"CLEAR TEXT: guest RAM and disks travel UNENCRYPTED from 127.0.0.1 (interface lo) to 127.0.0.1: "
           "every host on the path can read and change them\"]}");
    fails(pve_tunnel_guard_check, "{\"address\":\"127.0.0.1\"}", PVE_TUNNEL_STATUS_REFUSED);
    fails(pve_tunnel_guard_check, "{\"address\":\"10.0.0.7\",\"network\":\"10.0.0.0\"}", PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    fails(pve_tunnel_guard_check, "{}", PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    fails(pve_tunnel_guard_check, "[]", PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
}

int main(void)
{
    a_bound_port_accepts();
    an_address_or_a_reason();
    announced_endpoints();
    clear_text();
    return 0;
}
