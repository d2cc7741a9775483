//! The cipher suites of direct connections, and those of the first attempt with a target's API.

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::ring::default_provider;

/// The provider *ring*, with the cipher suites in order of preference.
///
/// On a processor with AES instructions, AES-128-GCM is first. It has four rounds fewer than AES-256,
/// which makes it about 20 % faster in *ring*, and it is as strong as the key exchange (X25519, P-256)
/// and the signatures. Without AES instructions, as on a nested node with a `kvm64` processor, ChaCha20
/// is many times faster than AES in software.
pub(super) fn provider() -> CryptoProvider {
    let cipher_suites = if has_aes() {
        vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ]
    } else {
        vec![
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
        ]
    };
    CryptoProvider {
        cipher_suites,
        ..default_provider()
    }
}

/// Without the suites of TLS 1.2 that limit the amount of data of a connection (AES-GCM): ChaCha20-Poly1305
/// has no limit that a connection reaches. A server that would prefer AES-GCM then cannot select it.
pub(super) fn without_limited(provider: CryptoProvider) -> CryptoProvider {
    let mut cipher_suites = provider.cipher_suites;
    cipher_suites.retain(|suite| match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit == u64::MAX,
        SupportedCipherSuite::Tls13(_) => true,
    });
    CryptoProvider {
        cipher_suites,
        ..provider
    }
}

/// Whether the processor has instructions for AES and for the carry-less product of GCM.
pub(super) fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    let found = std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let found = std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found = false;
    found
}
