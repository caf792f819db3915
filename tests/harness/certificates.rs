//! An authority of a moment and what it signs, for tests of TLS.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    SanType,
};

/// An authority that nobody but the test trusts.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both in PEM.
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Authority {
    /// Makes one.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let mut parameters = parameters(&[]);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// The certificate for clients that are to trust this authority.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// Signs a certificate for these host names and addresses; servers and clients can use it.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.sign(parameters(names))
    }

    /// Signs one for a client with this common name, or this address if the name is one.
    pub fn issue_client(&self, name: &str) -> Identity {
        let mut parameters = parameters(&[]);
        parameters.distinguished_name = DistinguishedName::new();
        if name.contains("://") {
            parameters.subject_alt_names = vec![SanType::URI(name.try_into().expect("ASCII"))];
        } else {
            parameters.distinguished_name.push(DnType::CommonName, name);
        }
        self.sign(parameters)
    }

    /// Signs one that ended long ago.
    pub fn issue_expired(&self, names: &[&str]) -> Identity {
        let mut parameters = parameters(names);
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.sign(parameters)
    }

    fn sign(&self, parameters: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

fn parameters(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("names that a certificate can hold")
}
