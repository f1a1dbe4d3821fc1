//! Checks certificates of replicas where webpki alone does not do: none at all, or one that is itself named as trusted.
//!
//! `openssl req -x509` marks the certificate as an authority's. webpki refuses such a certificate for a server, also
//! when it is the very one in `tls.upstream_ca`; OpenSSL and curl accept it. Name, validity and the handshake's
//! signature are checked as for every other certificate.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;

/// Whose certificates are accepted.
#[derive(Debug)]
pub(super) enum Trust {
    /// Everybody's; `--tls-insecure` only.
    Anyone,
    /// Those that lead to a root, and each of `named`.
    Named { by_roots: Arc<WebPkiServerVerifier>, named: Vec<CertificateDer<'static>> },
}

/// Checks the certificates of servers, and that a server has the key of its certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Named { by_roots, named } = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let checked = by_roots.verify_server_cert(end_entity, between, server, ocsp, now);
        // An expired certificate and others with a reason of their own stay refused; "an authority's" has none.
        let is_other = matches!(checked, Err(Error::InvalidCertificate(CertificateError::Other(_))));
        if !is_other || !named.iter().any(|named| named == end_entity) {
            return checked;
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{provider, with_remedy};
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use rustls::RootCertStore;
    use std::time::Duration;

    fn own(until: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["engine".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(until, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_very_certificate_that_is_named_is_accepted_for_its_name_while_it_is_valid() {
        let check = |named: &CertificateDer<'static>, shown: &CertificateDer<'static>, name: &'static str| {
            let mut roots = RootCertStore::empty();
            roots.add(named.clone()).unwrap();
            let by_roots = WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().unwrap();
            let trust = Trust::Named { by_roots, named: vec![named.clone()] };
            let verifier = Verifier { trust, algorithms: provider().signature_verification_algorithms };
            let now = UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600)); // 2026
            verifier.verify_server_cert(shown, &[], &ServerName::try_from(name).unwrap(), &[], now).map(drop)
        };
        let (certificate, another, expired) = (own(2040), own(2040), own(2020));
        check(&certificate, &certificate, "engine").unwrap();
        let refused = |result| matches!(result, Err(Error::InvalidCertificate(_)));
        assert!(refused(check(&certificate, &certificate, "router")), "another name");
        let told = with_remedy(std::io::Error::other(check(&certificate, &another, "engine").unwrap_err()));
        assert!(told.to_string().contains("CA:TRUE"), "another certificate of the same name: {told}");
        assert!(refused(check(&expired, &expired, "engine")), "expired");
    }
}
