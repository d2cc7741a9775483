//! Two nodes, each with a network namespace of its own, and a cable between them that can be cut.

use crate::namespace::{Elsewhere, add_addresses, run};
use crate::seam::{Crossing, Seam};
use crate::{listener::Listener, seam};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The addresses of this node and of the other one.
pub const NEAR: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub const FAR: [&str; 2] = ["10.77.0.2", "fd77::2"];

/// An address on the cable that nobody has, in each family.
pub const NOBODY: [&str; 2] = ["10.77.0.9", "fd77::9"];

const MAC_NEAR: &str = "02:00:00:00:77:01";
const MAC_FAR: &str = "02:00:00:00:77:02";
const MAC_NOBODY: &str = "02:00:00:00:77:ff";

/// The cable, to be made in a namespace of one's own. Both ends are called mig0.
#[derive(Clone)]
pub struct Cable {
    other: Elsewhere,
}

impl Cable {
    pub fn new() -> Self {
        let other = Elsewhere::new();
        let far = other.thread();
        run(&format!(
            "ip link add mig0 address {MAC_NEAR} type veth peer name mig0 address {MAC_FAR} netns {far}"
        ));
        let cable = Self { other };
        run("ip link set mig0 up");
        cable.there(|| {
            run("ip link set mig0 up");
            plug(FAR);
        });
        plug(NEAR);
        cable.mend();
        cable
    }

    /// Does something on the other node, and waits for it. Threads and programs that it starts stay
    /// there.
    pub fn there<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.other.there(job)
    }

    /// From now on every packet is lost, either way, and nobody is told: it goes to a card that
    /// nobody has.
    pub fn cut(&self) {
        self.lead_to(MAC_NOBODY, MAC_NOBODY);
    }

    /// The opposite.
    pub fn mend(&self) {
        self.lead_to(MAC_FAR, MAC_NEAR);
    }

    fn lead_to(&self, here: &'static str, there: &'static str) {
        leads(FAR, here);
        self.there(move || leads(NEAR, there));
    }

    /// A seam whose listener is on the other node. The control plane does not use the cable.
    pub fn seam(&self) -> Seam {
        let cable = self.clone();
        Seam::starting(move |options| cable.there(move || Listener::start(options)))
    }

    /// Both nodes after their negotiation, with forwards over the cable.
    pub fn crossing(&self, plane: &str, dead_peer_timeout: u64) -> Crossing {
        let fields = json!({ "dead_peer_timeout": dead_peer_timeout });
        Crossing::on(plane, self.seam(), &wish(plane, &fields))
    }
}

/// Addresses that nobody answers for, and from which nothing comes back either.
pub fn filtered(addresses: [&str; 2]) {
    leads(addresses, MAC_NOBODY);
}

fn plug([v4, v6]: [&str; 2]) {
    add_addresses("mig0", &[&format!("{v4}/24"), &format!("{v6}/64")]);
}

fn leads(addresses: [&str; 2], mac: &str) {
    for address in addresses {
        run(&format!(
            "ip neigh replace {address} lladdr {mac} dev mig0 nud permanent"
        ));
    }
}

/// What a caller on this node wishes for, with other or more fields.
pub fn wish(plane: &str, fields: &Value) -> Value {
    let kind = match plane {
        "tls" => "secure",
        _ => "insecure",
    };
    let network = "10.77.0.0/24";
    let mut all = json!({
        "migration_network": network, "network": network, "source_network": network,
    });
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    seam::wish_with(kind, &all)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
