//! An emulated link between two nodes: rate, delay, loss, and packets that vanish because of their
//! size.
//!
//! Each node is a network namespace with a TUN device, `mig0`. A relay moves packets, not
//! connections, between the two devices, so the two kernels control their TCP connections as on a
//! real link. `tc netem` would do the same, but many kernels do not have it.
//!
//! | module | provides |
//! |---|---|
//! | `device` | a TUN device |
//! | `packet` | a packet, and the segments that it consists of |
//! | `conditions` | what happens to a packet: when it arrives, and which segments are lost |
//! | `relay` | the threads that move packets |

pub mod conditions;
pub mod device;
mod packet;
pub mod relay;

use crate::cable::{SOURCE_ADDRESSES, TARGET_ADDRESSES, plane_request};
use crate::listener::Listener;
use crate::namespace::{NamespaceThread, run, try_in_namespace};
use crate::role;
use crate::seam::{NegotiatedTunnel, Seam};
use conditions::Conditions;
use device::Device;
use relay::Relay;
use serde_json::{Value, json};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The name of the devices.
const NAME: &str = "mig0";

/// The direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    ToTarget,
    ToSource,
}

pub const BOTH: [Direction; 2] = [Direction::ToTarget, Direction::ToSource];

/// Runs a test on a new link, or reports that it is skipped. Its thread is the source.
#[track_caller]
pub fn on_link(test: impl FnOnce(&Link) + Send + 'static) {
    try_in_namespace(move || {
        let link = Link::new().map_err(|error| format!("cannot create TUN devices: {error}"))?;
        test(&link);
        Ok(())
    });
}

/// The link. The source is the network namespace of the thread that creates it.
pub struct Link {
    target: NamespaceThread,
    /// In the order of [`BOTH`].
    relays: [Relay; 2],
}

impl Link {
    /// A link with the default conditions and an MTU of 1500 bytes. Fails if the user may not
    /// create TUN devices.
    pub fn new() -> io::Result<Self> {
        let source_device = configured(SOURCE_ADDRESSES[0])?;
        let target = NamespaceThread::new();
        let target_device = target.execute(|| configured(TARGET_ADDRESSES[0]))?;
        let relays = Relay::between(source_device, target_device)?;
        Ok(Self { target, relays })
    }

    /// The target's namespace.
    pub fn target(&self) -> &NamespaceThread {
        &self.target
    }

    /// Changes the conditions of one direction for packets that are sent after this call.
    pub fn change(&self, direction: Direction, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.relay(direction).conditions());
    }

    /// Sets the round-trip time. Each direction gets half of it.
    pub fn set_round_trip(&self, time: Duration) {
        self.change_both(|conditions| conditions.delay = time / 2);
    }

    /// Sets the share of packets that are lost in each direction: 0.01 is 1 %.
    pub fn set_loss(&self, share: f64) {
        self.change_both(|conditions| conditions.loss = share);
    }

    /// Sets the rate of each direction, in bytes of IP packets per second.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.change_both(|conditions| conditions.rate = bytes_per_second);
    }

    /// Sets the MTU of both devices. Connections that are already open keep their segment size.
    pub fn set_mtu(&self, mtu: usize) {
        let command = format!("ip link set {NAME} mtu {mtu}");
        run(&command);
        self.target.execute(move || run(&command));
    }

    /// The number of packets that have passed or were lost so far in this direction. A large packet
    /// of the kernel counts as the packets into which a network card splits it.
    pub fn counts(&self, direction: Direction) -> Counts {
        self.relay(direction).counts()
    }

    /// A TCP connection with the system's settings, except that its congestion control is the
    /// route's: CUBIC. Returns the source's end and the target's end.
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        let listener = self
            .target
            .execute(|| TcpListener::bind((TARGET_ADDRESSES[0], 0)).unwrap());
        let source = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (source, listener.accept().unwrap().0)
    }

    /// A seam whose listener is at the target, in a thread. The control plane does not use the link.
    pub fn seam(&self) -> Seam {
        let target = self.target.clone();
        Seam::with_listeners(move |options| target.execute(move || Listener::start(options)))
    }

    /// A connector at the source and a listener at the target, each in a process of its own, after
    /// the negotiation of a plane. The program needs the role
    /// [`listener_process`](role::listener_process).
    pub fn tunnel(&self, plane: &str) -> NegotiatedTunnel {
        self.tunnel_with(plane, &json!({}), json!({}))
    }

    /// The same, with these fields of the request for a plane, and these options of the listener.
    pub fn tunnel_with(&self, plane: &str, request: &Value, listener: Value) -> NegotiatedTunnel {
        let seam = Seam::with_options(self.target.execute(role::listeners), listener);
        NegotiatedTunnel::on_plane(plane, seam, &plane_request(plane, request))
    }

    /// Waits until what was sent before is no longer in transit.
    pub fn wait_until_idle(&self) {
        // Heartbeats and acknowledgements of idle connections.
        const FEW: u64 = 30;
        const INTERVAL: Duration = Duration::from_millis(250);
        let limit = Instant::now() + Duration::from_secs(30);
        let passed = || self.counts(Direction::ToTarget).passed;
        loop {
            let before = passed();
            thread::sleep(INTERVAL);
            if passed() - before < FEW {
                return;
            }
            assert!(Instant::now() < limit, "the link is never idle");
        }
    }

    fn change_both(&self, change: impl Fn(&mut Conditions)) {
        for direction in BOTH {
            self.change(direction, &change);
        }
    }

    fn relay(&self, direction: Direction) -> &Relay {
        &self.relays[direction as usize]
    }
}

impl Drop for Link {
    /// The relay's threads end when the devices are gone.
    fn drop(&mut self) {
        run(&format!("ip link del {NAME}"));
        self.target.execute(|| run(&format!("ip link del {NAME}")));
    }
}

/// How many packets passed a direction of the link, and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub passed: u64,
    pub lost: u64,
}

/// Creates and configures the device in this thread's namespace.
fn configured(address: &str) -> io::Result<Device> {
    let device = Device::new(NAME)?;
    // IPv6 would send packets of its own.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6"), "1")?;
    // Otherwise a connection would start with metrics that the kernel kept from an earlier one.
    std::fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1")?;
    // The queue between the kernel and the relay must not be the limit.
    run(&format!("ip link set {NAME} up txqueuelen 4000"));
    run(&format!("ip addr add {address}/24 dev {NAME}"));
    // The route selects CUBIC. In a namespace of its own, the sysctl accepts only algorithms that
    // every user may select.
    run(&format!(
        "ip route replace 10.77.0.0/24 dev {NAME} src {address} congctl cubic"
    ));
    Ok(device)
}
