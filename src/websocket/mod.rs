//! RFC 6455: masking, framing, the client's upgrade.
