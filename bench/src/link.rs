//! A link between two nodes. `tc tbf` limits its rate, and a relay that holds every packet for a
//! while adds the delay.
//!
//! Each node is a network namespace with a TUN device. The relay moves packets, not connections, so
//! the two kernels grow their TCP windows as on a real link.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use testing::cable::{SOURCE_ADDRESSES, TARGET_ADDRESSES};
use testing::namespace::{NamespaceThread, run};

/// The rate limit of each node. The burst holds two of the largest packets: the kernel would split
/// them only at a network card. The queue is about as long as a switch's.
const SHAPER: &str = "tbf rate 1gbit burst 128kb latency 20ms";

/// The most packets that are in transit in one direction. Further packets are dropped. With
/// full-size frames, this is five times what the link carries in 20 ms.
const IN_TRANSIT: usize = 8192;

/// The size of the largest packet, in bytes, with the kernel's header (struct virtio_net_hdr).
const PACKET: usize = (64 << 10) + 10;

/// The link. The near node is the network namespace of the thread that creates it.
pub struct Link {
    far: NamespaceThread,
    /// The delay of each direction, in nanoseconds.
    delay: Arc<AtomicU64>,
    /// The kernel removes a TUN device when its last descriptor is closed.
    _ends: [File; 2],
}

impl Link {
    pub fn new() -> io::Result<Self> {
        let near_end = configure_end(SOURCE_ADDRESSES[0])?;
        let far = NamespaceThread::new();
        let far_end = far.execute(|| configure_end(TARGET_ADDRESSES[0]))?;
        let delay = Arc::<AtomicU64>::default();
        relay(near_end.try_clone()?, far_end.try_clone()?, &delay);
        relay(far_end.try_clone()?, near_end.try_clone()?, &delay);
        Ok(Self {
            far,
            delay,
            _ends: [near_end, far_end],
        })
    }

    /// Sets the round-trip time for packets that are sent after this call. Each direction gets half
    /// of it.
    pub fn set_round_trip(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap();
        self.delay.store(nanoseconds / 2, Ordering::Relaxed);
    }

    /// The namespace of the far node.
    pub fn far(&self) -> &NamespaceThread {
        &self.far
    }
}

impl Drop for Link {
    /// The relay's threads end when the devices are gone.
    fn drop(&mut self) {
        run("ip link del mig0");
        self.far.execute(|| run("ip link del mig0"));
    }
}

/// Creates and configures the device mig0 in this thread's namespace.
fn configure_end(address: &str) -> io::Result<File> {
    let device = open_device()?;
    // IPv6 would send packets of its own.
    std::fs::write("/proc/sys/net/ipv6/conf/mig0/disable_ipv6", "1")?;
    // Otherwise a connection would start with metrics that the kernel kept from an earlier one.
    std::fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1")?;
    run("ip link set mig0 up");
    run(&format!("tc qdisc replace dev mig0 root {SHAPER}"));
    run(&format!("ip addr add {address}/24 dev mig0"));
    // The route selects CUBIC. In a namespace of its own, the sysctl accepts only algorithms that
    // every user may select.
    run(&format!(
        "ip route replace 10.77.0.0/24 dev mig0 src {address} congctl cubic"
    ));
    Ok(device)
}

/// Opens a TUN device to which the kernel sends large packets with partial checksums, as to a
/// network card with these offloads.
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

/// Starts the threads that move packets from one end to the other.
fn relay(from: File, to: File, delay: &Arc<AtomicU64>) {
    let (queue, packets) = sync_channel(IN_TRANSIT);
    let delay = delay.clone();
    thread::spawn(move || read_packets(from, &queue, &delay));
    thread::spawn(move || write_packets(to, &packets));
}

/// A packet, and when it is due at the other end.
type Packet = (Instant, Vec<u8>);

fn read_packets(mut from: File, queue: &SyncSender<Packet>, delay: &AtomicU64) {
    let mut buffer = vec![0; PACKET];
    while let Ok(length) = from.read(&mut buffer) {
        let due = Instant::now() + Duration::from_nanos(delay.load(Ordering::Relaxed));
        let packet = (due, buffer[..length].to_vec());
        if let Err(TrySendError::Disconnected(_)) = queue.try_send(packet) {
            return;
        }
    }
}

fn write_packets(mut to: File, packets: &Receiver<Packet>) {
    for (due, packet) in packets {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write(&packet).is_err() {
            return;
        }
    }
}
