//! Roles: the benchmark starts itself again as a process that does one thing, a listener for
//! example. The role's name is one of the arguments.

use crate::peer::bare;
use testing::role::listener_process;

/// Runs the role that the arguments name, and returns whether there was one.
pub fn run() -> bool {
    let listener: (&str, fn()) = ("listener_process", listener_process);
    let roles = bare::ROLES.iter().copied().chain([listener]);
    let role = std::env::args().find_map(|word| roles.clone().find(|(name, _)| *name == word));
    role.map(|(_, run)| run()).is_some()
}
