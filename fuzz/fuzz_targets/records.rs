//! Whatever records a TLS peer sends, the received data is the start of what it sent, and all of it
//! before an announced end. A stream of data alone arrives completely.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::fuzzing::receive_records;

const ALERT: u8 = 21;
const DATA: u8 = 23;
/// Most payload of a record.
const PAYLOAD: usize = 16 << 10;

/// The payload of a close_notify, whose level is without meaning.
fn is_close(kind: u8, payload: &[u8]) -> bool {
    kind == ALERT && matches!(payload, [_, 0])
}

/// The type and the payload of a record without padding: in TLS 1.3 the type is the last byte that is
/// not zero (RFC 8446 §5.4). In TLS 1.2 type 0 is an error, so nothing behind such a record counts.
fn without_padding((kind, payload): (u8, &[u8])) -> (u8, &[u8]) {
    let end = payload.iter().rposition(|byte| *byte != 0);
    match (kind, end) {
        (0, Some(end)) => (payload[end], &payload[..end]),
        _ => (kind, payload),
    }
}

type Input = (u8, Vec<Option<(u8, Vec<u8>)>>, Vec<u8>, u16);

fuzz_target!(|input: Input| {
    let (suite, records, rest, step) = &input;
    let records: Vec<Option<(u8, &[u8])>> = records
        .iter()
        .map(|record| {
            let (kind, payload) = record.as_ref()?;
            Some((*kind, &payload[..payload.len().min(PAYLOAD)]))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let receive = receive_records(usize::from(*suite), &records, rest, usize::from(*step));
    let (received, announced) = runtime.block_on(receive);

    let plain = records
        .iter()
        .all(|record| record.is_some_and(|(kind, payload)| kind == DATA && !payload.is_empty()));

    let records: Vec<_> = records
        .into_iter()
        .map(|record| record.map(without_padding))
        .collect();
    let close = records
        .iter()
        .position(|record| record.is_some_and(|(kind, payload)| is_close(kind, payload)));
    let before_close = &records[..close.unwrap_or(records.len())];
    let sent: Vec<u8> = before_close
        .iter()
        .flatten()
        .filter(|(kind, _)| *kind == DATA)
        .flat_map(|(_, payload)| payload.iter().copied())
        .collect();
    assert!(sent.starts_with(&received));
    if announced {
        assert!(close.is_some());
        assert_eq!(received, sent);
    }
    if plain {
        assert_eq!(received, sent);
        assert!(!announced);
    }
});
