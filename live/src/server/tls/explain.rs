//! Error messages for failed TLS handshakes with a replica or a router, with the remedy.

use rustls::{CertificateError, Error, InvalidMessage};
use std::io;

/// The error with what to do about it, where the library's text has none.
pub(crate) fn with_remedy(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    let words = match cause {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the issuer of its certificate is not known; name the issuer's certificate in `tls.upstream_ca` (or `--ca`)"
        }
        // webpki's refusal of an authority's certificate for a server has no variant of its own.
        Some(Error::InvalidCertificate(CertificateError::Other(other)))
            if format!("{other:?}").contains("CaUsedAs") =>
        {
            "its certificate is an authority's (CA:TRUE), not a server's; name this certificate in `tls.upstream_ca` (or \
             `--ca`), or issue one for the server"
        }
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "it does not speak TLS on this port; give its URL as http://"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_certificates_say_what_to_do() {
        let told = |error: Error| with_remedy(io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        let unknown = told(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(unknown.contains("tls.upstream_ca"), "{unknown}");
        let plain = told(Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert!(plain.contains("http://"), "{plain}");
        assert!(told(Error::InvalidCertificate(CertificateError::Expired)).to_lowercase().contains("expired"));
    }
}
