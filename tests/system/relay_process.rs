//! A relay in a process: the errors that its peers receive when it is killed, and its memory.

use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Child;
use std::thread;
use testing::relay::{LOOPBACKS, process};
use testing::{pattern, peak_memory, read_to_end};

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_death_of_an_idle_relay_is_a_reset_at_both_ends() {
    for address in LOOPBACKS {
        for length in [1, 2, 1 << 20] {
            let (child, near, mut far) = process(address);
            let request = pattern(length);
            thread::scope(|scope| {
                scope.spawn(|| (&near).write_all(&request).unwrap());
                let mut read = vec![0; length];
                far.read_exact(&mut read).unwrap();
                assert!(read == request);
            });
            far.write_all(b"answer").unwrap();
            (&near).read_exact(&mut [0; 6]).unwrap();
            kill(child);
            let end = read_to_end(&near).1.unwrap_err();
            assert_eq!(end.kind(), ConnectionReset, "after {length}");
            let end = read_to_end(&far).1.unwrap_err();
            assert_eq!(end.kind(), ConnectionReset, "after {length}");
        }
    }
}

#[test]
fn the_death_of_a_relay_during_transfer_is_an_error_at_both_ends() {
    let data = pattern(64 << 20);
    for address in LOOPBACKS {
        let (child, near, far) = process(address);
        thread::scope(|scope| {
            let near_writer = scope.spawn(|| (&near).write_all(&data));
            let far_writer = scope.spawn(|| (&far).write_all(&data));
            let near_reader = scope.spawn(|| {
                (&near).read_exact(&mut vec![0; 1 << 20]).unwrap();
            });
            (&far).read_exact(&mut vec![0; 1 << 20]).unwrap();
            near_reader.join().unwrap();
            kill(child);
            for writer in [near_writer, far_writer] {
                let kind = writer.join().unwrap().unwrap_err().kind();
                assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
            }
        });
    }
}

#[test]
fn the_death_of_a_relay_after_one_direction_has_ended_is_an_error_in_the_other() {
    for address in LOOPBACKS {
        let (child, mut near, mut far) = process(address);
        near.write_all(b"all there is").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let (read, end) = read_to_end(&far);
        end.unwrap();
        assert_eq!(read, b"all there is");
        far.write_all(b"part of an answer").unwrap();
        near.read_exact(&mut [0; 17]).unwrap();
        kill(child);
        assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ConnectionReset);
        let kind = far.write(b"the rest").unwrap_err().kind();
        assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
    }
}

#[test]
fn slow_readers_do_not_increase_the_memory_of_the_process() {
    /// The bytes written in each direction: much more than the memory may grow.
    const LENGTH: usize = 64 << 20;
    let piece = pattern(1 << 20);
    for address in LOOPBACKS {
        let (mut child, near, far) = process(address);
        (&near).write_all(b"x").unwrap();
        (&far).read_exact(&mut [0]).unwrap();
        let before = peak_memory(child.id());
        let write = |stream: &mut dyn Write| {
            for _ in 0..LENGTH / piece.len() {
                stream.write_all(&piece).unwrap();
            }
        };
        let read = |stream: &mut dyn Read| {
            let mut buffer = vec![0; 64 << 10];
            for _ in 0..LENGTH / buffer.len() {
                stream.read_exact(&mut buffer).unwrap();
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| write(&mut &near));
            scope.spawn(|| write(&mut &far));
            scope.spawn(|| read(&mut &near));
            read(&mut &far);
        });
        let grown = peak_memory(child.id()) - before;
        assert!(grown < 8 << 10, "{grown} KiB more");
        drop((near, far));
        assert!(child.wait().unwrap().success());
    }
}
