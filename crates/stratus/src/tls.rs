//! Mutual TLS (RFC 8446, RFC 5246), for a daemon that is reached over the network: whoever may use it may do everything that root may,
//! so each side shows a certificate of an authority that the other trusts, and there is no way to leave that out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The files of one side, in PEM format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Certificates of the authorities that the other side's certificate may come from.
    pub(crate) authority: PathBuf,
    /// This side's certificate, and those between it and its authority.
    pub(crate) certificate: PathBuf,
    /// The key of this side's certificate.
    pub(crate) key: PathBuf,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("TLS cannot use {file}: {why}")]
    File { file: PathBuf, why: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl Error {
    fn file(file: &Path, why: impl ToString) -> Self {
        Self::File { file: file.to_owned(), why: why.to_string() }
    }

    fn setup(why: impl ToString) -> Self {
        Self::Setup(why.to_string())
    }
}

impl Identity {
    /// The files of a directory under the names that `docker` looks for: `ca.pem`, `cert.pem` and `key.pem`.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        let file = |name| directory.join(name);
        Self { authority: file("ca.pem"), certificate: file("cert.pem"), key: file("key.pem") }
    }

    /// For the side that is called, where clients show a certificate.
    pub(crate) fn server(&self) -> Result<ServerConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.authorities()?), provider)
            .build()
            .map_err(|error| Error::file(&self.authority, error))?;
        self.server_of(verifier)
    }

    /// For the side that is called, where clients show something else, and may speak HTTP/2.
    pub(crate) fn server_for_all(&self) -> Result<ServerConfig, Error> {
        let mut config = self.server_of(Arc::new(NoClientAuth))?;
        config.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(config)
    }

    fn server_of(&self, clients: Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::setup)?
            .with_client_cert_verifier(clients)
            .with_single_cert(self.chain()?, self.private_key()?)
            .map_err(|error| Error::file(&self.certificate, error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// For the side that calls.
    pub(crate) fn client(&self) -> Result<ClientConfig, Error> {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::setup)?
            .with_root_certificates(self.authorities()?)
            .with_client_auth_cert(self.chain()?, self.private_key()?)
            .map_err(|error| Error::file(&self.certificate, error))
    }

    fn authorities(&self) -> Result<RootCertStore, Error> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            store.add(certificate).map_err(|error| Error::file(&self.authority, error))?;
        }
        Ok(store)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        certificates(&self.certificate)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_file(&self.key).map_err(|error| Error::file(&self.key, error))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| Error::file(file, error))?;
    match certificates.is_empty() {
        true => Err(Error::file(file, "it holds no certificate in PEM format")),
        false => Ok(certificates),
    }
}
