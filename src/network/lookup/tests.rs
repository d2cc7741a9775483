//! The wait for an answer on a netlink socket without a sender.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Sending a signal to a thread has no safe interface.
#![allow(unsafe_code)]

use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::netlink::{NetlinkError, receive};

fn silent_socket() -> Socket {
    let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.bind_auto().unwrap();
    socket
}

#[test]
fn a_wait_without_an_answer_ends_at_the_time_limit() {
    let started = Instant::now();
    let deadline = started + Duration::from_millis(50);
    let error = receive(&silent_socket(), deadline).unwrap_err().to_string();
    assert!(error.contains("no netlink answer within"), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(50));
}

extern "C" fn ignore(_: libc::c_int) {}

#[test]
fn a_signal_ends_the_wait() {
    // SAFETY: the handler is empty, and nothing else in this test program uses the signal.
    // SA_RESTART is set on purpose: it must not restart this wait.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()), 0);
    }
    let waiting = thread::spawn(|| {
        let deadline = Instant::now() + Duration::from_secs(60);
        receive(&silent_socket(), deadline)
    });
    // A signal that arrives before the wait begins has no effect, so it is sent until the thread
    // ends.
    while !waiting.is_finished() {
        // SAFETY: the thread has not been joined, so its id is valid.
        unsafe { libc::pthread_kill(waiting.as_pthread_t(), libc::SIGUSR1) };
        thread::yield_now();
    }
    let outcome = waiting.join().unwrap();
    assert!(
        matches!(outcome, Err(NetlinkError::Interrupted)),
        "{outcome:?}"
    );
}
