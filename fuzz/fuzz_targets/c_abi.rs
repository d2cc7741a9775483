//! The C functions take any text and any bytes, also none: they return a status, and every output
//! that they write can be freed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::ffi::{capability, codec, configuration, error, network, seam, string, tls};
use std::ffi::{CString, c_char};
use std::ptr;

type Function = unsafe extern "C" fn(*const c_char, *mut *mut c_char) -> i32;

const OF_ONE_TEXT: [Function; 5] = [
    tls::pve_tunnel_fingerprint_parse,
    capability::pve_tunnel_version_reply_parse,
    capability::pve_tunnel_plan,
    network::pve_tunnel_endpoint_check,
    network::pve_tunnel_guard_check,
];

fuzz_target!(|input: (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Vec<u8>>)| {
    let (first, second, pieces) = input;
    let (first, second) = (c_text(first), c_text(second));
    let (first, second) = (pointer(&first), pointer(&second));
    // SAFETY: each text is NULL or a C string, and `out` is writable.
    unsafe {
        for function in OF_ONE_TEXT {
            call(|out| function(first, out));
        }
        call(|out| configuration::pve_tunnel_configuration_select(first, second, out));
        call(|out| seam::pve_tunnel_seam_decide(first, second, out));
        call(|out| seam::pve_tunnel_seam_answer(first, second, out));
        call(|out| tls::pve_tunnel_fingerprint_parse(second, out));

        let mut made = ptr::null_mut();
        if codec::pve_tunnel_codec_new(first, &mut made) != 0 {
            return;
        }
        for piece in &pieces {
            codec::pve_tunnel_codec_feed(made, piece.as_ptr(), piece.len());
            let (mut opcode, mut end, mut payload, mut len) = (0, false, ptr::null_mut(), 0);
            while codec::pve_tunnel_codec_next(made, &mut opcode, &mut end, &mut payload, &mut len)
                == 0
                && opcode != 0
            {
                string::pve_tunnel_bytes_free(payload, len);
            }
        }
        codec::pve_tunnel_codec_free(made);
    }
});

/// Calls a function and frees what it writes.
fn call(function: impl FnOnce(*mut *mut c_char) -> i32) {
    let mut out = ptr::null_mut();
    let status = function(&mut out);
    assert_eq!(status == 0, !out.is_null());
    assert_eq!(status, error::pve_tunnel_last_status());
    assert_ne!(status, error::Status::Panic as i32);
    // SAFETY: NULL, or made by the library and freed once.
    unsafe { string::pve_tunnel_string_free(out) };
}

fn c_text(bytes: Option<Vec<u8>>) -> Option<CString> {
    let mut bytes = bytes?;
    bytes.retain(|byte| *byte != 0);
    CString::new(bytes).ok()
}

fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}
