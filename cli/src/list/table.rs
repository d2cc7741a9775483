//! The table that `pve-tunnel list` prints: two lines for each tunnel, at most 80 columns wide.

use super::{Listed, Listing, moved};
use crate::text::{COLUMNS, cut, wrapped};
use pve_tunnel::publication::{Role, TunnelState};
use pve_tunnel::quantity::{Size, Span, time_left};
use std::fmt;
use std::time::Duration;

pub(super) fn write(f: &mut fmt::Formatter<'_>, listing: &Listing) -> fmt::Result {
    if listing.tunnels.is_empty() && listing.unanswered.is_empty() {
        return writeln!(f, "no tunnels are running on this node");
    }
    if !listing.tunnels.is_empty() {
        let titles = [
            "SIDE",
            "GUEST",
            "PLANE",
            "MOVED",
            "RATE",
            "RUNNING FOR",
            "PID",
        ];
        writeln!(f, "{}", row(&titles.map(str::to_owned)))?;
    }
    for listed in &listing.tunnels {
        writeln!(f, "{}", row(&numbers(listed)))?;
        writeln!(f, "{}", cut(format!("  {}", peer(listed)), COLUMNS))?;
    }
    // In the order of process IDs. A process can have several tunnels.
    for same in listing.unanswered.chunk_by(|one, next| one == next) {
        let pid = same[0];
        let tunnels = match same.len() {
            1 => String::new(),
            count => format!(" for {count} tunnels"),
        };
        let text =
            format!("process {pid} does not answer{tunnels}: it may be suspended; see 'ps {pid}'");
        f.write_str(&wrapped("", &text))?;
    }
    Ok(())
}

fn row([side, guest, plane, moved, rate, time, pid]: &[String; 7]) -> String {
    format!("{side:6}  {guest:>9}  {plane:9}  {moved:>11}  {rate:>13}  {time:>11}  {pid:>7}")
}

fn numbers(listed: &Listed) -> [String; 7] {
    let tunnel = &listed.tunnel;
    let state = &tunnel.state;
    let unknown = || "-".to_owned();
    let side = match state.role {
        Role::Source => "source",
        Role::Target => "target",
    };
    let plane = state.plane.as_deref().map(|plane| cut(visible(plane), 9));
    [
        side.to_owned(),
        state.guest.map_or_else(unknown, |guest| guest.to_string()),
        plane.unwrap_or_else(unknown),
        Size(moved(tunnel)).to_string(),
        listed
            .rate
            .map_or_else(unknown, |rate| format!("{}/s", Size(rate))),
        Span(Duration::try_from_secs_f64(tunnel.seconds).unwrap_or_default()).to_string(),
        tunnel.pid.to_string(),
    ]
}

/// The other node, and what is left.
fn peer(listed: &Listed) -> String {
    let state = &listed.tunnel.state;
    let known = state.peer.as_deref().map(visible);
    let peer = match state.role {
        Role::Source => "to ",
        Role::Target => "from ",
    };
    let guest = state.peer_guest.map(|guest| format!("guest {guest} at "));
    let peer = format!(
        "{peer}{}{}",
        guest.unwrap_or_default(),
        known.unwrap_or_else(|| "a node that is not connected yet".to_owned())
    );
    match progress(state, moved(&listed.tunnel), listed.rate) {
        // What is left is more important than the end of a long address.
        Some(progress) => format!(
            "{}; {progress}",
            cut(peer, COLUMNS.saturating_sub(4 + progress.len()))
        ),
        None => peer,
    }
}

fn progress(state: &TunnelState, done: u64, rate: Option<u64>) -> Option<String> {
    // Nothing is known yet.
    let total = state.total.filter(|total| *total > 0)?;
    let percent = (u128::from(done) * 100 / u128::from(total.max(1))).min(100);
    let words = match state.total_is.as_deref() {
        Some("at least") => "at least ",
        _ => "about ",
    };
    let left = time_left(total.saturating_sub(done), rate.unwrap_or(0));
    let left = left.map(|left| format!(", {} left", Span(left)));
    Some(format!(
        "{percent} % of {words}{}{}",
        Size(total),
        left.unwrap_or_default()
    ))
}

/// Another process has written the text. A terminal must not interpret it.
fn visible(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GIB, tunnel};
    use super::*;
    use pve_tunnel::publication::Tunnel;

    fn listing(tunnels: Vec<(Tunnel, Option<u64>)>, unanswered: Vec<u32>) -> String {
        let tunnels = tunnels
            .into_iter()
            .map(|(tunnel, rate)| Listed { tunnel, rate })
            .collect();
        let listing = Listing {
            tunnels,
            unanswered,
        };
        listing.to_string()
    }

    #[test]
    fn the_table_has_two_lines_for_each_tunnel() {
        let mut source = tunnel(Role::Source, 12345);
        source.state.peer_guest = Some(200);
        source.state.peer = Some("192.0.2.7:60000".to_owned());
        source.state.total = Some(32 * GIB);
        source.state.total_is = Some("about".to_owned());
        let mut target = tunnel(Role::Target, 7);
        target.state.guest = None;
        target.state.plane = None;
        target.state.sent = 0;
        let printed = listing(vec![(source, Some(512 << 20)), (target, None)], vec![99]);
        let expected = "\
SIDE        GUEST  PLANE            MOVED           RATE  RUNNING FOR      PID
source        100  tls           12.0 GiB    512.0 MiB/s   3 min 20 s    12345
  to guest 200 at 192.0.2.7:60000; 37 % of about 32.0 GiB, 40 s left
target          -  -                  0 B              -   3 min 20 s        7
  from a node that is not connected yet
process 99 does not answer: it may be suspended; see 'ps 99'
";
        assert_eq!(printed, expected);
    }

    #[test]
    fn a_process_that_does_not_answer_has_one_line() {
        assert_eq!(
            listing(vec![], vec![7, 9, 9, 9]),
            "process 7 does not answer: it may be suspended; see 'ps 7'\n\
             process 9 does not answer for 3 tunnels: it may be suspended; see 'ps 9'\n"
        );
    }

    #[test]
    fn a_total_of_nothing_is_not_shown() {
        let mut source = tunnel(Role::Source, 7);
        source.state.peer = Some("192.0.2.7:8006".to_owned());
        source.state.total = Some(0);
        source.state.total_is = Some("at least".to_owned());
        let printed = listing(vec![(source, None)], vec![]);
        assert!(printed.ends_with("\n  to 192.0.2.7:8006\n"), "{printed}");
    }

    #[test]
    fn a_node_without_tunnels_has_one_line() {
        assert_eq!(
            listing(vec![], vec![]),
            "no tunnels are running on this node\n"
        );
    }

    #[test]
    fn every_line_fits_80_columns_and_has_no_control_characters() {
        let mut largest = tunnel(Role::Source, u32::MAX >> 10);
        largest.seconds = 364.0 * 86400.0;
        let state = &mut largest.state;
        state.guest = Some(999_999_999);
        state.peer_guest = Some(999_999_999);
        state.plane = Some("websocket\u{1b}[2J".to_owned());
        state.sent = u64::MAX;
        state.received = u64::MAX;
        state.total = Some(u64::MAX);
        state.total_is = Some("at least".to_owned());
        for peer in [
            "[2001:db8:1111:2222:3333:4444:5555:6666]:60049".to_owned(),
            format!("{}:8006", "x".repeat(253)),
            "\u{1b}]0;title\u{7}".to_owned(),
        ] {
            largest.state.peer = Some(peer.clone());
            let printed = listing(vec![(largest.clone(), Some(u64::MAX))], vec![u32::MAX; 99]);
            for line in printed.lines() {
                assert!(line.chars().count() <= COLUMNS, "{line}");
                assert!(!line.contains(char::is_control), "{line:?}");
            }
            assert!(
                printed.contains("100 % of at least 16384.0 PiB, 0 s left"),
                "{printed}"
            );
        }
    }
}
