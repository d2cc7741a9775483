//! A link between two nodes: a rate by `tc tbf`, a delay by a relay that holds every packet.
//!
//! Each node is a network namespace with a TUN device. The relay moves packets, not connections:
//! what is between the two nodes' kernels is only time, and their windows grow as on a real link.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use testing::cable::{FAR, NEAR};
use testing::namespace::{Elsewhere, run};

/// What a node sends at most. The burst is two of the largest packets that a node gives away, which
/// it cuts into frames only at a card; the queue is a switch's.
const SHAPER: &str = "tbf rate 1gbit burst 128kb latency 20ms";

/// How many packets are on their way at most; further ones are lost. Of full frames it is five times
/// what fits into 20 ms at this rate.
const ON_THE_WAY: usize = 8192;

/// The largest packet, and what the kernel says about it in front (struct virtio_net_hdr).
const PACKET: usize = (64 << 10) + 10;

/// The link, to be made in a namespace of one's own, which is the near node.
pub struct Link {
    far: Elsewhere,
    /// Of each way, in nanoseconds.
    delay: Arc<AtomicU64>,
    /// A device is gone when nobody has it open.
    _ends: [File; 2],
}

impl Link {
    pub fn new() -> io::Result<Self> {
        let near_end = plug(NEAR[0])?;
        let far = Elsewhere::new();
        let far_end = far.there(|| plug(FAR[0]))?;
        let delay = Arc::<AtomicU64>::default();
        relay(near_end.try_clone()?, far_end.try_clone()?, &delay);
        relay(far_end.try_clone()?, near_end.try_clone()?, &delay);
        Ok(Self {
            far,
            delay,
            _ends: [near_end, far_end],
        })
    }

    /// How long a packet and its answer take from now on, half of it each way.
    pub fn set_round_trip(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap();
        self.delay.store(nanoseconds / 2, Ordering::Relaxed);
    }

    /// The far node.
    pub fn far(&self) -> &Elsewhere {
        &self.far
    }
}

impl Drop for Link {
    /// Without their devices, the relay's threads end.
    fn drop(&mut self) {
        run("ip link del mig0");
        self.far.there(|| run("ip link del mig0"));
    }
}

/// Makes this namespace's end.
fn plug(address: &str) -> io::Result<File> {
    let device = open_device()?;
    // No packet is counted that nobody measures.
    std::fs::write("/proc/sys/net/ipv6/conf/mig0/disable_ipv6", "1")?;
    // A connection would begin with what the one before has found out.
    std::fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1")?;
    run("ip link set mig0 up");
    run(&format!("tc qdisc replace dev mig0 root {SHAPER}"));
    run(&format!("ip addr add {address}/24 dev mig0"));
    // By the route: to a namespace, the kernel grants only what every user may have.
    run(&format!(
        "ip route replace 10.77.0.0/24 dev mig0 src {address} congctl cubic"
    ));
    Ok(device)
}

/// A TUN device of which the kernel wants packets as it would give them to a card.
#[allow(unsafe_code)]
fn open_device() -> io::Result<File> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: a struct of numbers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"mig0") {
        *to = *from as libc::c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq, which this is.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let offload = libc::c_ulong::from(libc::TUN_F_CSUM | libc::TUN_F_TSO4);
    // SAFETY: the descriptor is open, and the argument is a number.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, offload) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device)
}

/// Carries what one end sends to the other one.
fn relay(from: File, to: File, delay: &Arc<AtomicU64>) {
    let (way, arrivals) = sync_channel(ON_THE_WAY);
    let delay = delay.clone();
    thread::spawn(move || depart(from, &way, &delay));
    thread::spawn(move || arrive(to, &arrivals));
}

type Packet = (Instant, Vec<u8>);

fn depart(mut from: File, way: &SyncSender<Packet>, delay: &AtomicU64) {
    let mut buffer = vec![0; PACKET];
    while let Ok(length) = from.read(&mut buffer) {
        let due = Instant::now() + Duration::from_nanos(delay.load(Ordering::Relaxed));
        let packet = (due, buffer[..length].to_vec());
        if let Err(TrySendError::Disconnected(_)) = way.try_send(packet) {
            return;
        }
    }
}

fn arrive(mut to: File, arrivals: &Receiver<Packet>) {
    for (due, packet) in arrivals {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write(&packet).is_err() {
            return;
        }
    }
}
