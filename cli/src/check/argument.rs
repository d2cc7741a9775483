//! The argument `--to`: a remote, a file with a remote, or the ID of a configured network.

use super::node;
use super::remote::{Remote, RemoteError};
use crate::configuration_file::FileError;
use crate::secret::may_contain_secret;
use crate::{opened_file, output};
use pve_tunnel::configuration::{Configuration, is_id};
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use thiserror::Error;

/// Largest file with a remote, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Why `--to` gives no remote. Only what cannot be a secret is quoted.
#[derive(Debug, Error)]
pub(super) enum ArgumentError {
    #[error("--to: cannot read {0}: {1}")]
    Read(String, io::Error),
    #[error("--to: {0} has more than {MAX_FILE} bytes")]
    TooLong(String),
    #[error(
        "--to: {0} has several lines; write the remote on one line: \
         host=...,apitoken=...,fingerprint=..."
    )]
    Lines(String),
    #[error(
        "--to: {0} has only the secret of a token; expected \
         host=...,apitoken=PVEAPIToken=USER@REALM!NAME=SECRET,fingerprint=..."
    )]
    Secret(String),
    #[error(
        "--to: {0} has no '=', and not the form of an ID; expected \
         host=...,apitoken=...,fingerprint=..., or the ID of a configured network"
    )]
    Form(String),
    #[error("--to: '{id}' in {place} {reason}")]
    Network {
        id: String,
        place: String,
        reason: String,
    },
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// The remote that the argument gives: itself, the content of `@FILE`, or for `-` standard input. A text without
/// `=` is the ID of a configured network.
pub(super) fn remote(
    argument: &str,
    configuration: Result<&Configuration, &FileError>,
) -> Result<Remote, ArgumentError> {
    let (text, place) = content(argument)?;
    // Some editors begin a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.lines().nth(1).is_some() {
        return Err(ArgumentError::Lines(place));
    }
    if text.contains('=') {
        return Ok(Remote::parse(text)?);
    }
    if may_contain_secret(text) {
        return Err(ArgumentError::Secret(place));
    }
    if !is_id(text) {
        return Err(ArgumentError::Form(place));
    }
    match node::configured_remote(configuration, text) {
        Ok(host) => Ok(Remote::without_token(host)),
        Err(reason) => Err(ArgumentError::Network {
            id: text.to_owned(),
            place,
            reason,
        }),
    }
}

/// The text, and where it is.
fn content(argument: &str) -> Result<(String, String), ArgumentError> {
    match argument.strip_prefix('@') {
        Some(file) => {
            let place = format!("'{file}'");
            match opened_file::open(Path::new(file)) {
                Ok(opened) => read(opened, place),
                Err(error) => Err(ArgumentError::Read(place, error)),
            }
        }
        None if argument == "-" => {
            if io::stdin().is_terminal() {
                output::warn(
                    "waiting for the remote on standard input, one line as host=...,apitoken=...,fingerprint=...; Ctrl-D ends it",
                );
            }
            read(io::stdin(), "standard input".to_owned())
        }
        None => Ok((argument.to_owned(), "the argument".to_owned())),
    }
}

fn read(source: impl Read, place: String) -> Result<(String, String), ArgumentError> {
    let mut text = String::new();
    match source.take(MAX_FILE + 1).read_to_string(&mut text) {
        Err(error) => Err(ArgumentError::Read(place, error)),
        Ok(_) if text.len() as u64 > MAX_FILE => Err(ArgumentError::TooLong(place)),
        Ok(_) => Ok((text, place)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::{mkfifo, pipe, write};
    use std::fs;
    use std::os::fd::AsRawFd;

    const SECRET: &str = "abcdef01-2222-3333-4444-555555555555";

    fn configuration() -> Configuration {
        Configuration::parse_with_lines(
            b"network: dc2\n\tremote 192.0.2.7\n\nnetwork: lab\n\tsource vmbr1\n",
        )
        .unwrap()
        .0
    }

    fn given(argument: &str) -> Result<String, String> {
        match remote(argument, Ok(&configuration())) {
            Ok(remote) => Ok(remote.host),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The argument itself, and a file with it.
    fn both(text: &str) -> [(Result<String, String>, String); 2] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("target");
        fs::write(&file, format!("{text}\n")).unwrap();
        let name = file.to_str().unwrap();
        let from_file = given(&format!("@{name}")).map_err(|error| error.replace(name, "FILE"));
        [
            (given(text), "the argument".to_owned()),
            (from_file, "'FILE'".to_owned()),
        ]
    }

    #[test]
    fn a_remote_or_the_id_of_a_network_is_in_the_argument_or_in_a_file() {
        for text in ["host=192.0.2.7", "dc2", "\u{feff}host=192.0.2.7"] {
            for (found, place) in both(text) {
                assert_eq!(found.as_deref(), Ok("192.0.2.7"), "{text} in {place}");
            }
        }
    }

    #[test]
    fn each_mistake_is_reported_with_what_is_expected() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("dc3", "--to: 'dc3' in PLACE has no '=', and is not the ID of a configured network; expected host=...,apitoken=...,fingerprint=..."),
            ("lab", "--to: 'lab' in PLACE is a network without 'remote'; expected host=...,apitoken=...,fingerprint=..."),
            ("host=a,\napitoken=b", "--to: PLACE has several lines; write the remote on one line: host=...,apitoken=...,fingerprint=..."),
            ("host\na", "--to: PLACE has several lines; write the remote on one line: host=...,apitoken=...,fingerprint=..."),
            ("192.0.2.7", "--to: PLACE has no '=', and not the form of an ID; expected host=...,apitoken=...,fingerprint=..., or the ID of a configured network"),
            ("", "--to: PLACE has no '=', and not the form of an ID; expected host=...,apitoken=...,fingerprint=..., or the ID of a configured network"),
            (SECRET, "--to: PLACE has only the secret of a token; expected host=...,apitoken=PVEAPIToken=USER@REALM!NAME=SECRET,fingerprint=..."),
        ];
        for (text, expected) in table {
            for (found, place) in both(text) {
                let expected = expected.replace("PLACE", &place);
                assert_eq!(found.unwrap_err(), expected, "{text}");
            }
        }
        assert_eq!(
            given("@/nonexistent/file").unwrap_err(),
            "--to: cannot read '/nonexistent/file': No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_pipe_is_read_if_it_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pipe");
        mkfifo(&file, Mode::S_IRWXU).unwrap();
        let error = given(&format!("@{}", file.display())).unwrap_err();
        assert!(
            error.ends_with(": it is a named pipe, and not a file"),
            "{error}"
        );
        let (reader, writer) = pipe().unwrap();
        write(&writer, b"host=192.0.2.7\n").unwrap();
        drop(writer);
        let found = given(&format!("@/dev/fd/{}", reader.as_raw_fd()));
        assert_eq!(found.as_deref(), Ok("192.0.2.7"));
    }

    #[test]
    fn what_may_be_secret_is_not_quoted() {
        let token = format!("root@pam!move={SECRET}");
        for text in [
            SECRET.to_owned(),
            SECRET.to_uppercase(),
            format!(" {SECRET}"),
            format!("x{SECRET}"),
            "root@pam!s3cret".to_owned(),
            token.clone(),
            format!("PVEAPIToken={token}"),
            format!("host=a,apitoken={token}"),
        ] {
            for (found, place) in both(&text) {
                let error = found.unwrap_err();
                let lower = error.to_lowercase();
                assert!(!lower.contains("2222"), "{text} in {place}: {error}");
                assert!(!lower.contains("s3cret"), "{text} in {place}: {error}");
            }
        }
    }
}
