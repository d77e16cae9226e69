//! TLS towards registries: the system's authorities, those of the certificates' directories, client certificates.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage, RootCertStore, SignatureScheme,
};

use super::error::TransportCause;

type ClientPair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What a registry's directory of certificates holds.
#[derive(Default)]
struct HostCertificates {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<ClientPair>,
}

/// The TLS settings for one registry. Reads files: not for an async worker.
pub(super) fn client_config(dirs: &[PathBuf], host: &str, verify: bool) -> Result<ClientConfig, TransportCause> {
    let provider = Arc::new(ring::default_provider());
    let own = host_certificates(dirs, host)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TransportCause::Tls(error.to_string()))?;
    let verifier: Arc<dyn ServerCertVerifier> = match verify {
        true => Arc::new(trusting(&provider, own.authorities)?),
        false => Arc::new(Unverified(provider)),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match own.client {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| TransportCause::Certificates(format!("client certificate for {host}: {error}")))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn trusting(provider: &Arc<CryptoProvider>, own: Vec<CertificateDer<'static>>) -> Result<Trusting, TransportCause> {
    let mut roots = RootCertStore::empty();
    // A system without authorities can still reach registries whose own are given.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let pinned = own.iter().map(|certificate| Sha256::digest(certificate).into()).collect();
    roots.add_parsable_certificates(own);
    if roots.is_empty() {
        return Err(TransportCause::Tls(
            "failed to verify certificate: this system has no certificate authorities; install the package ca-certificates".into(),
        ));
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| TransportCause::Tls(error.to_string()))?;
    Ok(Trusting { chain, pinned })
}

fn host_certificates(dirs: &[PathBuf], host: &str) -> Result<HostCertificates, TransportCause> {
    let mut found = HostCertificates::default();
    for dir in dirs.iter().map(|dir| dir.join(host)) {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unusable(&dir, error)),
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in &files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.extend(certificates(file)?),
                Some("cert") => found.client = Some(client_pair(file)?),
                Some("key") if !file.with_extension("cert").exists() => {
                    let message = format!(
                        "missing client certificate {} for key {}",
                        file.with_extension("cert").display(),
                        file.display()
                    );
                    return Err(TransportCause::Certificates(message));
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

fn client_pair(certificate: &Path) -> Result<ClientPair, TransportCause> {
    let key = certificate.with_extension("key");
    if !key.exists() {
        return Err(TransportCause::Certificates(format!(
            "missing key {} for client certificate {}. CA certificates must use the extension .crt",
            key.display(),
            certificate.display()
        )));
    }
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| unusable(&key, error))?;
    Ok((chain, key))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TransportCause> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| unusable(file, error))?;
    match certificates.is_empty() {
        true => Err(unusable(file, "it holds no certificate in PEM format")),
        false => Ok(certificates),
    }
}

fn unusable(path: &Path, reason: impl std::fmt::Display) -> TransportCause {
    TransportCause::Certificates(format!("cannot use {}: {reason}", path.display()))
}

/// Verifies chains, and takes a registry's certificate that was itself put into its directory.
/// Self-signed certificates are made with the mark of an authority by `openssl req -x509`, which a chain's end must not have;
/// everybody who runs a registry of their own has one, so a certificate that is trusted byte for byte needs no chain.
#[derive(Debug)]
struct Trusting {
    chain: Arc<WebPkiServerVerifier>,
    pinned: HashSet<[u8; 32]>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(Error::InvalidCertificate(CertificateError::Other(reason))) = verdict else { return verdict };
        if !self.pinned.contains(&<[u8; 32]>::from(Sha256::digest(end_entity))) {
            tracing::debug!(?server_name, %reason, "the certificate leads to no authority");
            return Err(CertificateError::UnknownIssuer.into());
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// For registries that the configuration calls insecure: any certificate will do.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A failed handshake in the words of Go's TLS library.
pub(super) fn handshake_error(error: &std::io::Error, host: &str) -> TransportCause {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            std::io::ErrorKind::UnexpectedEof => TransportCause::Closed,
            _ => TransportCause::Other(super::dial::reason(error)),
        };
    };
    let failed = |text: &str| TransportCause::Tls(format!("failed to verify certificate: x509: {text}"));
    match tls {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => TransportCause::PlainAnswer,
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => failed("certificate signed by unknown authority"),
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => failed("certificate has expired or is not yet valid"),
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => failed(&format!("certificate is not valid for {host}")),
        Error::InvalidCertificate(other) => failed(&other.to_string()),
        other => TransportCause::Tls(other.to_string()),
    }
}
