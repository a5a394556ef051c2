//! A PKI for each test.

use crate::x509::{self, Key, Made};
use pagewire_core::net::{Tls, fingerprint};

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
    name: &'static str,
    key: Key,
}

/// A certificate for these names.
pub fn named(names: &[&str]) -> Made {
    Made {
        names: names.iter().map(|name| name.to_string()).collect(),
        ..Made::default()
    }
}

/// A key whose certificate nobody but itself has signed.
pub fn alone() -> Identity {
    alone_with(&named(&["alone.example"]))
}

pub fn alone_with(made: &Made) -> Identity {
    let key = Key::new();
    Identity {
        certificate: x509::certificate(made, &key, made.common_name, &key),
        key: key.pem,
    }
}

impl Authority {
    pub fn new() -> Authority {
        Authority::called("the authority")
    }

    pub fn called(name: &'static str) -> Authority {
        let key = Key::new();
        let made = Made {
            common_name: name,
            is_authority: true,
            ..Made::default()
        };
        let pem = x509::certificate(&made, &key, name, &key);
        Authority { pem, name, key }
    }

    pub fn signs(&self, made: Made) -> Identity {
        let key = Key::new();
        Identity {
            certificate: x509::certificate(&made, &key, self.name, &self.key),
            key: key.pem,
        }
    }

    /// The list of what it took back.
    pub fn revokes(&self, serial: u8, until: u16) -> String {
        x509::revocations(serial, until, self.name, &self.key)
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
