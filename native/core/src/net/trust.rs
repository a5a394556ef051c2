//! Whom we take for a peer: one whose key is pinned, or whose certificate an authority of ours vouches for and that bears
//! a name that is let in.

use super::NetError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, TrustAnchor, UnixTime,
};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

/// What every fingerprint begins with.
const PREFIX: &str = "SHA256:";

/// `SHA256:` and the hash of the public key (its SubjectPublicKeyInfo, so a renewed certificate of the same key has the
/// same) of the first certificate in a PEM text, in base64 without padding, as OpenSSH writes such.
pub fn fingerprint(certificate_pem: &str) -> Result<String, NetError> {
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
        .map_err(|error| NetError::Identity(format!("cannot read the certificate: {error}")))?;
    fingerprint_of(&certificate).map_err(|error| {
        NetError::Identity(format!(
            "cannot read the certificate: {}",
            unreadable(error)
        ))
    })
}

pub(super) fn fingerprint_of(certificate: &CertificateDer<'_>) -> Result<String, webpki::Error> {
    let key = EndEntityCert::try_from(certificate)?.subject_public_key_info();
    let hash = digest(&SHA256, &key);
    Ok(format!("{PREFIX}{}", STANDARD_NO_PAD.encode(hash)))
}

/// Why a certificate cannot be read, for people.
pub(super) fn unreadable(error: webpki::Error) -> &'static str {
    match error {
        webpki::Error::UnsupportedCertVersion => "it is not of version 3 (X.509)",
        _ => "it is damaged",
    }
}

/// The rule, as it was configured.
pub(super) struct Rule {
    authorities: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    pins: Vec<String>,
    names: Vec<String>,
}

impl Rule {
    pub(super) fn new(
        authorities: Option<&str>,
        revocations: Option<&str>,
        pins: Vec<String>,
        names: Vec<String>,
    ) -> Result<Rule, NetError> {
        let bad =
            |what: &str, why: String| NetError::Identity(format!("cannot read {what}: {why}"));
        let mut anchors = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(authorities.unwrap_or("").as_bytes()) {
            let what = "the authorities' certificates";
            let certificate = certificate.map_err(|error| bad(what, error.to_string()))?;
            let anchor = anchor_from_trusted_cert(&certificate)
                .map_err(|error| bad(what, unreadable(error).to_owned()))?;
            anchors.push(anchor.to_owned());
        }
        if authorities.is_some() && anchors.is_empty() {
            return Err(bad(
                "the authorities' certificates",
                "there is none in the file".to_owned(),
            ));
        }
        let mut revoked = Vec::new();
        for list in
            CertificateRevocationListDer::pem_slice_iter(revocations.unwrap_or("").as_bytes())
        {
            let what = "the list of revoked certificates";
            let list = list.map_err(|error| bad(what, error.to_string()))?;
            let list = OwnedCertRevocationList::from_der(&list)
                .map_err(|error| bad(what, error.to_string()))?;
            revoked.push(list.into());
        }
        for pin in &pins {
            let hash = pin
                .strip_prefix(PREFIX)
                .map(|hash| STANDARD_NO_PAD.decode(hash));
            if !matches!(hash, Some(Ok(hash)) if hash.len() == SHA256.output_len()) {
                return Err(NetError::Identity(format!(
                    "{pin} is not a key's fingerprint: it must be {PREFIX} and 43 characters, as `pagewire keygen` prints it"
                )));
            }
        }
        if pins.is_empty() && anchors.is_empty() {
            return Err(NetError::Identity(
                "nobody could be trusted: neither keys nor authorities are given (--peer, --tls-dir)".to_owned(),
            ));
        }
        Ok(Rule {
            authorities: anchors,
            revoked,
            pins,
            names,
        })
    }
}

/// Whom we take for the peer of one connection, and what became of it.
pub(super) struct Trust {
    rule: Arc<Rule>,
    /// The host that was dialled; `None` at the accepting end.
    dialled: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Why not.
    refusal: Mutex<Option<String>>,
    /// Who it is: names that were vouched for.
    names: Mutex<Vec<String>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("dialled", &self.dialled)
            .finish_non_exhaustive()
    }
}

impl Trust {
    pub(super) fn new(
        rule: Arc<Rule>,
        dialled: Option<String>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Trust {
        Trust {
            rule,
            dialled,
            algorithms,
            refusal: Mutex::default(),
            names: Mutex::default(),
        }
    }

    /// Why the peer's certificate was refused: a predicate.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The names that were vouched for.
    pub(super) fn names(&self) -> Vec<String> {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn refuse(&self, why: String, error: CertificateError) -> Error {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        Error::InvalidCertificate(error)
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let unreadable = |error| {
            let why = format!(
                "shows a certificate that cannot be read: {}",
                unreadable(error)
            );
            self.refuse(why, CertificateError::BadEncoding)
        };
        let fingerprint = fingerprint_of(certificate).map_err(unreadable)?;
        if self.rule.pins.contains(&fingerprint) {
            return Ok(());
        }
        let by_name = !self.rule.authorities.is_empty()
            && (self.rule.pins.is_empty() || !self.rule.names.is_empty());
        if !by_name {
            let why = format!(
                "shows the key {fingerprint}, which is not among those allowed (give --peer {fingerprint} if that is \
                 right)"
            );
            return Err(self.refuse(why, CertificateError::ApplicationVerificationFailure));
        }
        let certificate = EndEntityCert::try_from(certificate).map_err(unreadable)?;
        self.vouched(&certificate, intermediates, now, usage)?;
        self.named(&certificate, &fingerprint)
    }

    /// Whether one of the authorities signed it, it is in its time, and it has not been taken back.
    fn vouched(
        &self,
        certificate: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let lists: Vec<_> = self.rule.revoked.iter().collect();
        // A list says nothing of the certificates of other authorities; one that is out of date says nothing at all.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let verified = certificate.verify_for_usage(
            self.algorithms.all,
            &self.rule.authorities,
            intermediates,
            now,
            usage,
            revocation,
            None,
        );
        let Err(error) = verified else { return Ok(()) };
        let (why, error) = match error {
            webpki::Error::UnknownIssuer => (
                "that none of our authorities signed (is it of another PKI? give its authority in --tls-dir, or pin its \
                 key with --peer SHA256:…)",
                CertificateError::UnknownIssuer,
            ),
            webpki::Error::CertExpired { .. } => (
                "that has expired (renew it, or look at both clocks)",
                CertificateError::Expired,
            ),
            webpki::Error::CertNotValidYet { .. } => (
                "that is not valid yet (look at both clocks)",
                CertificateError::NotValidYet,
            ),
            webpki::Error::CertRevoked => ("that was revoked", CertificateError::Revoked),
            webpki::Error::CrlExpired { .. } => (
                "whose authority's list of revoked certificates is out of date (renew the list)",
                CertificateError::ExpiredRevocationList,
            ),
            webpki::Error::RequiredEkuNotFoundContext(_) => (
                "that was not made for this end (its extended key usage; TLS server for the destination, TLS client for \
                 the source)",
                CertificateError::InvalidPurpose,
            ),
            webpki::Error::InvalidSignatureForPublicKey => (
                "that none of our authorities signed, though one has its signer's name (was the authority made anew?)",
                CertificateError::UnknownIssuer,
            ),
            webpki::Error::CaUsedAsEndEntity => (
                "that is an authority's (an end needs one of its own)",
                CertificateError::ApplicationVerificationFailure,
            ),
            other => {
                let why = format!("shows a certificate that cannot be verified: {other}");
                return Err(self.refuse(why, CertificateError::ApplicationVerificationFailure));
            }
        };
        Err(self.refuse(format!("shows a certificate {why}"), error))
    }

    /// Whether it bears a name that is let in.
    fn named(&self, certificate: &EndEntityCert<'_>, fingerprint: &str) -> Result<(), Error> {
        let mut names: Vec<String> = certificate
            .valid_dns_names()
            .map(str::to_ascii_lowercase)
            .collect();
        // Clients' certificates of QEMU's and libvirt's instructions have nothing but a common name.
        if names.is_empty() {
            names.extend(common_name(certificate.subject()));
        }
        let wanted: Vec<&String> = if self.rule.names.is_empty() {
            self.dialled.iter().collect()
        } else {
            self.rule.names.iter().collect()
        };
        // Even one without a name.
        let mut matched = wanted.is_empty() || wanted.iter().any(|name| *name == "*");
        for pattern in wanted.iter().map(|name| name.to_ascii_lowercase()) {
            let by_list = names.iter().any(|name| matches(&pattern, name));
            // This knows of addresses and of certificates for *.example.
            let by_rule = ServerName::try_from(pattern.as_str())
                .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok());
            if by_rule && !by_list {
                names.push(pattern);
            }
            matched |= by_rule || by_list;
        }
        if !matched {
            let wanted: Vec<&str> = wanted.iter().map(|name| name.as_str()).collect();
            let wanted = wanted.join(" or ");
            let why = match names.first() {
                Some(first) => format!(
                    "shows a certificate for {}, not for {wanted} (give --peer {first} if that is right)",
                    names.join(", ")
                ),
                None => format!(
                    "shows a certificate without a name, not one for {wanted} (give --peer {fingerprint} if that is right)"
                ),
            };
            return Err(self.refuse(why, CertificateError::ApplicationVerificationFailure));
        }
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        Ok(())
    }
}

/// `*` is any name, `*.example` any one label before `.example`, as in certificates; both are in lower case.
fn matches(pattern: &str, name: &str) -> bool {
    let parent = name.split_once('.').map(|(_, parent)| parent);
    let below = pattern.strip_prefix("*.");
    pattern == name || pattern == "*" || (below.is_some() && below == parent)
}

/// The last common name (OID 2.5.4.3) of a distinguished name: a sequence of sets of (OID, string), in DER. The name
/// comes from a certificate that an authority of ours signed.
fn common_name(mut subject: &[u8]) -> Option<String> {
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const OID: u8 = 0x06;
    const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
    let mut found = None;
    while let Some((SET, set, rest)) = element(subject) {
        subject = rest;
        let mut set = set;
        while let Some((SEQUENCE, attribute, rest)) = element(set) {
            set = rest;
            if let Some((OID, COMMON_NAME, value)) = element(attribute)
                .and_then(|(tag, oid, value)| Some((tag, oid.try_into().ok()?, value)))
            {
                let text = element(value).and_then(|(_, text, _)| std::str::from_utf8(text).ok());
                // It ends up in logs.
                let text = text.filter(|text| !text.contains(char::is_control));
                found = text.map(str::to_ascii_lowercase).or(found);
            }
        }
    }
    found
}

/// Tag and content of the first DER element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (&length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(length)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
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

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
