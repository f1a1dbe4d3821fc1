//! TLS configuration: the server's certificate chain, and the roots that replicas' certificates are checked against
//! (by [`verifier`]); failed handshakes [`explain`].

mod explain;
mod verifier;

pub(crate) use self::explain::with_remedy;
use self::verifier::{Trust, Verifier};
use crate::config::{ConfigError, Tls};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// A certificate or key file that cannot be used.
#[derive(Debug, Error)]
#[error("`{path}`: {why}")]
pub struct TlsError {
    path: String,
    why: String,
}

impl From<TlsError> for ConfigError {
    fn from(TlsError { path, why }: TlsError) -> Self {
        Self::Read { path, why }
    }
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> TlsError {
    TlsError { path: path.display().to_string(), why: why.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = read.map_err(|error| wrong(path, format!("no PEM certificates can be read ({error})")))?;
    if all.is_empty() {
        return Err(wrong(path, "holds no PEM certificate"));
    }
    Ok(all)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificate chain that clients are shown.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) acceptor: tokio_rustls::TlsAcceptor,
    /// Digest of the chain, to detect a renewed certificate.
    digest: u64,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// What client connections are shown; `None` for plain HTTP.
///
/// # Errors
/// When the files cannot be read or do not belong together.
pub(crate) fn shown(tls: &Tls) -> Result<Option<Shown>, TlsError> {
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else { return Ok(None) };
    let chain = certificates(cert)?;
    let digest = chain.iter().fold(0, |sum: u64, one| sum.rotate_left(1) ^ xxh3_64(one));
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| wrong(key, format!("no PEM private key can be read ({error})")))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|error| wrong(cert, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Shown { acceptor: tokio_rustls::TlsAcceptor::from(Arc::new(config)), digest }))
}

/// The client configuration for https replicas.
///
/// # Errors
/// When the roots cannot be read.
pub fn client_config(tls: &Tls) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| wrong(Path::new("tls"), error))?;
    let trust = if tls.insecure {
        tracing::warn!("tls.insecure: certificates of replicas are NOT checked; anyone between can read and answer");
        Trust::Anyone
    } else if let Some(path) = &tls.upstream_ca {
        let named = certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &named {
            roots.add(certificate.clone()).map_err(|error| wrong(path, error))?;
        }
        let by_roots = WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build();
        Trust::Named { by_roots: by_roots.map_err(|error| wrong(path, error))?, named }
    } else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())));
    };
    let verifier = Verifier { trust, algorithms: provider().signature_verification_algorithms };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Some(Arc::new(builder.with_no_client_auth())))
}
