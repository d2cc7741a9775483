//! Certificates and TLS servers of OpenSSL, the TLS library of pveproxy.

use pve_tunnel::tls::Fingerprint;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, spawn};
use tempfile::TempDir;

/// A self-signed certificate for 127.0.0.1, and its key, made by the command `openssl`.
pub struct Certificate {
    directory: TempDir,
}

impl Certificate {
    /// With these additional arguments of `openssl req -x509`, such as `-newkey ed448`.
    pub fn new(arguments: &[&str]) -> Self {
        let made = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let mut command = made.request();
        let names = ["-x509", "-addext", "subjectAltName=IP:127.0.0.1"];
        run(command.args(names).args(arguments));
        made
    }

    /// Of X.509 version 1, which has no extensions.
    pub fn version_1() -> Self {
        let made = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        // The configuration of the system adds extensions, which require version 3.
        let configuration = made.directory.path().join("configuration");
        std::fs::write(&configuration, "[req]\ndistinguished_name=name\n[name]\n").unwrap();
        let request = || {
            let mut command = made.request();
            command.args(["-x509", "-newkey", "rsa:2048", "-config"]);
            command.arg(&configuration);
            command
        };
        // OpenSSL 3.0 does not have this option; it uses version 1 if there are no extensions.
        let newer = request().arg("-x509v1").output();
        if !newer.unwrap().status.success() {
            run(&mut request());
        }
        let text = Command::new("openssl")
            .args(["x509", "-noout", "-text", "-in"])
            .arg(made.pem())
            .output();
        let text = String::from_utf8(text.unwrap().stdout).unwrap();
        assert!(text.contains("Version: 1 "), "{text}");
        made
    }

    /// That expired in 2021.
    pub fn expired() -> Self {
        let made = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(2021, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let file = |label, der| pem::encode(&pem::Pem::new(label, der));
        let pem = file("CERTIFICATE", certificate.der().to_vec());
        std::fs::write(made.pem(), pem).unwrap();
        std::fs::write(made.key(), file("PRIVATE KEY", key.serialize_der())).unwrap();
        made
    }

    fn request(&self) -> Command {
        let mut command = Command::new("openssl");
        command.args(["req", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout"]);
        command.arg(self.key()).arg("-out").arg(self.pem());
        command
    }

    /// The file with the key.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("key")
    }

    /// The file with the certificate.
    pub fn pem(&self) -> PathBuf {
        self.directory.path().join("pem")
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&CertificateDer::from_pem_file(self.pem()).unwrap())
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// `openssl s_server`.
pub struct Server {
    child: Child,
    output: Option<JoinHandle<String>>,
    pub address: SocketAddr,
}

impl Server {
    /// Answers each HTTP request with status 200. With these additional arguments, such as `-tls1_2`.
    pub fn start(certificate: &Certificate, arguments: &[&str]) -> Self {
        Self::spawn(certificate, &[&["-www"], arguments].concat())
    }

    /// Receives data on so many connections, one after the other.
    pub fn sink(certificate: &Certificate, connections: usize, arguments: &[&str]) -> Self {
        let number = connections.to_string();
        Self::spawn(certificate, &[&["-naccept", &number], arguments].concat())
    }

    fn spawn(certificate: &Certificate, arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0"])
            .args(["-cipher", "DEFAULT:@SECLEVEL=0", "-cert"])
            .arg(certificate.pem())
            .arg("-key")
            .arg(certificate.key())
            .args(arguments)
            // At the end of its input, the server closes the connection.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let address = loop {
            let mut line = String::new();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "s_server ended");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.trim().parse().unwrap();
            }
        };
        // The server blocks if its output is not read.
        let output = spawn(move || {
            let errors = spawn(move || read_lossy(&mut stderr));
            read_lossy(&mut stdout) + &errors.join().unwrap()
        });
        Self {
            child,
            output: Some(output),
            address,
        }
    }

    /// Types a line into the server's terminal: data for the client, or a command such as `K`.
    pub fn type_line(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        // One write: the server takes a line that arrives in two pieces for a command and data.
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// What the server printed, once it has served its connections.
    pub fn finish(mut self) -> String {
        self.output.take().unwrap().join().unwrap()
    }
}

fn read_lossy(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
