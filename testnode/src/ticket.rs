//! The API token, and the tickets. A ticket authorizes one user for one socket for one minute.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;

/// Owner of the token, and the user of the tickets.
const USER: &str = "root@pam";

/// Seconds before the time of a ticket from which it is valid, as in Proxmox VE.
const VALID_BEFORE: i64 = 20;
/// Seconds after the time of a ticket until which it is valid, as in Proxmox VE.
const VALID_AFTER: i64 = 40;

#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("the system returned no random numbers")]
    Random,
    #[error("cannot read the token file {path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("cannot write the token file {path}: {source}")]
    Write {
        path: String,
        source: std::io::Error,
    },
    #[error("the token file {0} does not contain PVEAPIToken=user@realm!name=value")]
    Malformed(String),
}

/// The only API token that the node accepts. It does not implement `Debug`, so that its value
/// cannot appear in messages.
pub(crate) struct Token {
    header: String,
    user: String,
    comparison: hmac::Key,
}

impl Token {
    /// Reads the token from `path`, or creates one and writes it there (mode 0600).
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, TokenError> {
        let shown = path.display().to_string();
        let header = match std::fs::read_to_string(path) {
            Ok(text) => text.trim_end().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let header = format!("PVEAPIToken={USER}!demo={}", random_uuid()?);
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .and_then(|mut file| file.write_all(header.as_bytes()))
                    .map_err(|source| TokenError::Write {
                        path: shown.clone(),
                        source,
                    })?;
                header
            }
            Err(source) => {
                return Err(TokenError::Read {
                    path: shown,
                    source,
                });
            }
        };
        let user = header
            .strip_prefix("PVEAPIToken=")
            .and_then(|rest| rest.split_once('='))
            .and_then(|(id, _)| id.split_once('!'))
            .map(|(user, _)| user.to_owned())
            .filter(|user| user.contains('@'))
            .ok_or(TokenError::Malformed(shown))?;
        let comparison = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Self {
            header,
            user,
            comparison,
        })
    }

    /// The user, without the name of the token.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// The user with the name of the token, such as `root@pam!demo`.
    pub(crate) fn id(&self) -> &str {
        let id = self.header.strip_prefix("PVEAPIToken=");
        let id = id.and_then(|id| id.split_once('='));
        id.map_or("", |(id, _)| id)
    }

    /// Whether an `Authorization` header equals this token. The comparison takes constant time.
    pub(crate) fn matches(&self, header: &[u8]) -> bool {
        let expected = hmac::sign(&self.comparison, self.header.as_bytes());
        hmac::verify(&self.comparison, header, expected.as_ref()).is_ok()
    }
}

/// Issues and verifies tickets: `PVETUNNEL:<%08X time>::<lower-case hex HMAC-SHA-256>`. The HMAC
/// covers the user, the socket path and the time.
pub(crate) struct TicketKey {
    bytes: [u8; 32],
    key: hmac::Key,
}

impl TicketKey {
    pub(crate) fn new() -> Result<Self, TokenError> {
        let bytes = random::<32>()?;
        Ok(Self {
            bytes,
            key: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        })
    }

    /// The key for a worker, which issues tickets too.
    pub(crate) fn hex(&self) -> String {
        hex(&self.bytes)
    }

    pub(crate) fn issue(&self, user: &str, path: &str) -> String {
        let stamp = format!("{:08X}", now());
        let tag = hmac::sign(&self.key, message(user, path, &stamp).as_bytes());
        format!("PVETUNNEL:{stamp}::{}", hex(tag.as_ref()))
    }

    /// Whether `ticket` authorizes `user` for `path` now.
    pub(crate) fn authorizes(&self, ticket: &str, user: &str, path: &str) -> bool {
        self.authorizes_at(ticket, user, path, now())
    }

    fn authorizes_at(&self, ticket: &str, user: &str, path: &str, now: i64) -> bool {
        let Some((stamp, tag)) = ticket
            .strip_prefix("PVETUNNEL:")
            .and_then(|rest| rest.split_once("::"))
        else {
            return false;
        };
        let (Ok(time), Some(tag)) = (i64::from_str_radix(stamp, 16), unhex(tag)) else {
            return false;
        };
        let fresh = now >= time.saturating_sub(VALID_BEFORE)
            && now <= time.saturating_add(VALID_AFTER)
            && stamp.len() == 8;
        let genuine = hmac::verify(&self.key, message(user, path, stamp).as_bytes(), &tag).is_ok();
        fresh && genuine
    }
}

fn message(user: &str, path: &str, stamp: &str) -> String {
    format!("{user}\n{path}\n{stamp}")
}

fn now() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

fn random<const N: usize>() -> Result<[u8; N], TokenError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| TokenError::Random)?;
    Ok(bytes)
}

/// A version 4 UUID (RFC 9562, section 5.4), the format of the value of an API token.
fn random_uuid() -> Result<String, TokenError> {
    let mut bytes = random::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes);
    Ok([
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ]
    .join("-"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of lower-case hex text.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let lower = digits
        .iter()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if !lower || digits.len() % 2 != 0 {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{TicketKey, Token, TokenError};

    #[test]
    fn a_ticket_is_valid_for_one_user_one_path_and_one_minute() {
        let key = TicketKey::new().unwrap();
        let ticket = key.issue("root@pam", "/run/100.mtunnel");
        let made = i64::from_str_radix(&ticket[10..18], 16).unwrap();
        let at = |ticket: &str, user: &str, path: &str, seconds: i64| {
            key.authorizes_at(ticket, user, path, made + seconds)
        };
        let path = "/run/100.mtunnel";
        for (seconds, authorized) in [
            (-21, false),
            (-20, true),
            (0, true),
            (40, true),
            (41, false),
        ] {
            assert_eq!(
                at(&ticket, "root@pam", path, seconds),
                authorized,
                "{seconds} s"
            );
        }
        assert!(!at(&ticket, "eve@pam", path, 0));
        assert!(!at(&ticket, "root@pam", "/run/101.mtunnel", 0));
        assert!(
            !TicketKey::new()
                .unwrap()
                .authorizes(&ticket, "root@pam", path)
        );
        let last = if ticket.ends_with('0') { "1" } else { "0" };
        let forged = format!("{}{last}", &ticket[..ticket.len() - 1]);
        for broken in ["", "PVETUNNEL:", "PVETUNNEL:0::", &ticket[1..], &forged] {
            assert!(!at(broken, "root@pam", path, 0), "{broken}");
        }
    }

    #[test]
    fn a_token_is_created_once_and_matches_only_itself() {
        let dir = std::env::temp_dir().join(format!("testnode-token-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("token");
        let token = Token::load_or_create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(token.user(), "root@pam");
        assert_eq!(token.id(), "root@pam!demo");
        assert!(token.matches(text.as_bytes()));
        assert!(!token.matches(&text.as_bytes()[..text.len() - 1]));
        assert!(!token.matches(b""));
        assert!(
            Token::load_or_create(&path)
                .unwrap()
                .matches(text.as_bytes())
        );
        std::fs::write(&path, "PVEAPIToken=nobody").unwrap();
        assert!(matches!(
            Token::load_or_create(&path),
            Err(TokenError::Malformed(_))
        ));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
