/*
 * The C ABI of pve-tunnel, the native tunnel for moving guests between Proxmox VE clusters.
 *
 * Made by cbindgen from src/ffi, do not edit. docs/c.md shows how to use it.
 *
 * - Functions that can fail return 0 or a negative pve_tunnel_status. The calling thread's last message and status are
 *   kept until its next call: pve_tunnel_last_error, pve_tunnel_last_status.
 * - Arguments come in the order handle, inputs, outputs. Outputs are written only on success.
 * - Strings are UTF-8 and end with NUL. Structured values are JSON text. What comes out as char ** is freed with
 *   pve_tunnel_string_free, what comes out as uint8_t ** with pve_tunnel_bytes_free and its length.
 * - Nothing given in is kept after return. NULL is an error unless a function allows it.
 * - The library never prints, never exits, changes no signal handler, and starts no thread but for resolving a host name
 *   in pve_tunnel_connector_run.
 * - A defect in the library comes back as PVE_TUNNEL_STATUS_PANIC; it does not take the process down.
 * - After a fork the child may use the library afresh; handles made before belong to the process that made them.
 */


#ifndef PVE_TUNNEL_H
#define PVE_TUNNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Version of the software that this header came with.
#define PVE_TUNNEL_VERSION "0.1.0"

// Number of the ABI that this header describes, and of the soname: libpve_tunnel.so.0.
#define PVE_TUNNEL_ABI_VERSION 0

// Most bytes of the configuration, /etc/pve/remote-migration.cfg.
#define PVE_TUNNEL_CONFIGURATION_MAX 1048576

// Most bytes of a line from or to a connector or listener, without its newline.
#define PVE_TUNNEL_LINE_MAX 1048576

// What a function returned: 0, or one of these negative numbers.
//
// Numbers never change their meaning; later versions may add some, so treat an unknown negative
// number as a failure.
enum pve_tunnel_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Success.
    PVE_TUNNEL_STATUS_OK = 0,
    // A pointer that must not be NULL was NULL.
    PVE_TUNNEL_STATUS_NULL_POINTER = -1,
    // An argument has a value that makes no sense here; the message names it.
    PVE_TUNNEL_STATUS_INVALID_ARGUMENT = -2,
    // A string is not UTF-8.
    PVE_TUNNEL_STATUS_NOT_UTF8 = -3,
    // An argument is longer than the limit stated with the function.
    PVE_TUNNEL_STATUS_TOO_LONG = -4,
    // What a peer sent breaks the protocol.
    PVE_TUNNEL_STATUS_PROTOCOL = -5,
    // The operating system or the network refused; the message says what was tried and why it
    // failed.
    PVE_TUNNEL_STATUS_IO = -6,
    // Understood, and declined: a plan that is not possible, an endpoint that is not safe, a
    // handle that is broken.
    PVE_TUNNEL_STATUS_REFUSED = -7,
    // The handle was made by another process, before a fork.
    PVE_TUNNEL_STATUS_WRONG_PROCESS = -8,
    // A defect in this library, caught at its border. The message is worth a bug report.
    PVE_TUNNEL_STATUS_PANIC = -9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum pve_tunnel_status pve_tunnel_status;
#else
typedef int32_t pve_tunnel_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// One end of a websocket connection after its upgrade: takes wire bytes apart into frames, and
// makes frames. Does no I/O.
typedef struct pve_tunnel_codec pve_tunnel_codec;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Number of the ABI of the library that is loaded.
//
// Who loads it with dlopen compares this with `PVE_TUNNEL_ABI_VERSION` of the header; who links
// gets the same check from the soname.
//
// Threads: any. Leaves the last message and status as they are.
uint32_t pve_tunnel_abi_version(void);

// Version of the software, such as "0.1.0". Belongs to the library, valid as long as it is loaded,
// never NULL.
//
// Threads: any. Leaves the last message and status as they are.
const char *pve_tunnel_version(void);

// Message of the last failure in the calling thread, one line of UTF-8 that starts with the
// function's name.
//
// Returns "" if the thread's last call succeeded or it made none; never NULL. The text belongs to
// the library and is valid until the thread's next call that returns a status (or makes one to be
// read here, as `pve_tunnel_codec_free` in the wrong process does), or until the thread ends. It
// holds no ticket, token or key.
//
// Threads: any; each has its own.
const char *pve_tunnel_last_error(void);

// Status of the calling thread's last call that had one: 0 or a negative `pve_tunnel_status`.
//
// Kept as long as the text of `pve_tunnel_last_error`.
//
// Threads: any; each has its own.
int32_t pve_tunnel_last_status(void);

// Frees a string that a function of this library gave out.
//
// NULL is allowed and does nothing. The last message and status stay as they are.
//
// Threads: any, not only the one that got the string. After a fork parent and child each free
// their own copy.
//
// # Safety
//
// `text` is NULL or came from this library as `char **`, was not changed in length, and is freed
// once.
void pve_tunnel_string_free(char *text);

// Frees bytes that a function of this library gave out.
//
// NULL is allowed and does nothing. The last message and status stay as they are.
//
// Threads: any, not only the one that got the bytes. After a fork parent and child each free their
// own copy.
//
// # Safety
//
// `bytes` is NULL or came from this library as `uint8_t **`, `len` is the length that came with
// it, and both are given once.
void pve_tunnel_bytes_free(uint8_t *bytes, size_t len);

// Masks or unmasks bytes in place, as RFC 6455 section 5.3 says: byte i is XORed with key byte
// (phase + i) mod 4.
//
// Doing it twice with the same key and phase gives the bytes back. To go on in the middle of a
// payload, add the number of bytes already done to `phase`; only its value modulo 4 counts.
//
// `data` may be NULL if `len` is 0. `key` has 4 bytes.
//
// Errors: NULL_POINTER; TOO_LONG above PTRDIFF_MAX.
//
// Threads: any, on different bytes.
//
// # Safety
//
// `data` is writable for `len` bytes, `key` readable for 4, and they do not overlap.
int32_t pve_tunnel_mask(uint8_t *data, size_t len, const uint8_t *key, size_t phase);

// Makes a codec for one connection.
//
// `options` is NULL for the defaults, or a JSON object whose members are all optional:
//
//   role       "client" (the default) or "server": which end this is
//   mask       "random" (the default) or "zero": how a client masks; zero only where TLS protects the wire. A server
//              does not mask
//   max_frame  longest payload taken from the peer in one frame, in bytes: 125 to 16777216, by default 131072 as pveproxy
//
// `out` gets the codec, to be freed with `pve_tunnel_codec_free`.
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `options` is no such
// object.
//
// Threads: any. A codec may be used by any thread; calls from several take turns. After a fork it
// belongs to the process that made it: in the other one every call gives WRONG_PROCESS.
//
// # Safety
//
// `options` is NULL or a C string, `out` is writable.
int32_t pve_tunnel_codec_new(const char *options,
                             struct pve_tunnel_codec **out);

// Frees a codec.
//
// NULL is allowed and does nothing. In a process that did not make the codec (after a fork)
// nothing is released, and `pve_tunnel_last_status` says WRONG_PROCESS; otherwise the last message
// and status stay as they are.
//
// Threads: any, but no other call on this codec may be under way.
//
// # Safety
//
// `codec` is NULL or came from `pve_tunnel_codec_new`, and is freed once in the process that made
// it.
void pve_tunnel_codec_free(struct pve_tunnel_codec *codec);

// Gives bytes from the wire to a codec, which copies what it needs.
//
// Then call `pve_tunnel_codec_next` until it has nothing more: what is not taken out piles up in
// memory. `data` may be NULL if `len` is 0.
//
// Errors: NULL_POINTER; TOO_LONG above 16 MiB a call; WRONG_PROCESS.
//
// # Safety
//
// `codec` is alive, `data` is readable for `len` bytes.
int32_t pve_tunnel_codec_feed(struct pve_tunnel_codec *codec, const uint8_t *data, size_t len);

// Takes the next piece out of what was fed.
//
// `opcode` gets what it is: 0 nothing yet, feed more; 1 text; 2 binary; 8 close; 9 ping; 10 pong.
// `payload` and `len` get the unmasked bytes, to be freed with `pve_tunnel_bytes_free`; one NUL
// byte follows them that `len` does not count. For 0, `payload` is NULL and `len` 0.
//
// Text and binary come piece by piece as their bytes arrive, each with the opcode of its message;
// `end` is true on the message's last piece, which may be empty. What is text is not checked to be
// UTF-8. Control frames come whole, may come between pieces, and always have `end` true. The
// payload of a close is empty, or a two-byte code in network byte order and a reason in UTF-8;
// nothing comes after a close. Answering pings and closes is the caller's.
//
// Errors: NULL_POINTER; WRONG_PROCESS; PROTOCOL if the peer broke RFC 6455 or the frame limit.
// After PROTOCOL the stream cannot be understood any more: end the connection and free the codec.
//
// # Safety
//
// `codec` is alive, the outputs are writable.
int32_t pve_tunnel_codec_next(struct pve_tunnel_codec *codec,
                              int32_t *opcode,
                              bool *end,
                              uint8_t **payload,
                              size_t *len);

// Makes the wire bytes that carry a payload.
//
// `opcode` is 1 text, 2 binary, 8 close, 9 ping or 10 pong. Text and binary longer than 131072
// bytes become several frames, each a whole message (FIN), because that is all pveproxy takes. The
// others have at most 125 bytes; a close is empty or begins with its code in network byte order.
// `data` may be NULL if `len` is 0.
//
// `out` and `out_len` get the bytes to send, to be freed with `pve_tunnel_bytes_free`.
//
// Errors: NULL_POINTER; WRONG_PROCESS; TOO_LONG above 16 MiB a call or 125 bytes in a close, ping
// or pong; INVALID_ARGUMENT for another opcode; IO if the system gives no random bytes for the
// mask.
//
// # Safety
//
// `codec` is alive, `data` is readable for `len` bytes, the outputs are writable.
int32_t pve_tunnel_codec_encode(struct pve_tunnel_codec *codec,
                                int32_t opcode,
                                const uint8_t *data,
                                size_t len,
                                uint8_t **out,
                                size_t *out_len);

// Reads a certificate's SHA-256 fingerprint, in any case and with or without colons, and writes it
// the way Proxmox VE does: 32 upper-case hexadecimal pairs with colons between them (95
// characters).
//
// `canonical` gets the text, to be freed with `pve_tunnel_string_free`.
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if it is no such
// fingerprint.
//
// Threads: any.
//
// # Safety
//
// `text` is a C string, `canonical` is writable.
int32_t pve_tunnel_fingerprint_parse(const char *text, char **canonical);

// Reads the answer of a tunnel worker to the `version` command.
//
// `json` is the line as it came, such as {"success":1,"api":2,"age":0,"caps":["insecure-remote"]}.
// `out` gets {"api":2,"age":0,"caps":["insecure-remote"],"unknown":[]}: `caps` has the
// capabilities this library knows, `unknown` those it does not, which change nothing. No `caps` in
// the reply means none. To be freed with `pve_tunnel_string_free`.
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; PROTOCOL if it is no such reply, including
// `caps` that is not an array of at most 64 strings of at most 64 characters from [a-z0-9-];
// REFUSED if the reply is an error, or if the target speaks no version of the tunnel that this
// library speaks. The message says which node to upgrade.
//
// Threads: any.
//
// # Safety
//
// `json` is a C string, `out` is writable.
int32_t pve_tunnel_version_reply_parse(const char *json, char **out);

// Decides which way the data of a migration goes. Does no I/O.
//
// `input` is a JSON object:
//
//   migration_type      "secure" (the default) or "insecure"
//   migration_network   null, or what was asked for explicitly: a CIDR or an interface name; where
//                       `configured` is true, the ID of the configured network is as good
//   configured          true if a network of the configuration was selected, see
//                       `pve_tunnel_configuration_select`: then no privilege is needed for type and
//                       network, the administrator has decided them already
//   caps                array of all capability names of the target, the unknown ones too
//   planes              what this source can do besides "websocket": of "tls", "tcp", "qemu"
//   require_encryption  true if the configuration forbids clear text
//   dial                null before a direct connection was tried; after it {"ok":true}, or
//                       {"ok":false,"address":"192.0.2.7","port":60000,"error":"why"}
//
// What is left out counts as secure, null, empty or false. Other members are an error.
//
// `out` gets a JSON object, to be freed with `pve_tunnel_string_free`:
//
//   plane       way of RAM and live disks: "websocket", "tls", "tcp", "qemu"
//   offline     way of offline disks and volumes: "websocket", "tls", "tcp"
//   network     the migration network to use, or null
//   start       what to put into the worker's start command: {"statefile":"unix","type":"websocket"}, or
//               {"statefile":"tcp","type":"insecure"}, with "network" if one was given
//   privileges  what the user needs: [{"path":"/","privilege":"Sys.Modify","on":["source","target"]}]
//   warnings    array of sentences to show to the operator
//   reason      one sentence: why this plane
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is no such
// object; PROTOCOL if a name in `caps` is malformed; REFUSED if what was asked for cannot be had:
// insecure is never turned into anything else in silence. The message names the ways out.
//
// Threads: any.
//
// # Safety
//
// `input` is a C string, `out` is writable.
int32_t pve_tunnel_plan(const char *input, char **out);

// Says what the configuration of a node, /etc/pve/remote-migration.cfg, means for one migration.
// Does no I/O: the caller reads the file. remote-migration.cfg(5) says what may stand in it.
//
// `text` is its content, or NULL if there is no such file, which is the same as an empty one.
// `input` is a JSON object, on the source node:
//
//   side                "source"
//   remote              name or address of the target, as it is connected to
//   migration_type      "secure", "insecure", or null if the call does not say
//   migration_network   an ID of the configuration, a CIDR, an interface name, or null if the call
//                       does not say
//
// and on the target node:
//
//   side                "target"
//   migration_type      "secure" or "insecure": what the source will do
//   migration_network   what the source asks for: an ID of this node's configuration, a CIDR, an
//                       interface name, or null
//
// Other members are an error. An ID wins over an interface of the same name. Without a network,
// the source uses the configured network that is for the remote, if there is one.
//
// `out` gets a JSON object, to be freed with `pve_tunnel_string_free`. On the source:
//
//   migration_type      "secure" or "insecure"
//   migration_network   the ID of the configured network, or what the call gave, or null
//   configured          true if a configured network is used: then no privilege is needed for
//                       type and network
//   network             what to ask the target for: a CIDR, an interface name or an ID; or null
//   source_network      where this node's end must lie: a CIDR or an interface name; or null
//   require_encryption  true if the policy forbids clear text
//   public              true if clear text may go to publicly routable addresses
//   gateway             true if clear text may go through the default gateway
//   dead_peer_timeout   seconds, 1 to 3600
//   reason              one sentence: where this comes from
//
// On the target: `network` (a CIDR or an interface name of this node, or null for its own
// address), `configured`, `require_encryption`, `public` and `reason`.
//
// Errors: NULL_POINTER; TOO_LONG above 1 MiB; NOT_UTF8; INVALID_ARGUMENT if `input` is no such
// object, its remote no host or its network malformed, or if there is a mistake in `text`; REFUSED
// if the configuration does not permit what was asked for: a type that the network does not allow,
// clear text where the policy requires encryption, a network that is for other remotes, an ID that
// is none. Messages about `text` begin with the line, as in "line 7: unknown key 'foo' in network
// 'dc2'".
//
// Threads: any.
//
// # Safety
//
// `text` is NULL or a C string, `input` is a C string, `out` is writable.
int32_t pve_tunnel_configuration_select(const char *text, const char *input, char **out);

// Finds the address of this host that a migration uses.
//
// `network` is a CIDR such as "10.0.0.0/24" or "2001:db8::/64", an interface name, or NULL for the
// address that `node_name` resolves to. Only addresses of interfaces that are up count; temporary,
// deprecated, tentative and duplicate ones do not; there must be exactly one. Reads the kernel's
// list of addresses; without `network` it asks the system's resolver, which may block.
//
// `out` gets {"address":"192.0.2.7","prefix_len":24,"interface":"eth1","uri_host":"192.0.2.7"},
// where `uri_host` has brackets around IPv6 as URIs need them. To be freed with
// `pve_tunnel_string_free`.
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `network` or
// `node_name` is malformed; REFUSED if no address or more than one is left, with what was seen and
// why each lost; IO if the kernel or the resolver refused, or a signal handler ran meanwhile (it
// is not tried again, so that alarm works).
//
// Threads: any.
//
// # Safety
//
// `network` is NULL or a C string, `node_name` is a C string, `out` is writable.
int32_t pve_tunnel_network_address(const char *network, const char *node_name, char **out);

// Binds the first free port of 60000 to 60049 on exactly this address, and listens.
//
// `address` is a literal IPv4 or IPv6 address of this host. `fd` gets the listening TCP socket,
// close-on-exec and blocking, which belongs to the caller and is to be closed by the caller;
// `port` gets its port in host byte order.
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `address` is not
// one literal address; IO if it is not an address of this host or no port is free.
//
// Threads: any.
//
// # Safety
//
// `address` is a C string, `fd` and `port` are writable.
int32_t pve_tunnel_port_bind(const char *address, int *fd, uint16_t *port);

// Checks an endpoint that a migration target announced, before anything connects to it. Does no
// I/O.
//
// `input` is a JSON object: `migrate` ({"proto":"tcp","addr":"192.0.2.7","port":60000}) or
// `nbd_uri` ("nbd:192.0.2.7:60001:exportname=drive-scsi0"), exactly one of them; `network`, a CIDR
// or null; `allow_loopback`, true for tests only.
//
// `out` gets {"address":"192.0.2.7","port":60000,"uri":"tcp:192.0.2.7:60000"}, for `nbd_uri` with
// "export":"drive-scsi0". To be freed with `pve_tunnel_string_free`.
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is no such
// object or its `network` no CIDR; REFUSED if the endpoint is not a literal address with a port of
// 60000 to 60049 inside the network, or is loopback, multicast or unspecified.
//
// Threads: any.
//
// # Safety
//
// `input` is a C string, `out` is writable.
int32_t pve_tunnel_endpoint_check(const char *input, char **out);

// Checks whether guest data may go to an address in clear text, before anything connects to it.
// Asks the kernel which way it would send; sends nothing.
//
// `input` is a JSON object:
//
//   address         what the target announced: a literal address, IPv6 without brackets
//   network         null, or where that address has to be: a CIDR, or the name of an interface of this
//                   host, which data then leaves by
//   source_network  null, or where this host has to send from: a CIDR of its own address, or the name
//                   of the interface that data leaves by
//   public          true if the configuration allows publicly routable addresses
//   gateway         true if the configuration allows the default route, and, where `network` is an
//                   interface, addresses outside its networks
//
// All but `address` may be left out and count as null or false. Other members are an error.
//
// `out` gets a JSON object, to be freed with `pve_tunnel_string_free`:
//
//   address         the announced address
//   source          this host's address towards it
//   interface       the name of the interface that data leaves by
//   gateway         the router on the way, or null
//   scope           the range of `address`: "private", "unique-local", "shared", "link-local",
//                   "loopback", "documentation", "benchmarking" or "global"
//   warnings        array of sentences for log and operator, at least one: the first says that guest
//                   data travels in clear text, and where
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is no such
// object, or one of its networks is malformed; REFUSED, with the way out, if the address is not
// literal, is none of a single other host (loopback passes if `network` is a CIDR inside that range),
// or outside `network`, if either address is publicly routable, if only the default route leads there,
// or if this host would send from outside `source_network`; IO if there is no route or the kernel
// could not be asked, or a signal handler ran meanwhile (it is not tried again, so that alarm works).
//
// Threads: any.
//
// # Safety
//
// `input` is a C string, `out` is writable.
int32_t pve_tunnel_guard_check(const char *input, char **out);

// Runs the source's end of a tunnel until its input ends.
//
// Speaks the protocol of proxmox-websocket-tunnel, one JSON line for one JSON line: reads commands
// from `input`, writes answers to `output`, and one line for each thing worth telling to `log`, or
// nowhere if that is -1. Forwards' UNIX sockets are made with mode 0600 and removed at the end.
// Bad lines get an answer line that says so, and it goes on.
//
// `options` is NULL for the defaults, or a JSON object whose members are all optional:
//
//   mask               "zero" (the default) or "random": how frames over TLS are masked
//   connect_timeout    for TCP to connect, by default 10
//   handshake_timeout  for TLS, by default 10
//   upgrade_timeout    for the websocket upgrade, by default 20
//   ticket_timeout     for the worker to answer a ticket command, by default 30
//   dead_peer_timeout  for data to make no progress on a connection to the API, by default 60
//   end_with_parent    true: SIGTERM comes when the thread that forked this process ends (false)
//
// Times are in seconds, from 0.001 to 3600.
//
// Ends with 0 after the end of `input`. The descriptors (pipes, sockets, terminals, files) stay
// the caller's: they are not closed, and not made non-blocking.
//
// Meanwhile SIGHUP, SIGINT, SIGTERM, SIGALRM and SIGPIPE are blocked in the calling thread. One of
// the first four ends it, with IO; once everything is cleaned up and the signal mask restored, the
// signal is raised again, so that the caller's handler or the default action takes it. A reader
// that went away is an error and no SIGPIPE. Handlers are never touched. Resolving a host name
// starts a thread, which may live on until the resolver gives up.
//
// The process's soft limit on open descriptors is raised, as far as its hard limit allows.
//
// Errors: INVALID_ARGUMENT for a bad descriptor or bad options; NOT_UTF8; TOO_LONG above 1 MiB of
// options; PROTOCOL if the worker sends a line above 1 MiB; IO if `input` or `output` fail, a
// connection that was asked for could not be opened, the control connection ended before `input`
// did, or a signal came.
//
// Threads: any, and blocks it. Meant for a process forked for it. Several may run at once on
// different descriptors.
//
// # Safety
//
// `options` is NULL or a C string.
int32_t pve_tunnel_connector_run(int input, int output, int log, const char *options);

// Runs the target's end of direct connections until its worker has no more use for it.
//
// `control` is one end of a UNIX stream socket pair, the worker's line: a JSON line for a JSON
// line. The first line is this function's: where it listens and what the source needs to be let
// in (`protocol`, `plane`, `addresses`, `port`, `fingerprint`, `key`), or {"error":"..."}. Then it
// answers {"op":"forward","path":"/run/..."} with {"number":1}, {"op":"stat"} with counters, and
// {"op":"close"} with the last counters before it ends. One line for each thing worth telling goes
// to `log`, or nowhere if that is -1. docs/protocol.md describes all of it, and the connections.
//
// `options` is a JSON object:
//
//   plane              "tls" or "tcp"
//   network            CIDR or interface name to listen on, or null
//   node               name of this node, whose address counts without `network`
//   fingerprint        "tls": SHA-256 of the source's one-time certificate
//   public             true: "tcp" may listen on a publicly routable address, by default false
//   hello_timeout      for a connection to say who it is, by default 10
//   dead_peer_timeout  for the source to be silent, by default 60
//
// Times are in seconds, from 0.001 to 3600.
//
// Ends with 0 after `close` and after the end of `control`. It also ends when the process that
// forked this one dies, by SIGTERM from the kernel (PR_SET_PDEATHSIG). The descriptors stay the
// caller's: they are not closed, and not made non-blocking. Every descriptor that is not its own
// should have been closed before.
//
// Meanwhile SIGHUP, SIGINT, SIGTERM, SIGALRM and SIGPIPE are blocked in the calling thread. One of
// the first four ends it, with IO; once everything is cleaned up and the signal mask restored, the
// signal is raised again. Handlers are never touched.
//
// The process's soft limit on open descriptors is raised, as far as its hard limit allows.
//
// Errors: NULL_POINTER, NOT_UTF8, TOO_LONG above 1 MiB, INVALID_ARGUMENT for bad options or
// descriptors; REFUSED if there is no address to listen on, or clear text may not be received
// there; IO if no port is free, `control` fails, or a signal came.
//
// Threads: any, and blocks it. Meant for a process forked for it.
//
// # Safety
//
// `options` is a C string.
int32_t pve_tunnel_listener_run(int control, int log, const char *options);

// Decides what a tunnel worker on the target does with a request about direct connections. Does no
// I/O: the caller reads the configuration and carries the action out. docs/protocol.md describes the
// requests.
//
// `text` is the content of the configuration, or NULL if there is no such file. `input` is a JSON
// object:
//
//   direct      the request: the property `direct` of the worker's command, as it arrived
//   file        path of the configuration, for messages
//   unreadable  why the configuration could not be read, or null
//   node        name of this node
//   user        user of the API that the worker runs for, for messages, or null
//   allowed     whether the user has the privilege of an earlier "check", or null
//   listener    "none", "running" or "ended"
//   sockets     paths of the UNIX sockets that the worker has for this migration
//
// `out` gets a JSON object, to be freed with `pve_tunnel_string_free`:
//
//   {"do":"check","path":"/","privilege":"Sys.Modify"}
//               look the privilege up, then call again with the result in `allowed`
//   {"do":"reply","reply":{...}}
//               answer the source
//   {"do":"listen","options":{...}}
//               start pve_tunnel_listener_run with these options; its first line is the answer
//   {"do":"ask","request":{"op":"forward","path":"/run/..."}}
//               send the request to the listener; its line is the answer
//   {"do":"close"}
//               as "ask" with {"op":"close"}; then the listener ends
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is not such an
// object; PROTOCOL if the request is malformed; REFUSED if it is not allowed.
//
// Threads: any.
//
// # Safety
//
// `text` is NULL or a C string, `input` is a C string, `out` is writable.
int32_t pve_tunnel_seam_decide(const char *text, const char *input, char **out);

// Checks what a listener answered, before the worker sends it to the source.
//
// `operation` is "open" for the listener's first line, else "forward", "stat" or "close". `answer` is
// the line. `out` gets the answer with the known members only, to be freed with
// `pve_tunnel_string_free`.
//
// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; PROTOCOL if a member is missing or malformed.
// The message names the member and does not contain its value.
//
// Threads: any.
//
// # Safety
//
// `operation` and `answer` are C strings, `out` is writable.
int32_t pve_tunnel_seam_answer(const char *operation, const char *answer, char **out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PVE_TUNNEL_H */
