//! The remote: what `--to` names.

use crate::secret::may_contain_secret;
use std::fmt;
use thiserror::Error;

const DEFAULT_PORT: u16 = 8006;

/// Shortest secret part of a token, in characters. Proxmox VE generates UUIDs of 36 characters. A text
/// in which a shorter one is replaced would not be readable.
const MIN_SECRET: usize = 8;

/// The other cluster's API, as `qm remote-migrate` takes it.
#[derive(Clone)]
pub(super) struct Remote {
    /// A name or an address, IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// None for a configured network, which has no token.
    pub(super) token: Option<Token>,
    /// As given.
    pub(super) fingerprint: Option<String>,
}

/// An API token, `PVEAPIToken=user@realm!name=secret`.
#[derive(Clone)]
pub(super) struct Token(String);

/// Why `--to` is not a remote.
#[derive(Debug, Error)]
pub(super) enum RemoteError {
    #[error("--to {0}")]
    Property(String),
    #[error(
        "the API token is not of the form PVEAPIToken=user@realm!name=uuid: {0}; check 'apitoken'"
    )]
    Token(String),
}

impl Remote {
    /// A host that a configured network names.
    pub(super) fn without_token(host: String) -> Self {
        Self {
            host,
            port: DEFAULT_PORT,
            token: None,
            fingerprint: None,
        }
    }

    /// Reads a property string, such as `host=192.0.2.7,apitoken=...`.
    pub(super) fn parse(text: &str) -> Result<Self, RemoteError> {
        let mistake = |text: String| Err(RemoteError::Property(text));
        let (mut host, mut port, mut token, mut fingerprint) = (None, None, None, None);
        for (index, property) in text.split(',').enumerate() {
            // The token itself must not be in a message, so a property is named by its number.
            if property.starts_with(char::is_whitespace) {
                return mistake(format!("has a space in front of its part {}", index + 1));
            }
            let Some((key, value)) = property.split_once('=') else {
                return mistake(format!("has no '=' in its part {}", index + 1));
            };
            let slot = match key {
                "host" => &mut host,
                "port" => &mut port,
                "apitoken" => &mut token,
                "fingerprint" => &mut fingerprint,
                _ => {
                    return mistake(format!(
                        "has an unknown key in its part {}: expected one of host, port, apitoken, fingerprint",
                        index + 1
                    ));
                }
            };
            if key != "apitoken" && may_contain_secret(value) {
                return mistake(format!(
                    "has a token in '{key}': separate the parts by ',', as in host=...,apitoken=..."
                ));
            }
            if slot.replace(value.to_owned()).is_some() {
                return mistake(format!("has '{key}' twice"));
            }
        }
        let Some(host) = host.filter(|host| !host.is_empty()) else {
            return mistake("has no 'host'".to_owned());
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => {
                    return mistake("has a 'port' that is not a number from 1 to 65535".to_owned());
                }
            },
        };
        let fingerprint = fingerprint.filter(|fingerprint| !fingerprint.is_empty());
        if fingerprint.as_ref().is_some_and(|text| !text.contains(':')) {
            return mistake(
                "has a 'fingerprint' without colons, which 'qm remote-migrate' does not accept: write it as AB:CD:..."
                    .to_owned(),
            );
        }
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        Ok(Self {
            host: bare.map_or(host.clone(), str::to_owned),
            port,
            token: token.map(Token::parse).transpose()?,
            fingerprint,
        })
    }

    /// The host as part of a URL.
    pub(super) fn url_host(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        }
    }
}

impl Token {
    fn parse(text: String) -> Result<Self, RemoteError> {
        let mistake = |text: String| Err(RemoteError::Token(text));
        if let Some(position) = text.chars().position(|c| !c.is_ascii_graphic()) {
            return mistake(format!(
                "its character {} is not printable ASCII",
                position + 1
            ));
        }
        let token = Self(text);
        match token.parts() {
            None => mistake("a part is missing".to_owned()),
            Some((_, secret)) if secret.len() < MIN_SECRET => mistake(format!(
                "its secret part has {} characters, expected at least {MIN_SECRET}",
                secret.len()
            )),
            Some(_) => Ok(token),
        }
    }

    /// `user@realm!name` and the secret.
    fn parts(&self) -> Option<(&str, &str)> {
        let (id, secret) = self.0.strip_prefix("PVEAPIToken=")?.split_once('=')?;
        let (user, name) = id.split_once('!')?;
        let (user, realm) = user.rsplit_once('@')?;
        let complete = [user, realm, name].iter().all(|part| !part.is_empty());
        complete.then_some((id, secret))
    }

    /// The value of the header `Authorization`.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// `user@realm!name`, which is not secret.
    pub(super) fn id(&self) -> &str {
        self.parts().map_or("", |(id, _)| id)
    }

    /// The part that no output may contain.
    pub(super) fn secret(&self) -> &str {
        self.parts().map_or("", |(_, secret)| secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.url_host(), self.port)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TOKEN: &str = "PVEAPIToken=root@pam!move=11111111-2222-3333-4444-555555555555";

    fn remote(text: &str) -> Result<Remote, String> {
        Remote::parse(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_property_string_has_the_form_that_qm_takes() {
        let all = format!("host=[fd00::1],port=8007,apitoken={TOKEN},fingerprint=AB:CD");
        let found = remote(&all).unwrap();
        assert_eq!(found.host, "fd00::1");
        assert_eq!(found.url_host(), "[fd00::1]");
        assert_eq!(found.port, 8007);
        assert_eq!(found.fingerprint.as_deref(), Some("AB:CD"));
        let token = found.token.unwrap();
        assert_eq!(token.id(), "root@pam!move");
        assert_eq!(token.secret(), "11111111-2222-3333-4444-555555555555");
        assert_eq!(remote("host=pve2").unwrap().port, 8006);
    }

    #[test]
    fn each_mistake_is_reported_without_the_token() {
        #[rustfmt::skip] // One row a line.
        let table = [
            (format!("apitoken={TOKEN}"), "has no 'host'"),
            (format!("host=,apitoken={TOKEN}"), "has no 'host'"),
            (format!("host=a,host=b,apitoken={TOKEN}"), "has 'host' twice"),
            (format!("host=a, apitoken={TOKEN}"), "a space in front of its part 2"),
            (format!("host=a,{TOKEN},x"), "unknown key in its part 2"),
            (format!("host=a,apitoken={TOKEN},x"), "no '=' in its part 3"),
            (format!("host=a,port=0,apitoken={TOKEN}"), "'port' that is not a number"),
            (format!("host=a,port=65536,apitoken={TOKEN}"), "'port' that is not a number"),
            (format!("host=a,apitoken={TOKEN},fingerprint=ABCD"), "'fingerprint' without colons"),
            (format!("host=a apitoken={TOKEN}"), "has a token in 'host'"),
            (format!("host=a;apitoken={TOKEN}"), "has a token in 'host'"),
            (format!("host=a,fingerprint={TOKEN}"), "has a token in 'fingerprint'"),
            ("host=11111111-2222-3333-4444-555555555555".to_owned(), "has a token in 'host'"),
            ("host=a,apitoken=root@pam!move=11111111-2222".to_owned(), "a part is missing"),
            ("host=a,apitoken=PVEAPIToken=root@pam=11111111-2222".to_owned(), "a part is missing"),
            ("host=a,apitoken=PVEAPIToken=root@pam!move=short".to_owned(), "has 5 characters"),
            ("host=a,apitoken=PVEAPIToken=root@pam!move=1111 11112222".to_owned(), "character 31 is not"),
        ];
        for (text, expected) in table {
            let error = remote(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("1111"), "{error}");
        }
    }
}
