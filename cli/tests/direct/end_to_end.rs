//! Direct planes from end to end: the connector as a process, a worker's seam, and a listener.

use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use testing::seam::{NegotiatedTunnel, program};
use testing::{pattern, read_to_end, write_in_pieces};

/// More bytes than all buffers in the path hold.
const LENGTH: usize = 64 << 20;

#[test]
fn each_plane_transfers_data_in_both_directions_with_half_close_and_reports_it() {
    for (kind, plane) in [("secure", "tls"), ("insecure", "tcp")] {
        let mut tunnel = NegotiatedTunnel::new(kind);
        let answer = &tunnel.answer;
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(answer["plan"]["plane"], plane, "{answer}");
        assert_eq!(answer["direct"]["plane"], plane, "{answer}");

        let path = program(tunnel.directory.path(), |mut stream| {
            thread::spawn(move || {
                let (data, end) = read_to_end(&stream);
                end.unwrap();
                assert_eq!(data, pattern(LENGTH));
                // The other direction starts only after the end of this one.
                write_in_pieces(&mut stream, &pattern(LENGTH)).unwrap();
            });
        });
        let local = tunnel
            .connector
            .open(&tunnel.target, path.to_str().unwrap());
        write_in_pieces(&local, &pattern(LENGTH)).unwrap();
        local.shutdown(Shutdown::Write).unwrap();
        let (data, end) = read_to_end(&local);
        end.unwrap();
        assert!(data == pattern(LENGTH), "{plane}: {} bytes", data.len());

        let finished = tunnel
            .connector
            .request(&json!({ "control": true, "cmd": "finish" }));
        let record = &finished["record"];
        assert_eq!(record["plane"], plane, "{finished}");
        assert_eq!(record["sent"], LENGTH, "{finished}");
        assert_eq!(record["received"], LENGTH, "{finished}");
        assert_eq!(record["failed"], 0, "{finished}");
        assert_eq!(record["refused"]["key"], 0, "{finished}");
        assert_eq!(
            tunnel.seam.operations(),
            ["hello", "open", "forward", "close"]
        );
        let ended = tunnel.connector.finish();
        assert!(ended.status.success(), "{}", ended.log);
        assert!(ended.log.contains("migration data: plane"), "{}", ended.log);
        assert!(ended.log.contains("record: {"), "{}", ended.log);
        assert!(!ended.log.contains("dead"), "{}", ended.log);
        let listener = tunnel.seam.take_listener();
        let key_hex = listener.opened["key"].as_str().unwrap().to_owned();
        let (result, log) = listener.end();
        result.unwrap();
        assert!(!ended.log.contains(&key_hex) && !log.contains(&key_hex));
    }
}

#[test]
fn a_hundred_connections_at_once_on_several_forwards() {
    for kind in ["secure", "insecure"] {
        let mut tunnel = NegotiatedTunnel::new(kind);
        let path = program(tunnel.directory.path(), |mut stream| {
            thread::spawn(move || {
                let mut request = [0; 4];
                while stream.read_exact(&mut request).is_ok() {
                    stream.write_all(&request).unwrap();
                }
            });
        });
        let remote = path.to_str().unwrap().to_owned();
        let locals: Vec<UnixStream> = (0..4)
            .flat_map(|_| {
                let local = tunnel.connector.forward(&tunnel.target, &remote);
                (0..25)
                    .map(|_| UnixStream::connect(&local).unwrap())
                    .collect::<Vec<_>>()
            })
            .collect();
        for round in 0..20_u32 {
            for (mut local, index) in locals.iter().zip(0_u32..) {
                local
                    .write_all(&(round * 1000 + index).to_be_bytes())
                    .unwrap();
            }
            for (mut local, index) in locals.iter().zip(0_u32..) {
                let mut answer = [0; 4];
                local.read_exact(&mut answer).unwrap();
                assert_eq!(u32::from_be_bytes(answer), round * 1000 + index);
            }
        }
        drop(locals);
        let mut listener = tunnel.seam.listener.lock().unwrap();
        let stat = listener
            .as_mut()
            .unwrap()
            .stat_until(|stat| stat.forwards[0].open == 0);
        // The listener has one forward for the same socket, and the heartbeat is a connection as
        // well.
        assert_eq!(
            (stat.forwards.len(), stat.connections),
            (1, 101),
            "{stat:?}"
        );
        assert_eq!(
            (stat.forwards[0].received, stat.forwards[0].failed),
            (8000, 0),
            "{stat:?}"
        );
    }
}
