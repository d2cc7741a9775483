//! The names of this node's interfaces.

use super::{InterfaceAddress, Lookup, NetworkError, Spec};
use crate::scalar;

/// Most addresses or interfaces that an error lists. A router can have thousands.
pub(super) const MAX_LISTED: usize = 32;

/// An interface of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its alternative names, at most 127 bytes each (`ip link property add altname`). Debian gives
    /// one to each interface whose name does not fit, or which has several predictable names.
    pub alternative_names: Vec<String>,
}

impl Interface {
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.alternative_names.iter().any(|other| other == name)
    }

    fn describe(&self) -> String {
        let name = scalar::as_given(&self.name);
        match self.alternative_names.as_slice() {
            [] => name,
            names => format!("{name} ({})", scalar::as_given(&names.join(", "))),
        }
    }
}

/// The interfaces of these addresses, in their order.
pub(super) fn of_addresses(addresses: &[InterfaceAddress]) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for address in addresses {
        if !interfaces
            .iter()
            .any(|known| known.name == address.interface)
        {
            interfaces.push(Interface {
                name: address.interface.clone(),
                alternative_names: Vec::new(),
            });
        }
    }
    interfaces
}

/// The network with the interface's first name in place of an alternative one, as `ip` resolves it.
/// Addresses and routes of the kernel have the first name.
///
/// # Errors
/// [`NetworkError::NoInterface`], with those that exist; the errors of [`Lookup`].
pub(super) fn with_first_name(spec: Spec, lookup: &dyn Lookup) -> Result<Spec, NetworkError> {
    let Spec::Interface(name) = spec else {
        return Ok(spec);
    };
    let interfaces = lookup.interfaces()?;
    // The kernel does not allow an alternative name that is the first name of another interface.
    match interfaces.iter().find(|known| known.is_called(&name)) {
        Some(found) => Ok(Spec::Interface(found.name.clone())),
        None => Err(NetworkError::NoInterface {
            name,
            found: describe(&interfaces),
        }),
    }
}

fn describe(interfaces: &[Interface]) -> String {
    if interfaces.is_empty() {
        return "none".to_owned();
    }
    let listed: Vec<String> = interfaces
        .iter()
        .take(MAX_LISTED)
        .map(Interface::describe)
        .collect();
    match interfaces.len().saturating_sub(MAX_LISTED) {
        0 => listed.join(", "),
        more => format!("{}, and {more} more", listed.join(", ")),
    }
}
