//! Generates the manual pages and the shell completions from the command's definition.
//!
//! `cargo run -p manual -- DIRECTORY DATE` writes pages to `DIRECTORY/man/man1` and completions to
//! `DIRECTORY/completions`. The date is printed in the footer of the pages. It is an argument so that
//! the same sources give the same pages on any day.

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

const SECTION: &str = "1";

/// A paragraph of the page of `pve-tunnel` that is not part of the definition.
const OVERVIEW: &str = "Guests are moved with qm remote-migrate and pct remote-migrate, with and without pve-tunnel. \
     This command switches the faster tunnel on and off. pve-tunnel-first-migration(7) shows the first migration step by \
     step. pve-tunnel-planes(7) describes the paths of the guest's data, \
     what is encrypted, which ports are needed, and what to choose. The networks are configured in \
     remote-migration.cfg(5).";

/// The exit codes of a page, except of those in [`exit_status`].
const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "Success."),
    ("1", "Failure. Standard error shows what failed, and why."),
    ("2", "Wrong arguments. Nothing was done."),
];

/// The exit codes of subcommands that report a state.
fn exit_status(page: &str) -> &'static [(&'static str, &'static str)] {
    match page {
        "pve-tunnel-check" => &[
            (
                "0",
                "Everything that was checked is as it should be. Without --read-only: a migration would work.",
            ),
            (
                "1",
                "It would work, but worse than it could. Or it is not known whether it would work.",
            ),
            (
                "2",
                "It would fail. Or wrong arguments, or the report cannot be written.",
            ),
            (
                "130",
                "The check was interrupted by Ctrl-C. 128 and the number of the signal after another signal.",
            ),
        ],
        "pve-tunnel-config" => &[
            (
                "0",
                "The file is valid and permits the migration of --to, or there is no file and none was given.",
            ),
            (
                "1",
                "The file is invalid, cannot be read, or does not permit the migration.",
            ),
            ("2", "Wrong arguments."),
        ],
        "pve-tunnel-leftovers" => &[
            ("0", "Nothing was found."),
            ("1", "Something was found."),
            (
                "2",
                "A part of the check could not be done, and the output shows which. Or wrong arguments.",
            ),
        ],
        _ => &EXIT_STATUS,
    }
}

/// The examples of all pages, with a heading for each page.
const EXAMPLES: &str = include_str!("examples.pod");

const FILES: [(&str, &str); 1] = [(
    "/etc/pve/remote-migration.cfg",
    "Networks and policy of migrations to other clusters; see remote-migration.cfg(5).",
)];

/// Pages that this program does not generate.
const SEE_ALSO: [(&str, &str); 5] = [
    ("pve-tunnel-first-migration", "7"),
    ("pve-tunnel-planes", "7"),
    ("remote-migration.cfg", "5"),
    ("qm", "1"),
    ("pct", "1"),
];

const USAGE: &str = "usage: manual DIRECTORY DATE";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [directory, date] = arguments.as_slice() else {
        if arguments == ["--help"] {
            // Ignored if standard output is closed: the caller does not need it.
            let _ = writeln!(io::stdout(), "{USAGE}");
            return ExitCode::SUCCESS;
        }
        fail(USAGE);
        return ExitCode::from(2);
    };
    match write_all(Path::new(directory), date) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write into '{directory}': {error}")),
    }
}

fn fail(text: &str) -> ExitCode {
    // Ignored if standard error is closed: there is no other place to report it.
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::FAILURE
}

fn write_all(directory: &Path, date: &str) -> io::Result<()> {
    // `help` has no page of its own: `help COMMAND` shows the same text as COMMAND's page.
    let mut command = pve_tunnel_cli::definition()
        .disable_help_subcommand(true)
        .subcommand_help_heading("COMMANDS")
        .subcommand_value_name("COMMAND");
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
        let path = clap_complete::generate_to(shell, &mut command, &name, &completions)?;
        if shell == Shell::Bash {
            let script = fs::read_to_string(&path)?;
            fs::write(&path, with_reachable_options(&script, &name))?;
        }
    }
    Ok(())
}

/// Corrects the labels of a bash script for a command whose name contains a hyphen: clap_complete
/// 4.6 writes `pve__subcmd__tunnel__subcmd__enable` there, and sets the variable that it compares to
/// `pve__tunnel__subcmd__enable`. No option of a subcommand would be completed.
fn with_reachable_options(script: &str, name: &str) -> String {
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}

/// The command and its subcommands, except the hidden ones.
fn pages_of(command: &Command) -> Vec<&Command> {
    let shown = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set());
    std::iter::once(command)
        .chain(shown.flat_map(pages_of))
        .collect()
}

/// The name of a page, such as `pve-tunnel-connect`.
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
    // Neither hyphenated nor justified, like the pages that pod2man makes.
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
    additional_sections(page, root).to_writer(&mut out)?;
    Ok(tidy(&String::from_utf8_lossy(&out)))
}

/// Corrects the output of clap_mangen: it repeats the definition of an apostrophe in each section,
/// its vertical space causes a warning of mandoc, and it joins indented lines.
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

/// The sections that are not part of the definition.
fn additional_sections(page: &Command, root: &Command) -> Roff {
    let mut roff = Roff::new();
    let mut table = |title: &str, items: &[(&str, &str)]| {
        roff.control("SH", [title]);
        for (term, meaning) in items {
            roff.control("TP", []).text([bold(*term)]);
            roff.text([roman(*meaning)]);
        }
    };
    table("EXIT STATUS", exit_status(name(page)));
    if name(page) == name(root) {
        table("FILES", &FILES);
    }

    examples(name(page), &mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text(references(page, root));
    roff
}

/// The examples of a page: paragraphs of text, and indented paragraphs as they are.
fn examples(page: &str, roff: &mut Roff) {
    let heading = format!("=head1 {page}");
    let paragraphs = EXAMPLES
        .split("\n\n")
        .skip_while(|paragraph| *paragraph != heading)
        .skip(1)
        .take_while(|paragraph| !paragraph.starts_with("=head1 "))
        // Marks for tests.
        .filter(|paragraph| !paragraph.starts_with("=for "));
    for (number, paragraph) in paragraphs.enumerate() {
        match number {
            0 => roff.control("SH", ["EXAMPLES"]),
            _ => roff.control("PP", []),
        };
        if paragraph.starts_with(' ') {
            roff.control("nf", []);
            roff.text([roman(paragraph.trim_end())]);
            roff.control("fi", []);
        } else {
            roff.text([roman(paragraph.replace('\n', " "))]);
        }
    }
}

/// References to the other pages of the command, then to pages that this program does not
/// generate.
fn references(page: &Command, root: &Command) -> Vec<Inline> {
    let pages = pages_of(root);
    let generated = pages
        .iter()
        .map(|other| (name(other), SECTION))
        .filter(|(other, _)| *other != name(page));
    let mut line = Vec::new();
    for (name, section) in generated.chain(SEE_ALSO) {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.push(bold(name));
        line.push(roman(format!("({section})")));
    }
    line
}
