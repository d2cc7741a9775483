//! `bench/planes.svg`: speed, and pveproxy's CPU time, by plane. It is narrow enough for README.md,
//! and adapts its colours to a dark page.

use super::layout::{LINE, MARGIN, MIDDLE};
use super::svg::Svg;
use crate::results::Results;
use crate::row::{Costs, Row, STOCK};
use crate::text::short;

const WIDTH: f64 = 800.0;

/// The columns: the names of the planes, and the bars of both measurements. A figure follows each
/// bar.
const SPEED: f64 = MARGIN + 200.0;
const COST: f64 = SPEED + 330.0;
const LONGEST_SPEED: f64 = 240.0;
const LONGEST_COST: f64 = 170.0;

/// The distance from one bar to the next.
const ROW: f64 = 20.0;

const STYLE: &str = "text{font-family:sans-serif;font-size:12px;fill:#222222}\
    .page{fill:#ffffff}.group{font-weight:bold}.small{font-size:11px;fill:#595959}\
    .stock{fill:#d55e00}.tunnel{fill:#0072b2}.axis{stroke:#8c8c8c}\
    @media(prefers-color-scheme:dark){text{fill:#eeeeee}.small{fill:#b0b0b0}\
    .page{fill:#161b22}.stock{fill:#e69f00}.tunnel{fill:#56b4e9}}";

const NOTE: &str = "Stock at best: the real pveproxy, fed by pve-tunnel's connector. It serves a \
    stream on one core.";

/// What is moved, and the planes that move it.
struct Group<'a> {
    title: &'a str,
    planes: Vec<Plane<'a>>,
}

struct Plane<'a> {
    label: String,
    /// In MB/s.
    speed: f64,
    costs: &'a Costs,
    is_stock: bool,
}

impl Plane<'_> {
    /// The CPU time of pveproxy, in s/GiB. It is zero if pveproxy is not in the path.
    fn cost(&self) -> f64 {
        self.costs.get("pveproxy").copied().unwrap_or_default()
    }
}

/// The picture; none if neither the case `guest` nor `planes` has been measured.
pub fn render(results: &Results) -> Option<String> {
    let groups = groups(&results.rows);
    let planes = || groups.iter().flat_map(|group| &group.planes);
    let fastest = planes().map(|plane| plane.speed).fold(0.0, f64::max);
    let dearest = planes().map(Plane::cost).fold(0.0, f64::max);
    if fastest == 0.0 {
        return None;
    }
    let mut svg = Svg::default();
    let mut y = MARGIN + MIDDLE;
    svg.text([SPEED, y], "group", "MB/s");
    svg.text([COST, y], "group", "pveproxy's CPU seconds per GiB");
    for group in &groups {
        svg.text([MARGIN, y], "group", group.title);
        let top = y + ROW / 2.0 - MIDDLE;
        for plane in &group.planes {
            y += ROW;
            svg.text([MARGIN, y], "", &plane.label);
            let class = if plane.is_stock { "stock" } else { "tunnel" };
            let speed = plane.speed / fastest * LONGEST_SPEED;
            let cost = match plane.cost() {
                0.0 => 0.0,
                cost => cost / dearest * LONGEST_COST,
            };
            for (x, length, value) in [(SPEED, speed, plane.speed), (COST, cost, plane.cost())] {
                svg.bar_of_class([x, y - MIDDLE], length, class);
                svg.text([x + length + 6.0, y], "", &short(value));
            }
        }
        let bottom = y + ROW / 2.0 - MIDDLE;
        for x in [SPEED, COST] {
            svg.line_of_class([x, top], [x, bottom], "axis");
        }
        y += ROW + LINE / 2.0;
    }
    for note in [NOTE, &machine(results)] {
        svg.text([MARGIN, y], "small", note);
        y += LINE;
    }
    Some(svg.finish(WIDTH, y + MARGIN - LINE, STYLE))
}

/// RAM and disk of a guest. If these have not been measured with pveproxy, a single stream.
fn groups(rows: &[Row]) -> Vec<Group<'_>> {
    let guest = || rows.iter().filter(|row| row.case == "guest");
    let has_stock = guest().any(|row| row.peer == STOCK);
    let stream: Vec<&Row> = rows.iter().filter(|row| row.case == "planes").collect();
    if !has_stock && !stream.is_empty() {
        let stream = stream.into_iter().filter(|row| row.unit == "MB/s");
        return stream.map(|row| group("One stream", [row])).collect();
    }
    let kinds = [("RAM of a guest", "RAM, "), ("Disk of a guest", "NBD, ")];
    kinds
        .into_iter()
        .map(|(title, kind)| {
            let of_kind = guest().filter(|row| row.name.starts_with(kind));
            // With a peer for each plane: the stock path if it was measured.
            let rows = of_kind.filter(|row| (row.peer == STOCK) == has_stock);
            group(title, rows)
        })
        .collect()
}

/// The planes of these rows, and the path without pve-tunnel of the first row.
fn group<'a>(title: &'a str, rows: impl IntoIterator<Item = &'a Row>) -> Group<'a> {
    let mut planes: Vec<Plane> = Vec::new();
    for row in rows {
        if planes.is_empty() && row.cpu.theirs.contains_key("pveproxy") {
            planes.push(Plane {
                label: format!("websocket ({STOCK})"),
                speed: row.theirs.median,
                costs: &row.cpu.theirs,
                is_stock: true,
            });
        }
        let name = row.name.rsplit(", ").next().unwrap_or(&row.name);
        planes.push(Plane {
            label: match name {
                "tls" => "tls (encrypted)".to_owned(),
                "tcp" => "tcp (clear text)".to_owned(),
                name => name.to_owned(),
            },
            speed: row.ours.median,
            costs: &row.cpu.ours,
            is_stock: false,
        });
    }
    Group { title, planes }
}

/// The machine, without its processor and its kernel.
fn machine(results: &Results) -> String {
    let cores = results.machine.get("cores").map(String::as_str);
    let cores = cores.unwrap_or("an unknown number of");
    format!(
        "Random bytes in memory. Both nodes share {cores} cores of one machine. {}",
        results.date
    )
}

#[cfg(test)]
mod tests {
    use super::super::svg::width;
    use super::*;
    use crate::row::Title;

    /// The size of the notes' letters, compared with other letters.
    const SMALL: f64 = 11.0 / 12.0;

    fn row(case: &str, name: &str, peer: &str) -> Row {
        let unit = "MB/s";
        let mut row = Row::new(Title { case, name, unit }, peer, &[1500.0], &[500.0], None);
        let cost = |process: &str| Costs::from([(process.to_owned(), 1.7)]);
        row.cpu.ours = cost("listener");
        row.cpu.theirs = match peer {
            STOCK | "websocket" => cost("pveproxy"),
            _ => cost("QEMU"),
        };
        row
    }

    /// What the bars show: title, label, speed and pveproxy's cost.
    fn bars(rows: &[Row]) -> Vec<String> {
        let groups = groups(rows);
        let bars = groups.iter().flat_map(|group| {
            let planes = group.planes.iter();
            planes.map(|plane| {
                let (label, speed, cost) = (&plane.label, plane.speed, plane.cost());
                format!("{}: {label}: {speed} {cost}", group.title)
            })
        });
        bars.collect()
    }

    #[test]
    fn planes_of_the_guest_follow_the_path_through_pveproxy() {
        let kinds = ["RAM", "NBD"].into_iter();
        let rows = kinds.flat_map(|kind| {
            ["tls", "tcp"].into_iter().flat_map(move |plane| {
                let name = format!("{kind}, {plane}");
                [row("guest", &name, "QEMU"), row("guest", &name, STOCK)]
            })
        });
        let rows: Vec<Row> = [row("planes", "tls", "websocket")]
            .into_iter()
            .chain(rows)
            .collect();
        let expected = ["RAM of a guest", "Disk of a guest"].map(|title| {
            [
                format!("{title}: websocket (stock at best): 500 1.7"),
                format!("{title}: tls (encrypted): 1500 0"),
                format!("{title}: tcp (clear text): 1500 0"),
            ]
        });
        assert_eq!(bars(&rows), expected.concat());
    }

    #[test]
    fn a_single_stream_replaces_a_guest_that_was_not_measured_with_pveproxy() {
        let rows = [
            row("planes", "tls", "websocket"),
            row("guest", "RAM, tls", "QEMU"),
        ];
        let expected = [
            "One stream: websocket (stock at best): 500 1.7",
            "One stream: tls (encrypted): 1500 0",
        ];
        assert_eq!(bars(&rows), expected);
    }

    #[test]
    fn every_recorded_text_fits_its_column() {
        let results = Results::read().unwrap();
        let groups = groups(&results.rows);
        let planes: Vec<&Plane> = groups.iter().flat_map(|group| &group.planes).collect();
        assert!(planes.len() > 1, "only {} planes", planes.len());
        let machine = machine(&results);
        let labels = planes
            .iter()
            .map(|plane| (plane.label.as_str(), SPEED - MARGIN));
        let titles = groups.iter().map(|group| (group.title, SPEED - MARGIN));
        let notes = [NOTE, &machine].map(|note| (note, (WIDTH - 2.0 * MARGIN) / SMALL));
        let figures = [
            ("10000", COST - SPEED - LONGEST_SPEED),
            ("10.0", WIDTH - COST - LONGEST_COST),
        ];
        for (text, space) in labels.chain(titles).chain(notes).chain(figures) {
            let width = width(text);
            assert!(width < space, "'{text}': {width} of {space} pixels");
        }
    }
}
