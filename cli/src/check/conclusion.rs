//! The conclusion of a report.

use super::finding::Outcome;
use super::report::Report;
use crate::text::wrapped;

/// The result of a report in one sentence.
pub(super) fn conclusion(report: &Report) -> String {
    let marked = |outcome| {
        report
            .findings
            .iter()
            .filter(move |each| each.outcome == outcome)
    };
    let failed = lines(marked(Outcome::Failed).count());
    if let Some(signal) = report.interrupted {
        let unknown = match &report.plane {
            Some(plane) => format!("how fast a migration would be; it would use plane '{plane}'"),
            None => {
                "whether a migration would work, which plane it would use, and how fast it would be"
                    .to_owned()
            }
        };
        let see = match report.has_failed() {
            true => format!(" See the {failed} marked with '✗'."),
            false => String::new(),
        };
        return wrapped(
            "",
            &format!("The check was interrupted by {signal}. It is not known {unknown}.{see}"),
        );
    }
    let text = match report.outcome {
        Outcome::Ok => match &report.plane {
            Some(plane) => format!("Ready: a migration would use plane '{plane}'."),
            None => "Nothing is wrong so far.".to_owned(),
        },
        Outcome::Worse if report.plane.is_none() => format!(
            "It is not known whether a migration would work, because no tunnel was opened: see the {} marked with '!'.",
            lines(marked(Outcome::Worse).count())
        ),
        Outcome::Worse => format!(
            "A migration would work, but worse than it could: see the {} marked with '!'.",
            lines(marked(Outcome::Worse).count())
        ),
        Outcome::Failed => format!("A migration would fail: see the {failed} marked with '✗'."),
    };
    wrapped("", &text)
}

fn lines(count: usize) -> String {
    match count {
        1 => "line".to_owned(),
        _ => format!("{count} lines"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Finding, Step};
    use crate::check::report::Style;

    #[test]
    fn a_check_without_a_tunnel_does_not_conclude_that_a_migration_works() {
        let mut report = Report::new("192.0.2.7", None, Style::Json);
        report.add(Finding::worse(
            Step::Api,
            "no API token was given",
            "give it",
        ));
        let text = conclusion(&report);
        assert!(text.starts_with("It is not known"), "{text}");
        report.plane = Some("websocket".to_owned());
        let text = conclusion(&report);
        assert!(text.starts_with("A migration would work"), "{text}");
    }

    #[test]
    fn a_check_that_was_interrupted_concludes_what_is_not_known() {
        let mut report = Report::new("192.0.2.7", None, Style::Json);
        report.interrupted_by(Step::Tunnel, "SIGINT");
        assert_eq!(report.outcome, Outcome::Worse);
        let line = |report: &Report| conclusion(report).replace('\n', " ");
        assert_eq!(
            line(&report).trim(),
            "The check was interrupted by SIGINT. It is not known whether a migration would work, which plane it would use, and how fast it would be."
        );
        report.plane = Some("tls".to_owned());
        report.add(Finding::failed(Step::Cleanup, "left", "remove it"));
        assert_eq!(
            line(&report).trim(),
            "The check was interrupted by SIGINT. It is not known how fast a migration would be; it would use plane 'tls'. See the line marked with '✗'."
        );
    }

    #[test]
    fn a_check_that_has_failed_names_the_lines() {
        let mut report = Report::new("192.0.2.7", None, Style::Json);
        report.add(Finding::failed(Step::Api, "refused", "correct it"));
        assert_eq!(
            conclusion(&report),
            "A migration would fail: see the line marked with '✗'.\n"
        );
    }
}
