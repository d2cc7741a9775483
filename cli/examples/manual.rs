//! Writes what is made of the command's definitions: manual pages, and completions for shells.
//!
//! `cargo run -p pve-tunnel-cli --example manual -- DIRECTORY DATE`: pages go to `DIRECTORY/man/man1`, completions to
//! `DIRECTORY/completions`. The date is for the pages' footer. It is an argument because the same
//! sources have to give the same pages on any day.

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

const SECTION: &str = "1";

/// What the command's own page says besides its definitions.
const OVERVIEW: &str = "Guests move by qm remote-migrate and pct remote-migrate, as ever. This command looks after \
     what makes that fast. Which way the guest's data takes then, what is encrypted, which ports it needs and what \
     to choose is described in pve-tunnel-planes(7); which networks it takes is configured in remote-migration.cfg(5).";

/// How every command ends.
const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "Success."),
    (
        "1",
        "Failure. Standard error says what was tried, and why it failed.",
    ),
    ("2", "Wrong arguments. Nothing was done."),
];

const FILES: [(&str, &str); 1] = [(
    "/etc/pve/remote-migration.cfg",
    "Networks and policy of migrations to other clusters; see remote-migration.cfg(5).",
)];

/// Pages that are not made here.
const SEE_ALSO: [(&str, &str); 4] = [
    ("pve-tunnel-planes", "7"),
    ("remote-migration.cfg", "5"),
    ("qm", "1"),
    ("pct", "1"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [directory, date] = arguments.as_slice() else {
        return complain("usage: manual DIRECTORY DATE");
    };
    match write_all(Path::new(directory), date) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("cannot write into '{directory}': {error}")),
    }
}

fn complain(text: &str) -> ExitCode {
    // With standard error gone, there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::FAILURE
}

fn write_all(directory: &Path, date: &str) -> io::Result<()> {
    // `help COMMAND` is not worth a page: it shows the command's own.
    let mut command = pve_tunnel_cli::definition()
        .disable_help_subcommand(true)
        .subcommand_help_heading("COMMANDS")
        .subcommand_value_name("COMMAND")
        .mut_subcommands(without_full_stop);
    command.build();

    let pages = directory.join("man/man1");
    fs::create_dir_all(&pages)?;
    for page in pages_of(&command) {
        let path = pages.join(format!("{}.{SECTION}", name(page)));
        fs::write(path, render(page, &command, date)?)?;
    }

    let completions = directory.join("completions");
    fs::create_dir_all(&completions)?;
    let mut command = pve_tunnel_cli::definition();
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, &completions)?;
    }
    Ok(())
}

/// A line that says what a command does, as it stands behind the command's name.
fn without_full_stop(command: Command) -> Command {
    match command.get_about().map(ToString::to_string) {
        Some(about) => command.about(about.trim_end_matches('.').to_owned()),
        None => command,
    }
}

/// The command, and all below it that users are shown.
fn pages_of(command: &Command) -> Vec<&Command> {
    let shown = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set());
    std::iter::once(command)
        .chain(shown.flat_map(pages_of))
        .collect()
}

/// As in `pve-tunnel-connect`.
fn name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn render(page: &Command, root: &Command, date: &str) -> io::Result<String> {
    let man = Man::new(page.clone())
        .section(SECTION)
        .date(date)
        .source(format!(
            "{} {}",
            root.get_name(),
            root.get_version().unwrap_or_default()
        ))
        .manual(root.get_name());
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    // As pod2man lays out the other pages: terminals are too narrow for justified text.
    Roff::new()
        .control("nh", [])
        .control("ad", ["l"])
        .to_writer(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if name(page) == name(root) {
        let mut overview = Roff::new();
        overview.control("PP", []).text([roman(OVERVIEW)]);
        overview.to_writer(&mut out)?;
    }
    man.render_options_section(&mut out)?;
    if page.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    more(page, root).to_writer(&mut out)?;
    Ok(tidy(&String::from_utf8_lossy(&out)))
}

/// Each part comes with the same definition of an apostrophe, which is needed once; what clap_mangen
/// makes of a distance between lines is none of mandoc's; and indented lines stay lines.
fn tidy(roff: &str) -> String {
    let apostrophe = Roff::new().render();
    let rest = roff
        .replace(&apostrophe, "")
        .replace(".br\n\n.br\n", ".sp\n");
    let mut tidy = apostrophe;
    let mut inside = false;
    for line in rest.lines() {
        if line.starts_with("  ") != inside {
            inside = !inside;
            tidy += if inside { ".nf\n" } else { ".fi\n" };
        }
        tidy += line;
        tidy += "\n";
    }
    tidy
}

/// What clap does not know of.
fn more(page: &Command, root: &Command) -> Roff {
    let mut roff = Roff::new();
    let mut table = |title: &str, items: &[(&str, &str)]| {
        roff.control("SH", [title]);
        for (term, meaning) in items {
            roff.control("TP", []).text([bold(*term)]);
            roff.text([roman(*meaning)]);
        }
    };
    table("EXIT STATUS", &EXIT_STATUS);
    if name(page) == name(root) {
        table("FILES", &FILES);
    }

    roff.control("SH", ["SEE ALSO"]);
    roff.text(references(page, root));
    roff
}

/// All pages of the command but this one, then those of others.
fn references(page: &Command, root: &Command) -> Vec<Inline> {
    let ours = pages_of(root);
    let ours = ours
        .iter()
        .map(|other| (name(other), SECTION))
        .filter(|(other, _)| *other != name(page));
    let mut line = Vec::new();
    for (name, section) in ours.chain(SEE_ALSO) {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.push(bold(name));
        line.push(roman(format!("({section})")));
    }
    line
}
