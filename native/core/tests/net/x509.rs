//! Certificates and lists of revoked ones, as the tests need them: just enough of X.509 (RFC 5280), in DER. (A crate that
//! makes them would ask for a newer Rust than the core does.)

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

/// An ECDSA key on P-256.
pub struct Key {
    pair: EcdsaKeyPair,
    pub pem: String,
}

impl Key {
    pub fn new() -> Key {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Key {
            pair: EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random).unwrap(),
            pem: pem("PRIVATE KEY", der.as_ref()),
        }
    }

    /// What is to be signed, with its signature.
    fn sign(&self, content: Vec<u8>) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), &content).unwrap();
        sequence(&[content, ecdsa_with_sha256(), bits(signature.as_ref())])
    }
}

/// What a certificate is to say.
pub struct Made {
    /// Subject alternative names: of hosts, or IPv4 addresses.
    pub names: Vec<String>,
    pub common_name: &'static str,
    pub is_authority: bool,
    /// Extended key usages.
    pub for_servers: bool,
    pub for_clients: bool,
    /// From the first day of one to the first day of the other.
    pub years: (u16, u16),
    pub serial: u8,
    /// 2 is version 3.
    pub version: u8,
}

impl Default for Made {
    fn default() -> Self {
        Made {
            names: vec![],
            common_name: "someone",
            is_authority: false,
            for_servers: true,
            for_clients: true,
            years: (2000, 4000),
            serial: 7,
            version: 2,
        }
    }
}

/// A certificate for `key`, signed by the authority of this common name.
pub fn certificate(made: &Made, key: &Key, issuer: &str, issuer_key: &Key) -> String {
    let mut extensions = Vec::new();
    if !made.names.is_empty() {
        let names = made
            .names
            .iter()
            .map(|name| match name.parse::<std::net::Ipv4Addr>() {
                Ok(address) => element(0x87, &address.octets()),
                Err(_) => element(0x82, name.as_bytes()),
            });
        extensions.push(extension(
            0x11,
            false,
            &sequence(&names.collect::<Vec<_>>()),
        ));
    }
    if made.is_authority {
        extensions.push(extension(0x13, true, &sequence(&[element(0x01, &[0xff])])));
        // keyCertSign, cRLSign
        extensions.push(extension(0x0f, true, &element(0x03, &[1, 0b0000_0110])));
    }
    let usages: Vec<_> = [(made.for_servers, 1), (made.for_clients, 2)]
        .iter()
        .filter(|(is_for, _)| *is_for)
        .map(|(_, end)| element(0x06, &[0x2b, 6, 1, 5, 5, 7, 3, *end]))
        .collect();
    if !made.is_authority && !usages.is_empty() {
        extensions.push(extension(0x25, false, &sequence(&usages)));
    }
    let mut content = vec![
        element(0xa0, &element(0x02, &[made.version])),
        element(0x02, &[made.serial]),
        ecdsa_with_sha256(),
        name(issuer),
        sequence(&[time(made.years.0), time(made.years.1)]),
        name(made.common_name),
        sequence(&[P256.to_vec(), bits(key.pair.public_key().as_ref())]),
    ];
    if made.version == 2 && !extensions.is_empty() {
        content.push(element(0xa3, &sequence(&extensions)));
    }
    pem("CERTIFICATE", &issuer_key.sign(sequence(&content)))
}

/// A list with one revoked certificate, which is out of date in the year `until`.
pub fn revocations(serial: u8, until: u16, issuer: &str, issuer_key: &Key) -> String {
    let revoked = sequence(&[element(0x02, &[serial]), time(2001)]);
    let number = extension(0x14, false, &element(0x02, &[1]));
    let content = sequence(&[
        element(0x02, &[1]),
        ecdsa_with_sha256(),
        name(issuer),
        time(2000),
        time(until),
        sequence(&[revoked]),
        element(0xa0, &sequence(&[number])),
    ]);
    pem("X509 CRL", &issuer_key.sign(content))
}

/// AlgorithmIdentifier of an ECDSA key on P-256.
const P256: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];

fn ecdsa_with_sha256() -> Vec<u8> {
    sequence(&[element(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])])
}

/// An organisation and a common name.
fn name(common_name: &str) -> Vec<u8> {
    let part = |kind: u8, text: &str| {
        let text = element(0x0c, text.as_bytes());
        element(0x31, &sequence(&[element(0x06, &[0x55, 4, kind]), text]))
    };
    sequence(&[part(10, "pagewire's tests"), part(3, common_name)])
}

/// The first moment of a year.
fn time(year: u16) -> Vec<u8> {
    if year < 2050 {
        element(0x17, format!("{:02}0101000000Z", year % 100).as_bytes())
    } else {
        element(0x18, format!("{year}0101000000Z").as_bytes())
    }
}

/// One of the extensions 2.5.29.
fn extension(kind: u8, is_critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![element(0x06, &[0x55, 0x1d, kind])];
    if is_critical {
        parts.push(element(0x01, &[0xff]));
    }
    parts.push(element(0x04, value));
    sequence(&parts)
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    bytes.extend_from_slice(content);
    bytes
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
