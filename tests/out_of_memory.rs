//! A C function with a text first allocates as much memory as reading the text needs at most, and
//! frees it again. So it returns an error before a parser fails to allocate, which would end the
//! process. Here every text that needs much memory for its length stays within that amount.
//!
//! A crate of its own, because its functions of the C library apply to the whole executable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// C functions are called, and functions of the C library are replaced.
#![allow(unsafe_code)]

use pve_tunnel::ffi::{capability, codec, configuration, error, network, seam, string};
use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

/// The length of the texts. What a call needs independently of its text is less than one byte for
/// each of these.
const LENGTH: usize = 256 << 10;

/// Memory of this thread, in bytes, as the allocator of the C library counts it.
#[derive(Clone, Copy)]
struct Memory {
    used: usize,
    /// The most that was used at the same time.
    peak: usize,
    /// How many blocks were allocated.
    blocks: usize,
    /// How many of them were checks: the first blocks, each of which is freed before the next.
    checks: usize,
    /// The largest check.
    checked: usize,
}

impl Memory {
    const NONE: Self = Self {
        used: 0,
        peak: 0,
        blocks: 0,
        checks: 0,
        checked: 0,
    };
}

thread_local! {
    static MEMORY: Cell<Memory> = const { Cell::new(Memory::NONE) };
}

// The library has the global allocator, which calls these functions of the C library. An executable
// may replace them (malloc(3)).
mod replaced {
    use super::{c_int, c_void, freed, used};

    // SAFETY: glibc's own functions, with these types.
    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
        fn __libc_calloc(number: usize, size: usize) -> *mut c_void;
        fn __libc_realloc(pointer: *mut c_void, size: usize) -> *mut c_void;
        fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
        fn __libc_free(pointer: *mut c_void);
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
        // SAFETY: passes the call on. Counting does not allocate: the counter has no destructor,
        // and its initial value is a constant.
        unsafe { used(__libc_malloc(size)) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn calloc(number: usize, size: usize) -> *mut c_void {
        // SAFETY: as above.
        unsafe { used(__libc_calloc(number, size)) }
    }

    /// Counts the old and the new place at the same time, as if the block always moved.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
        // SAFETY: as above; the caller has the old place, with this length, until it is freed.
        unsafe {
            let old = libc::malloc_usable_size(pointer);
            let new = used(__libc_realloc(pointer, size));
            if !pointer.is_null() {
                freed(old);
            }
            new
        }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn posix_memalign(
        place: *mut *mut c_void,
        alignment: usize,
        size: usize,
    ) -> c_int {
        // SAFETY: as above. The caller has a valid place for the result.
        unsafe {
            *place = used(__libc_memalign(alignment, size));
            if (*place).is_null() { libc::ENOMEM } else { 0 }
        }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn free(pointer: *mut c_void) {
        // SAFETY: as above.
        unsafe {
            if !pointer.is_null() {
                freed(libc::malloc_usable_size(pointer));
            }
            __libc_free(pointer);
        }
    }
}

/// The header of a block in glibc's heap.
const HEADER: usize = size_of::<usize>();

fn used(block: *mut c_void) -> *mut c_void {
    // SAFETY: NULL, or just allocated.
    let size = unsafe { libc::malloc_usable_size(block) };
    let _ = MEMORY.try_with(|memory| {
        let mut now = memory.get();
        now.blocks += 1;
        now.used = now.used.wrapping_add(size + HEADER);
        if now.used as isize > now.peak as isize {
            now.peak = now.used;
        }
        memory.set(now);
    });
    block
}

fn freed(size: usize) {
    let _ = MEMORY.try_with(|memory| {
        let mut now = memory.get();
        now.used = now.used.wrapping_sub(size + HEADER);
        if now.used == 0 && now.blocks == now.checks + 1 {
            now.checks += 1;
            now.checked = now.checked.max(now.peak);
            now.peak = 0;
        }
        memory.set(now);
    });
}

const OUT_OF_MEMORY: i32 = error::Status::OutOfMemory as i32;

type Call<'a> = &'a dyn Fn(&CString) -> i32;

/// Calls a function with one text and frees its output.
fn plain(
    function: unsafe extern "C" fn(*const c_char, *mut *mut c_char) -> i32,
    text: &CString,
) -> i32 {
    with_output(|out| {
        // SAFETY: a C string, and a writable output.
        unsafe { function(text.as_ptr(), out) }
    })
}

fn with_output(call: impl FnOnce(*mut *mut c_char) -> i32) -> i32 {
    let mut out = ptr::null_mut();
    let status = call(&mut out);
    // SAFETY: NULL, or made by the library and freed once.
    unsafe { string::pve_tunnel_string_free(out) };
    status
}

/// JSON values that need much memory for their length: the beginning, what is repeated, the end.
const VALUES: [(&str, &str, &str); 12] = [
    ("[", "0,", "0]"),
    ("[", "\"\",", "0]"),
    ("[", "\"a\",", "0]"),
    ("[", "\"\\n\",", "0]"),
    ("[", "[],", "0]"),
    ("[", "[0],", "0]"),
    ("[", "[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]],", "0]"),
    ("[", "{},", "0]"),
    ("[", "{\"\":0},", "0]"),
    ("[", "{\"\":{\"\":{\"\":{\"\":{\"\":{\"\":0}}}}}},", "0]"),
    ("[", "{\"\":[{\"\":[{\"\":[{\"\":[0]}]}]}]},", "0]"),
    ("\"", "\\u202e", "\""),
];

fn repeated(parts: &[&str], (before, unit, after): (&str, &str, &str)) -> CString {
    let mut text = parts[0].to_owned() + before;
    while text.len() < LENGTH {
        text += unit;
    }
    CString::new(text + after + parts[1]).unwrap()
}

#[test]
fn a_value_that_needs_much_memory_is_within_the_checked_amount() {
    let version: Call = &|text| plain(capability::pve_tunnel_version_reply_parse, text);
    let plan: Call = &|text| plain(capability::pve_tunnel_plan, text);
    let endpoint: Call = &|text| plain(network::pve_tunnel_endpoint_check, text);
    let guard: Call = &|text| plain(network::pve_tunnel_guard_check, text);
    let decide: Call = &|text| {
        // SAFETY: C strings, and a writable output.
        with_output(|out| unsafe { seam::pve_tunnel_seam_decide(ptr::null(), text.as_ptr(), out) })
    };
    let answer: Call = &|text| {
        with_output(|out| {
            // SAFETY: as above.
            unsafe { seam::pve_tunnel_seam_answer(c"stat".as_ptr(), text.as_ptr(), out) }
        })
    };
    let select: Call = &|text| {
        with_output(|out| {
            // SAFETY: as above.
            unsafe {
                configuration::pve_tunnel_configuration_select(ptr::null(), text.as_ptr(), out)
            }
        })
    };
    let new: Call = &|text| {
        let mut out = ptr::null_mut();
        // SAFETY: as above, and the codec is freed once.
        unsafe {
            let status = codec::pve_tunnel_codec_new(text.as_ptr(), &mut out);
            codec::pve_tunnel_codec_free(out);
            status
        }
    };
    let calls: [(&str, Call, [&str; 2]); 13] = [
        (
            "version reply",
            version,
            ["{\"api\":2,\"age\":0,\"x\":", "}"],
        ),
        (
            "version reply, caps",
            version,
            ["{\"api\":2,\"age\":0,\"caps\":", "}"],
        ),
        ("plan", plan, ["{\"caps\":", "}"]),
        ("plan, planes", plan, ["{\"planes\":", "}"]),
        ("plan, network", plan, ["{\"migration_network\":", "}"]),
        ("endpoint", endpoint, ["{\"nbd_uri\":", "}"]),
        ("guard", guard, ["{\"address\":", "}"]),
        (
            "seam, request",
            decide,
            [
                "{\"file\":\"/f\",\"node\":\"n\",\"listener\":\"none\",\"direct\":{\"op\":\"hello\",\"x\":",
                "}}",
            ],
        ),
        (
            "seam, sockets",
            decide,
            [
                "{\"file\":\"/f\",\"node\":\"n\",\"listener\":\"none\",\"direct\":{\"op\":\"close\"},\"sockets\":",
                "}",
            ],
        ),
        ("seam, allowed", decide, ["{\"allowed\":", "}"]),
        ("answer", answer, ["{\"x\":", "}"]),
        (
            "select",
            select,
            [
                "{\"side\":\"target\",\"migration_type\":\"secure\",\"migration_network\":",
                "}",
            ],
        ),
        ("codec", new, ["{\"max_frame\":", "}"]),
    ];
    for (name, call, parts) in calls {
        for value in VALUES {
            check(name, value.1, &repeated(&parts, value), call);
        }
    }
}

#[test]
fn a_configuration_that_needs_much_memory_is_within_the_checked_amount() {
    let input = c"{\"side\":\"source\",\"remote\":\"a\"}";
    let select: Call = &|text| {
        with_output(|out| {
            // SAFETY: C strings, and a writable output.
            unsafe {
                configuration::pve_tunnel_configuration_select(text.as_ptr(), input.as_ptr(), out)
            }
        })
    };
    // As many short hosts and sections as a file may have, and as many lines.
    let mut hosts = String::new();
    let mut host = 0;
    for section in 0..64 {
        hosts += &format!("network: n{section}\n remote ");
        for _ in 0..500 {
            hosts += &format!("h{host:x},");
            host += 1;
        }
        hosts += &format!("h{host:x}\n\n");
        host += 1;
    }
    let sections: String = (0..256).map(|n| format!("network: n{n}\n\n")).collect();
    for (name, text) in [
        ("hosts", hosts),
        ("sections", sections),
        ("empty lines", "\n".repeat(LENGTH)),
        ("comments", "#\n".repeat(LENGTH / 2)),
        ("a long line", "a".repeat(LENGTH)),
        (
            "an unknown key",
            format!("network: dc\n {}", "x".repeat(4000)),
        ),
    ] {
        check("configuration", name, &CString::new(text).unwrap(), select);
    }
}

#[track_caller]
fn check(name: &str, what: &str, text: &CString, call: Call) {
    // What a thread allocates once is not counted.
    call(text);
    MEMORY.set(Memory::NONE);
    let status = call(text);
    let memory = MEMORY.get();
    let checked = memory.checked;
    let length = text.count_bytes();
    assert!(status != OUT_OF_MEMORY && memory.checks > 0, "{name}");
    assert!(
        memory.peak <= checked,
        "{name}, {what} (status {status}): {} bytes for {length}, checked {checked}",
        memory.peak
    );
}
