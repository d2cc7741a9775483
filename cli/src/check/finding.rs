//! One finding of a check: where it was found, how good it is, and what to do.

use super::advice::{self, Advice};
use serde::Serialize;
use std::process::ExitCode;

/// How good a finding is. Ordered from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// As it should be.
    Ok,
    /// A migration works, but worse than it could.
    Worse,
    /// A migration would fail.
    Failed,
}

impl Outcome {
    pub(super) fn mark(self) -> char {
        match self {
            Self::Ok => '✓',
            Self::Worse => '!',
            Self::Failed => '✗',
        }
    }

    /// Green, yellow, red: ECMA-48, SGR.
    pub(super) fn color(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Worse => "\x1b[33m",
            Self::Failed => "\x1b[31m",
        }
    }

    /// The exit code of a check whose worst finding this is.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// The part of a check that a finding belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    /// This node: whether pve-tunnel is on, and its configuration.
    Node,
    /// The addresses of the remote.
    Address,
    /// TLS to the remote's API.
    Tls,
    /// The API: token, version, clock.
    Api,
    /// The privileges of the token.
    Privileges,
    /// The storages and bridges that the migration would use.
    Resources,
    /// The tunnel: worker, offer, plan, network path.
    Tunnel,
    /// The measured speed.
    Speed,
    /// The time that a guest takes.
    Guest,
    /// What is left at the target.
    Cleanup,
}

impl Step {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Node => "This node",
            Self::Address => "Addresses of the remote",
            Self::Tls => "TLS",
            Self::Api => "API of the remote",
            Self::Privileges => "Privileges of the token",
            Self::Resources => "Storages and bridges",
            Self::Tunnel => "Tunnel",
            Self::Speed => "Speed",
            Self::Guest => "Guest",
            Self::Cleanup => "Clean-up",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Where it was found.
    pub(crate) step: Step,
    /// How good it is.
    pub(crate) outcome: Outcome,
    /// What was seen, in one sentence.
    pub(crate) text: String,
    /// What to do; null if nothing needs to be done.
    pub(super) advice: Option<Advice>,
}

impl Finding {
    pub(crate) fn ok(step: Step, text: impl Into<String>) -> Self {
        Self {
            step,
            outcome: Outcome::Ok,
            text: text.into(),
            advice: None,
        }
    }

    pub(crate) fn worse(step: Step, text: impl Into<String>, advice: impl Into<Advice>) -> Self {
        Self::new(step, Outcome::Worse, text.into(), advice.into())
    }

    pub(crate) fn failed(step: Step, text: impl Into<String>, advice: impl Into<Advice>) -> Self {
        Self::new(step, Outcome::Failed, text.into(), advice.into())
    }

    /// A cause on this node has precedence over the advice, which is about the target then. What is left at the target
    /// has to be removed in any case.
    fn new(step: Step, outcome: Outcome, text: String, advice: Advice) -> Self {
        let local = advice::for_this_node(&text).filter(|_| step != Step::Cleanup);
        Self {
            step,
            outcome,
            text,
            advice: Some(local.map_or(advice, Advice::from)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cause_on_this_node_replaces_an_advice_about_the_target() {
        let text = "the API does not answer: Too many open files (os error 24)";
        let advice = |finding: Finding| finding.advice.unwrap().to_string();
        for finding in [Finding::worse, Finding::failed] {
            assert!(
                advice(finding(Step::Api, text.to_owned(), "check pveproxy")).contains("ulimit")
            );
            assert_eq!(
                advice(finding(Step::Api, "x".to_owned(), "check pveproxy")),
                "check pveproxy"
            );
            assert_eq!(
                advice(finding(Step::Cleanup, text.to_owned(), "remove it")),
                "remove it"
            );
        }
    }
}
