//! A packet of a TUN device, and the segments that it consists of.
//!
//! The kernel gives the device TCP data in packets of up to 64 KiB (TSO). A network card would split
//! such a packet into segments of the size of the MTU, and a network would lose segments. So a
//! packet can be reduced to a range of its segments.

use std::ops::Range;

/// The length of struct virtio_net_hdr, which precedes the IP packet (`linux/virtio_net.h`).
const PREFIX: usize = 10;

/// Fields of struct virtio_net_hdr.
const SPLIT_KIND: usize = 1;
const SEGMENT_SIZE: usize = 4;

/// VIRTIO_NET_HDR_GSO_TCPV4, without the flag for ECN.
const TCP_V4: u8 = 1;
const ECN: u8 = 0x80;

/// Fields of the IPv4 header (RFC 791) and the TCP header (RFC 9293).
const TOTAL_LENGTH: usize = 2;
const IDENTIFICATION: usize = 4;
const CHECKSUM: usize = 10;
const SEQUENCE: usize = 4;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;

const FIN_AND_PSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

pub(super) struct Packet {
    bytes: Vec<u8>,
    /// None for a packet that is not split.
    tcp: Option<Tcp>,
}

/// The layout of a TCP packet that consists of segments.
#[derive(Clone, Copy)]
struct Tcp {
    /// The offset of the TCP header.
    header: usize,
    /// The offset of the data.
    data: usize,
    /// The most bytes of data in a segment.
    most: usize,
}

impl Packet {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let tcp = Tcp::of(&bytes);
        Self { bytes, tcp }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The length of each segment's IP packet.
    pub(super) fn segments(&self) -> impl Iterator<Item = usize> {
        let length = self.bytes.len();
        let (headers, data, most) = match self.tcp {
            Some(tcp) => (tcp.data - PREFIX, length - tcp.data, tcp.most),
            None => (length.saturating_sub(PREFIX), 0, 1),
        };
        let count = data.div_ceil(most).max(1);
        (0..count).map(move |index| headers + most.min(data - (index * most).min(data)))
    }

    /// The packet with only these of its segments, of which there is at least one.
    pub(super) fn part(&self, segments: &Range<usize>) -> Vec<u8> {
        let Some(tcp) = self.tcp else {
            return self.bytes.clone();
        };
        let length = self.bytes.len();
        let start = tcp.data + segments.start * tcp.most;
        let end = length.min(tcp.data + segments.end * tcp.most);
        let mut part = [&self.bytes[..tcp.data], &self.bytes[start..end]].concat();
        if segments.len() == 1 {
            part[SPLIT_KIND] = 0;
            put(&mut part, SEGMENT_SIZE, 0_u16.to_ne_bytes());
        }
        if start > tcp.data {
            part[tcp.header + FLAGS] &= !CWR;
        }
        if end < length {
            part[tcp.header + FLAGS] &= !FIN_AND_PSH;
        }
        let sequence = tcp.header + SEQUENCE;
        let before = u32::try_from(start - tcp.data).unwrap();
        let number = u32::from_be_bytes(get(&part, sequence)).wrapping_add(before);
        put(&mut part, sequence, number.to_be_bytes());
        let number = u16::from_be_bytes(get(&part, PREFIX + IDENTIFICATION));
        let number = number.wrapping_add(u16::try_from(segments.start).unwrap());
        put(&mut part, PREFIX + IDENTIFICATION, number.to_be_bytes());
        tcp.set_length(&mut part);
        part
    }
}

impl Tcp {
    fn of(bytes: &[u8]) -> Option<Self> {
        let version = bytes.get(PREFIX)?;
        if bytes[SPLIT_KIND] & !ECN != TCP_V4 || version >> 4 != 4 {
            return None;
        }
        let header = PREFIX + usize::from(version & 0xf) * 4;
        let data = header + usize::from(bytes.get(header + DATA_OFFSET)? >> 4) * 4;
        let most = usize::from(u16::from_ne_bytes(get(bytes, SEGMENT_SIZE)));
        (most > 0 && data < bytes.len()).then_some(Self { header, data, most })
    }

    /// Sets the length of the IP packet, and its header's checksum. TCP's checksum stays: the kernel
    /// has marked it as incomplete, so the receiving kernel does not verify it.
    fn set_length(self, part: &mut [u8]) {
        let total = u16::try_from(part.len() - PREFIX).unwrap();
        put(part, PREFIX + TOTAL_LENGTH, total.to_be_bytes());
        put(part, PREFIX + CHECKSUM, [0, 0]);
        let checksum = !sum(&part[PREFIX..self.header]);
        put(part, PREFIX + CHECKSUM, checksum.to_be_bytes());
    }
}

/// The ones' complement sum of 16 bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}
