//! `include/pve_tunnel.h` is the output of cbindgen for `src/ffi`, and the library exports exactly
//! the functions that the header declares.
//!
//! A crate of its own, because `make header` and `make lint` run it without the other tests.
//!
//! After a change of the ABI, write the header again with `UPDATE_HEADER=1 cargo test --release
//! --test header`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The sources in the order of the header.
const SOURCES: [&str; 13] = [
    "version",
    "limits",
    "error",
    "string",
    "mask",
    "codec",
    "tls",
    "capability",
    "configuration",
    "network",
    "connector",
    "listener",
    "seam",
];

#[test]
fn the_committed_header_is_current() {
    let path = root().join("include/pve_tunnel.h");
    let made = make_header();
    if env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let committed = fs::read_to_string(&path).expect("include/pve_tunnel.h is readable");
    let differing = committed
        .lines()
        .zip(made.lines())
        .position(|(committed, made)| committed != made);
    assert!(
        committed == made,
        "include/pve_tunnel.h differs from src/ffi, first at line {}; \
         write it again: UPDATE_HEADER=1 cargo test --release --test header",
        differing.map_or_else(|| "the end".to_owned(), |line| (line + 1).to_string()),
    );
}

#[test]
fn the_library_exports_exactly_the_header() {
    let declared = declared_functions(&make_header());
    let exported = exported_symbols(&shared_library());
    assert!(declared.contains("pve_tunnel_last_error"), "{declared:?}");
    assert_eq!(
        exported, declared,
        "exported by the library, declared by the header"
    );
}

#[test]
fn the_soname_carries_the_abi_version() {
    let library = shared_library();
    let dynamic = run(Command::new("readelf").arg("-d").arg(&library));
    let soname = format!(
        "[libpve_tunnel.so.{}]",
        pve_tunnel::ffi::version::ABI_VERSION
    );
    assert!(
        dynamic
            .lines()
            .any(|line| line.contains("(SONAME)") && line.contains(&soname)),
        "{} should have the soname {soname}",
        library.display()
    );
}

fn make_header() -> String {
    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    config.after_includes = Some(format!(
        "\n// Version of the software that this header came with.\n#define PVE_TUNNEL_VERSION \"{}\"",
        env!("CARGO_PKG_VERSION")
    ));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root().join("src/ffi").join(source).with_extension("rs"));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

/// Names that a header's code (not its comments) declares as functions.
fn declared_functions(header: &str) -> BTreeSet<String> {
    header
        .lines()
        .filter(|line| !line.trim_start().starts_with("//") && !line.trim_start().starts_with('*'))
        .filter_map(|line| {
            let (before, _) = line.split_once('(')?;
            let name = before.rsplit([' ', '*']).next()?;
            name.starts_with("pve_tunnel_").then(|| name.to_owned())
        })
        .collect()
}

fn exported_symbols(library: &Path) -> BTreeSet<String> {
    run(Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(library))
    .lines()
    .filter_map(|line| line.split_whitespace().nth(2).map(str::to_owned))
    .collect()
}

/// The shared library that cargo built with the crate that this test links:
/// `target/<profile>/deps/libpve_tunnel.so`. The file of that name one folder higher may be older.
fn shared_library() -> PathBuf {
    let library = env::current_exe()
        .unwrap()
        .with_file_name("libpve_tunnel.so");
    assert!(library.exists(), "{} is missing", library.display());
    library
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("binutils are installed");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
