//! An upgrade request is made of any URL and headers, or refused; it never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::websocket::Request;

fuzz_target!(|input: (String, Vec<(String, String)>)| {
    let (url, headers) = input;
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let _ = Request::new(&url, headers);
});
