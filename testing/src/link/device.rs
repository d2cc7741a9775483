//! A TUN device.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

/// The size of the largest packet that the kernel sends to a device, in bytes, with the kernel's
/// header (struct virtio_net_hdr).
const LARGEST: usize = (64 << 10) + 10;

/// A TUN device to which the kernel sends large packets with partial checksums, as to a network
/// card with these offloads. The kernel removes the device when its last descriptor is closed.
pub struct Device(File);

impl Device {
    /// Creates a device with this name in the network namespace of this thread.
    #[allow(unsafe_code)]
    pub fn new(name: &str) -> io::Result<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // SAFETY: a struct of numbers, for which zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        assert!(name.len() < request.ifr_name.len(), "{name}");
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
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
        Ok(Self(device))
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Waits for the next packet that the node sends. Fails when the device is gone.
    pub(super) fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; LARGEST];
        let length = self.0.read(&mut buffer)?;
        buffer.truncate(length);
        buffer.shrink_to_fit();
        Ok(buffer)
    }

    /// Gives the node a packet.
    pub(super) fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.0.write(packet).map(drop)
    }
}
