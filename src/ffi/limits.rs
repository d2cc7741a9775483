//! Limits that a caller has to keep, for C.

use crate::configuration::MAX_FILE;
use crate::process::MAX_LINE;

/// Most bytes of the configuration, /etc/pve/remote-migration.cfg.
pub const CONFIGURATION_MAX: usize = 1_048_576;

/// Most bytes of a line from or to a connector or listener, without its newline.
pub const LINE_MAX: usize = 1_048_576;

// cbindgen copies literals only.
const _: () = assert!(CONFIGURATION_MAX == MAX_FILE && LINE_MAX == MAX_LINE);
