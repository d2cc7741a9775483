//! What a check has found, as text for people and as JSON for programs.

use super::advice::{Advice, without};
use super::conclusion::conclusion;
use super::finding::{Finding, Outcome, Step};
use super::measurement::Measurement;
use crate::output;
use crate::text::wrapped;
use pve_tunnel::one_line;
use serde::Serialize;
use std::fmt;
use std::io;

/// The result of a check, which `--json` prints. The text prints each finding as soon as it exists.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The worst outcome of all findings.
    pub(crate) outcome: Outcome,
    /// The version of this command.
    pub(crate) version: &'static str,
    /// The host of the remote.
    pub(crate) remote: String,
    /// The name of the signal that has ended the check before its end; null if none has.
    pub(crate) interrupted: Option<&'static str>,
    /// In the order in which they were found.
    pub(crate) findings: Vec<Finding>,
    /// The plane that a migration would use; null if that was not found out.
    pub(crate) plane: Option<String>,
    /// What was measured.
    pub(crate) measurements: Vec<Measurement>,
    /// The secret that no text may contain.
    #[serde(skip)]
    secret: Option<String>,
    #[serde(skip)]
    style: Style,
    #[serde(skip)]
    printed: Option<Step>,
    /// The first error when printing. The check continues, because it still has to clean up.
    #[serde(skip)]
    unwritten: Option<io::Error>,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Text for people.
    Plain,
    /// Text for people, with colours.
    Colored,
    /// One JSON object at the end.
    Json,
}

impl Report {
    pub(crate) fn new(remote: &str, secret: Option<&str>, style: Style) -> Self {
        Self {
            outcome: Outcome::Ok,
            version: env!("CARGO_PKG_VERSION"),
            remote: one_line(remote),
            interrupted: None,
            findings: Vec::new(),
            plane: None,
            measurements: Vec::new(),
            secret: secret.map(str::to_owned),
            style,
            printed: None,
            unwritten: None,
        }
    }

    /// Adds a finding and prints it, unless the whole report is printed at the end. Foreign text becomes
    /// one line, and the secret is removed.
    pub(crate) fn add(&mut self, mut finding: Finding) {
        finding.text = self.clean(&finding.text);
        let secret = self.secret.as_deref();
        finding.advice = finding.advice.map(|advice| advice.clean(secret));
        self.outcome = self.outcome.max(finding.outcome);
        if self.style != Style::Json {
            let heading = (self.printed != Some(finding.step)).then_some(finding.step);
            self.printed = Some(finding.step);
            let colored = self.style == Style::Colored;
            let printed = output::print(Printed {
                finding: &finding,
                heading,
                colored,
            });
            self.keep_error(printed);
        }
        self.findings.push(finding);
    }

    /// Prints a line before something that takes long or changes something.
    pub(crate) fn announce(&mut self, text: &str) {
        if self.style != Style::Json {
            let text = self.clean(text);
            self.keep_error(output::print(wrapped("    ", &text)));
        }
    }

    fn keep_error(&mut self, printed: io::Result<()>) {
        if let Err(error) = printed {
            self.unwritten.get_or_insert(error);
        }
    }

    /// A function that prints a text and an advice at once, also from another thread: with JSON on standard
    /// error, because standard output has one object only.
    pub(super) fn notifier(&self) -> impl Fn(&str, Option<&Advice>) + Send + use<> {
        let json = self.style == Style::Json;
        move |text, advice| {
            let advice = advice.cloned().map(|advice| advice.clean(None));
            let text = one_line(text);
            if json {
                output::warn(text);
                return advice.into_iter().for_each(output::warn);
            }
            let advice = advice.map_or(String::new(), |advice| advice.lines());
            // There is no other place to report an error: the process may end now.
            let _ = output::print(format_args!("{}{advice}", wrapped("    ", &text)));
        }
    }

    /// Adds the finding that a signal has ended the check.
    pub(crate) fn interrupted_by(&mut self, step: Step, signal: &'static str) {
        self.interrupted = Some(signal);
        self.add(Finding::worse(
            step,
            format!("the check was interrupted by {signal} before its end"),
            "run it again",
        ));
    }

    /// Whether a step has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }

    /// Prints the end of the report, or the whole report as JSON.
    ///
    /// # Errors
    /// A part of the report could not be printed.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let printed = match self.style {
            Style::Json => output::print_json(self),
            Style::Plain | Style::Colored => output::print(format_args!("\n{}", conclusion(self))),
        };
        self.keep_error(printed);
        self.unwritten.take().map_or(Ok(()), Err)
    }

    fn clean(&self, text: &str) -> String {
        without(self.secret.as_deref(), one_line(text))
    }
}

/// A finding as it is printed.
struct Printed<'a> {
    finding: &'a Finding,
    /// The step, if it is the first of its findings.
    heading: Option<Step>,
    colored: bool,
}

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(step) = self.heading {
            writeln!(f, "\n{}", step.title())?;
        }
        let Finding {
            outcome,
            text,
            advice,
            ..
        } = self.finding;
        let mark = outcome.mark();
        let line = wrapped(&format!("  {mark} "), text);
        match self.colored {
            true => {
                let colored = format!("{}{mark}\x1b[0m", outcome.color());
                f.write_str(&line.replacen(mark, &colored, 1))?;
            }
            false => f.write_str(&line)?,
        }
        match advice {
            Some(advice) => f.write_str(&advice.lines()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn printed(finding: &Finding) -> String {
        let heading = Some(finding.step);
        let colored = false;
        let printed = Printed {
            finding,
            heading,
            colored,
        };
        printed.to_string()
    }

    #[test]
    fn a_fingerprint_has_a_line_of_its_own() {
        let fingerprint = "AB:".repeat(31) + "AB";
        let text = format!("the fingerprint is {fingerprint} as given");
        let printed = printed(&Finding::ok(Step::Tls, text));
        let expected = format!("\nTLS\n  ✓ the fingerprint is\n    {fingerprint}\n    as given\n");
        assert_eq!(printed, expected);
    }

    #[test]
    fn a_finding_fits_80_columns_with_its_advice() {
        let text = "words of several lengths follow each other ".repeat(8);
        let finding = Finding::failed(Step::Tls, text.clone(), text);
        let printed = printed(&finding);
        assert!(printed.starts_with("\nTLS\n  ✗ words"), "{printed}");
        assert!(printed.contains("\n    → words"), "{printed}");
        for line in printed.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_command_has_a_line_of_its_own_that_is_not_wrapped() {
        let command = format!("pveum role add X --privs {}", "VM.Allocate,".repeat(9));
        let advice = Advice::with_command("on the target", command.as_str());
        let finding = Finding::failed(Step::Privileges, "a lacks b", advice);
        let expected = format!(
            "\nPrivileges of the token\n  ✗ a lacks b\n    → on the target:\n        {command}\n"
        );
        assert_eq!(printed(&finding), expected);
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!(json["advice"], format!("on the target: {command}"));
    }

    #[test]
    fn colours_are_used_only_if_they_were_requested() {
        let finding = Finding::ok(Step::Api, "fine");
        let printed = |colored| {
            let printed = Printed {
                finding: &finding,
                heading: None,
                colored,
            };
            printed.to_string()
        };
        assert_eq!(printed(false), "  ✓ fine\n");
        assert_eq!(printed(true), "  \x1b[32m✓\x1b[0m fine\n");
    }

    #[test]
    fn the_worst_finding_is_the_outcome_and_no_text_has_the_secret() {
        let mut report = Report::new("192.0.2.7", Some("s3cret-uuid"), Style::Json);
        assert_eq!(report.outcome, Outcome::Ok);
        report.add(Finding::failed(
            Step::Api,
            "401 for s3cret-uuid\n\x1b[2J",
            "s3cret-uuid",
        ));
        report.add(Finding::worse(Step::Api, "slow", "faster"));
        assert_eq!(report.outcome, Outcome::Failed);
        assert!(report.has_failed());
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("s3cret"), "{json}");
        assert_eq!(report.findings[0].text, "401 for [secret]  [2J");
    }
}
