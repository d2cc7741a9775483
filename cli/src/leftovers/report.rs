//! The text that `leftovers` prints without `--json`.

use super::decide::{Leftover, Leftovers};
use crate::text::wrapped;
use std::fmt;

/// When the commands must not be run.
const CAUTION: &str = "Do not run a command while a migration of the guest is in progress. This \
    command checks the tasks of this node and of its cluster, but not those of the other cluster: \
    look at the running tasks there first. Check each condition: some commands destroy data.";

/// What was checked.
const SCOPE: &str = "Checked were the guests, tasks, sockets and processes of this node, and the \
    storages that it can use. Run this on the other node of the migration, too, and again after the \
    removal of a guest: volumes that its configuration did not name are listed then.";

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for each in &self.in_progress {
            let text = format!(
                "In progress: {} of guest {}. Nothing of this guest is listed.",
                each.task, each.guest
            );
            f.write_str(&wrapped("", &text))?;
        }
        match self.leftovers.as_slice() {
            [] if self.unchecked.is_empty() => writeln!(f, "Nothing was found on {}.", self.node)?,
            [] => {}
            leftovers => {
                f.write_str(&wrapped("", CAUTION))?;
                for (index, leftover) in leftovers.iter().enumerate() {
                    write!(f, "\n{}", Numbered(index + 1, leftover))?;
                }
                writeln!(f)?;
            }
        }
        for part in &self.unchecked {
            f.write_str(&wrapped("NOT CHECKED: ", part))?;
        }
        f.write_str(&wrapped("", SCOPE))
    }
}

struct Numbered<'a>(usize, &'a Leftover);

impl fmt::Display for Numbered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, leftover) = self;
        f.write_str(&wrapped(&format!("{number:>2}. "), &leftover.found))?;
        f.write_str(&wrapped("    ", &leftover.meaning))?;
        for remedy in &leftover.remedies {
            if let Some(condition) = &remedy.condition {
                f.write_str(&wrapped("    ", condition))?;
            }
            // A command is not wrapped, so that it can be copied.
            for command in &remedy.commands {
                writeln!(f, "        {command}")?;
            }
        }
        Ok(())
    }
}
