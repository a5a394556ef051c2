//! A PKI for each test.

use pagewire_core::net::{Tls, fingerprint};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Identity {
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate).unwrap()
    }
}

pub struct Authority {
    pub pem: String,
    pub issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is made with.
pub struct Made {
    /// Subject alternative names.
    pub names: Vec<String>,
    pub common_name: &'static str,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    pub years: (i32, i32),
    pub serial: u64,
}

impl Default for Made {
    fn default() -> Self {
        Made {
            names: vec![],
            common_name: "someone",
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            years: (2000, 4000),
            serial: 7,
        }
    }
}

impl Made {
    pub fn params(self) -> CertificateParams {
        let mut params = CertificateParams::new(self.names).unwrap();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "pagewire's tests");
        params
            .distinguished_name
            .push(DnType::CommonName, self.common_name);
        params.extended_key_usages = self.usages;
        params.not_before = date_time_ymd(self.years.0, 1, 1);
        params.not_after = date_time_ymd(self.years.1, 1, 1);
        params.serial_number = Some(SerialNumber::from(self.serial));
        params
    }
}

/// A certificate for these names.
pub fn named(names: &[&str]) -> Made {
    Made {
        names: names.iter().map(|name| name.to_string()).collect(),
        ..Made::default()
    }
}

pub fn alone() -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = named(&["alone.example"])
        .params()
        .self_signed(&key)
        .unwrap();
    Identity {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

impl Authority {
    pub fn new() -> Authority {
        Authority::called("the authority")
    }

    pub fn called(common_name: &'static str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = Made {
            common_name,
            usages: vec![],
            ..Made::default()
        }
        .params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn signs(&self, made: Made) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = made.params().signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    pub fn revokes(&self, serial: u64, until: i32) -> String {
        CertificateRevocationListParams {
            this_update: date_time_ymd(2000, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2001, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }
}

/// One end that pins keys.
pub fn pinning(own: &Identity, pins: &[String]) -> Tls {
    Tls::new(
        &own.certificate,
        &own.key,
        None,
        None,
        pins.to_vec(),
        vec![],
        None,
    )
    .unwrap()
}

/// One end that asks an authority, and for these names.
pub fn asking(own: &Identity, authority: &Authority, names: &[&str]) -> Tls {
    let names = names.iter().map(|name| name.to_string()).collect();
    let authorities = Some(authority.pem.as_str());
    Tls::new(
        &own.certificate,
        &own.key,
        authorities,
        None,
        vec![],
        names,
        None,
    )
    .unwrap()
}
