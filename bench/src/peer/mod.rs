//! What pve-tunnel is compared with: other programs, and programs that do the minimum.
//!
//! | module | provides |
//! |---|---|
//! | `process` | a process that ends with the benchmark |
//! | `pair` | a client and a server with a TCP connection between them |
//! | `socat`, `stunnel` | such pairs of programs from Debian |
//! | `aggligator` | such a pair with several TCP connections between them |
//! | `bare` | such pairs of this program that only copy, splice or encrypt |
//! | `websocat` | a program that replaces the connector on the `websocket` plane |
//! | `node` | a target node with the real pveproxy or with the test node |

pub mod aggligator;
pub mod bare;
pub mod node;
mod pair;
mod process;
pub mod socat;
pub mod stunnel;
pub mod websocat;
