//! Connections whose handshake is not over, and which of them gives way to a new one.
//!
//! Every connection costs a descriptor and memory before its peer has proven anything, so their
//! number is bounded. One more closes another one. A peer that opens many connections should only
//! close its own ones, so the address with the most of them loses its oldest one. A peer that has
//! presented the pinned certificate is the source, and gives way last.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// Most connections whose handshake is not over. On `tls` each takes about 18 KiB after its ClientHello,
/// so all of them take 9 MiB.
///
/// From one address at 2000 new connections in a second, each stays at least for 256 ms, which is
/// enough for a handshake (`tls`: three round trips) at a round trip of 80 ms.
pub(super) const MAX_HALF_OPEN: usize = 512;

/// Where a connection comes from: an IPv4 address, or an IPv6 network of 64 bits, which one peer can
/// have for itself.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[derive(Debug)]
struct Entry<T> {
    origin: IpAddr,
    /// The peer has presented the pinned certificate.
    certified: bool,
    value: T,
}

/// The connections by number, which grows with time.
#[derive(Debug)]
pub(super) struct HalfOpen<T>(BTreeMap<u64, Entry<T>>);

impl<T> Default for HalfOpen<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> HalfOpen<T> {
    /// Adds a new connection. Returns the one that gives way, if there are more than
    /// [`MAX_HALF_OPEN`].
    pub(super) fn add(&mut self, connection: u64, address: IpAddr, value: T) -> Option<T> {
        let entry = Entry {
            origin: origin(address),
            certified: false,
            value,
        };
        self.0.insert(connection, entry);
        if self.0.len() <= MAX_HALF_OPEN {
            return None;
        }
        let victim = self.victim()?;
        self.0.remove(&victim).map(|entry| entry.value)
    }

    /// The peer of a connection has presented the pinned certificate.
    pub(super) fn certify(&mut self, connection: u64) {
        if let Some(entry) = self.0.get_mut(&connection) {
            entry.certified = true;
        }
    }

    /// The handshake of a connection is over.
    pub(super) fn remove(&mut self, connection: u64) {
        self.0.remove(&connection);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn victim(&self) -> Option<u64> {
        // The new connection is among them.
        let candidates = || self.0.iter().filter(|(_, entry)| !entry.certified);
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (_, entry) in candidates() {
            *counts.entry(entry.origin).or_default() += 1;
        }
        let most = counts.values().max()?;
        // The oldest one: the map is in the order of age.
        candidates()
            .find(|(_, entry)| counts.get(&entry.origin) == Some(most))
            .map(|(connection, _)| *connection)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FULL: u64 = MAX_HALF_OPEN as u64;

    /// Fills the table from addresses, in turn. Connections have numbers from 0.
    fn full(addresses: &[&str]) -> HalfOpen<u64> {
        let mut table = HalfOpen::default();
        for (number, address) in (0..FULL).zip(addresses.iter().cycle()) {
            assert_eq!(table.add(number, address.parse().unwrap(), number), None);
        }
        table
    }

    fn add(table: &mut HalfOpen<u64>, number: u64, address: &str) -> Option<u64> {
        let victim = table.add(number, address.parse().unwrap(), number);
        assert_eq!(table.len(), MAX_HALF_OPEN);
        victim
    }

    #[test]
    fn the_address_with_the_most_connections_loses_its_oldest_one() {
        let attacker = "192.0.2.66";
        // The source's connections are the oldest ones.
        let mut table = HalfOpen::default();
        table.add(0, "10.0.0.1".parse().unwrap(), 0);
        for number in 1..FULL {
            table.add(number, attacker.parse().unwrap(), number);
        }
        for number in 0..2 * FULL {
            let victim = add(&mut table, FULL + number, attacker);
            assert_eq!(victim, Some(1 + number));
        }
        // A new connection of the source costs the attacker one.
        assert_eq!(add(&mut table, 9999, "10.0.0.1"), Some(1 + 2 * FULL));
    }

    #[test]
    fn addresses_with_equally_many_connections_lose_the_oldest_one() {
        let mut table = full(&["192.0.2.1", "192.0.2.2"]);
        assert_eq!(add(&mut table, 1000, "10.0.0.1"), Some(0));
        assert_eq!(add(&mut table, 1001, "10.0.0.2"), Some(1));
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_peer() {
        let addresses = [
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::ffff:0:0:3",
            "10.0.0.1",
        ];
        let mut table = full(&addresses);
        table.remove(0);
        table.add(600, "2001:db8:0:1::1".parse().unwrap(), 600);
        for expected in [1, 2, 4, 5, 6, 8] {
            let victim = add(&mut table, 1000 + expected, "2001:db8:0:2::1");
            assert_eq!(victim, Some(expected));
        }
        // An IPv4 address in IPv6 form is the IPv4 address.
        assert_eq!(
            origin("::ffff:10.0.0.1".parse().unwrap()),
            origin("10.0.0.1".parse().unwrap())
        );
    }

    #[test]
    fn connections_with_the_pinned_certificate_give_way_last() {
        let address = "127.0.0.1";
        let mut table = full(&[address]);
        for number in 0..FULL - 1 {
            table.certify(number);
        }
        assert_eq!(add(&mut table, 1000, address), Some(FULL - 1));
        table.certify(1000);
        assert_eq!(add(&mut table, 1001, address), Some(1001));
        table.remove(5);
        assert_eq!(table.add(1002, address.parse().unwrap(), 1002), None);
        table.certify(1002);
        // All others have the certificate.
        assert_eq!(add(&mut table, 1003, "10.0.0.1"), Some(1003));
    }
}
