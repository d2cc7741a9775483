//! rustls configurations: system CAs or a pinned fingerprint.
