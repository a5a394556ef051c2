//! TLS 1.3, both ends authenticated; below it a socket.

use super::link::Transport;
use super::trust::{Rule, Trust, fingerprint_of, unreadable};
use super::tunnel::{INBOX, Identity, Tunnel};
use super::{NetError, error};
use crate::descriptor::poll_for;
use rustix::event::{PollFd, PollFlags};
use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, CommonState, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Both ends must name it, so that no other service's server or client can be talked into being ours.
const PROTOCOL: &[u8] = b"pagewire/1";

/// How long an end that refused its peer waits for it to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Who we are, and whom we take for a peer.
#[derive(Clone)]
pub struct Tls {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    fingerprint: String,
    rule: Arc<Rule>,
    server_name: Option<String>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    /// From PEM texts. `pins` are `SHA256:…` of keys; `names` are exact, or `*` and an end, and need `authorities`.
    pub fn new(
        certificate: &str,
        key: &str,
        authorities: Option<&str>,
        revocations: Option<&str>,
        pins: Vec<String>,
        names: Vec<String>,
        server_name: Option<String>,
    ) -> Result<Tls, NetError> {
        let bad =
            |what: &str, why: String| NetError::Identity(format!("cannot use our {what}: {why}"));
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad("certificate", error.to_string()))?;
        let Some(first) = chain.first() else {
            return Err(bad("certificate", "there is none in the file".to_owned()));
        };
        let fingerprint = fingerprint_of(first)
            .map_err(|error| bad("certificate", unreadable(error).to_owned()))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| bad("key", error.to_string()))?;
        let provider = Arc::new(provider());
        // What is wrong with the two is known before anyone is connected to.
        rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(_) => bad(
                    "certificate",
                    "it was not made for our key (the two files do not belong together)".to_owned(),
                ),
                error => bad("key", error.to_string()),
            },
        )?;
        Ok(Tls {
            chain,
            key: Arc::new(key),
            fingerprint,
            rule: Arc::new(Rule::new(authorities, revocations, pins, names)?),
            server_name,
            provider,
        })
    }

    fn trust(&self, dialled: Option<String>) -> Arc<Trust> {
        Arc::new(Trust::new(
            Arc::clone(&self.rule),
            dialled,
            self.provider.signature_verification_algorithms,
        ))
    }

    /// Shakes hands as the end that connected.
    pub(super) fn connect(
        &self,
        transport: &Transport,
        host: &str,
        endpoint: &str,
        until: Instant,
    ) -> Result<Tunnel, NetError> {
        let asked = self.server_name.as_deref().unwrap_or(host);
        let trust = self.trust(Some(asked.to_owned()));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| {
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::clone(&trust) as Arc<_>)
                    .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(unusable)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.enable_secret_extraction = true;
        config.resumption = Resumption::disabled();
        // A name that cannot be one of the DNS is not told; it is held against the certificate all the same.
        let name = ServerName::try_from(asked.to_owned()).unwrap_or_else(|_| {
            config.enable_sni = false;
            ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
        });
        let connection =
            UnbufferedClientConnection::new(Arc::new(config), name).map_err(unusable)?;
        self.shake_hands(connection, transport, &trust, endpoint, until)
    }

    /// Shakes hands as the end that was connected to.
    pub(super) fn accept(
        &self,
        transport: &Transport,
        endpoint: &str,
        until: Instant,
    ) -> Result<Tunnel, NetError> {
        let trust = self.trust(None);
        let config = self.server_config(&trust)?;
        let connection = UnbufferedServerConnection::new(Arc::new(config)).map_err(unusable)?;
        self.shake_hands(connection, transport, &trust, endpoint, until)
    }

    fn server_config(&self, trust: &Arc<Trust>) -> Result<ServerConfig, NetError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(Arc::clone(trust) as Arc<_>)
                    .with_single_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(unusable)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.enable_secret_extraction = true;
        // A connection that breaks is resumed by the session's own means.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn shake_hands<C: Shaking>(
        &self,
        mut connection: C,
        transport: &Transport,
        trust: &Trust,
        endpoint: &str,
        until: Instant,
    ) -> Result<Tunnel, NetError> {
        let wrong = |error: &rustls::Error| match trust.refusal() {
            Some(reason) => NetError::Refused {
                endpoint: endpoint.to_owned(),
                reason,
            },
            None => explain(error, &self.fingerprint, endpoint),
        };
        let mut outgoing = Vec::new();
        let rest = match drive(&mut connection, transport, &mut outgoing, until) {
            Ok(rest) => rest,
            Err(Broken::Late) => {
                return Err(NetError::TimedOut {
                    endpoint: endpoint.to_owned(),
                    operation: "finish the TLS handshake",
                    remedy: C::LATE,
                });
            }
            Err(Broken::Lost(error)) => {
                return Err(NetError::Lost {
                    endpoint: endpoint.to_owned(),
                    operation: "shaking hands (TLS)",
                    reason: lost(&error),
                });
            }
            Err(Broken::Wrong(error)) => {
                tell_why(&outgoing, transport, until);
                return Err(wrong(&error));
            }
        };
        if connection.state().alpn_protocol() != Some(PROTOCOL) {
            return Err(NetError::Protocol {
                endpoint: endpoint.to_owned(),
                reason: NOT_OURS.to_owned(),
            });
        }
        let peer = connection
            .state()
            .peer_certificates()
            .and_then(|chain| fingerprint_of(chain.first()?).ok());
        // There is always one: without it the handshake does not end.
        let peer = peer.ok_or_else(|| wrong(&rustls::Error::NoCertificatesPresented))?;
        let identity = Identity {
            own: self.fingerprint.clone(),
            peer,
            names: trust.names(),
        };
        connection
            .into_tunnel(rest, identity)
            .map_err(|error| wrong(&error))
    }
}

const NOT_OURS: &str =
    "speaks TLS, but not pagewire's protocol in it (is it another service's port?)";

/// rustls would not have our own configuration.
fn unusable(error: rustls::Error) -> NetError {
    NetError::Identity(format!("cannot use our certificate and key: {error}"))
}

/// ring's algorithms, AES-128 first where the processor has AES: it is the fastest, and as safe as what protects the
/// keys.
fn provider() -> CryptoProvider {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    #[cfg(target_arch = "x86_64")]
    let has_aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has_aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has_aes = false;
    let mut suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
    suites.insert(
        if has_aes { suites.len() } else { 0 },
        TLS13_CHACHA20_POLY1305_SHA256,
    );
    CryptoProvider {
        cipher_suites: suites,
        ..ring::default_provider()
    }
}

enum Broken {
    Late,
    Lost(io::Error),
    Wrong(rustls::Error),
}

/// What came behind the handshake.
pub(super) struct Rest {
    /// Not yet decrypted; the first `used` bytes.
    pub(super) incoming: Box<[u8]>,
    pub(super) used: usize,
    /// Decrypted already.
    pub(super) plain: Vec<u8>,
}

/// Either end of a handshake.
trait Shaking {
    type Data;
    /// What to look at where the other end is not done in time.
    const LATE: &'static str;
    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn state(&self) -> &CommonState;
    fn into_tunnel(self, rest: Rest, identity: Identity) -> Result<Tunnel, rustls::Error>;
}

impl Shaking for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const LATE: &'static str = "is it a tls: listener of pagewire?";

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_tunnel(self, rest: Rest, identity: Identity) -> Result<Tunnel, rustls::Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Tunnel::new(secrets, Box::new(keys), rest, identity)
    }
}

impl Shaking for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const LATE: &'static str = "does it connect to a tls: endpoint?";

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_tunnel(self, rest: Rest, identity: Identity) -> Result<Tunnel, rustls::Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Tunnel::new(secrets, Box::new(keys), rest, identity)
    }
}

/// Runs the handshake to its end. What `outgoing` holds where it fails is the alert that says why.
fn drive<C: Shaking>(
    connection: &mut C,
    transport: &Transport,
    outgoing: &mut Vec<u8>,
    until: Instant,
) -> Result<Rest, Broken> {
    let mut rest = Rest {
        incoming: vec![0; INBOX].into_boxed_slice(),
        used: 0,
        plain: Vec::new(),
    };
    loop {
        let mut needs_more = false;
        let UnbufferedStatus { discard, state } = connection.step(&mut rest.incoming[..rest.used]);
        match state {
            Ok(ConnectionState::EncodeTlsData(state)) => encode(state, outgoing)?,
            Ok(ConnectionState::TransmitTlsData(state)) => {
                send_all(transport, outgoing, until)?;
                outgoing.clear();
                state.done();
            }
            Ok(ConnectionState::ReadTraffic(mut state)) => {
                while let Some(record) = state.next_record() {
                    rest.plain
                        .extend_from_slice(record.map_err(Broken::Wrong)?.payload);
                }
            }
            Ok(ConnectionState::BlockedHandshake) => needs_more = true,
            Ok(ConnectionState::WriteTraffic(_)) => {
                rest.discard(discard);
                return Ok(rest);
            }
            Ok(_) => return Err(Broken::Lost(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => {
                rest.discard(discard);
                // Only the alert is wanted: what it failed on must not be looked at again.
                while connection.state().wants_write() {
                    let status = connection.step(&mut rest.incoming[..rest.used]);
                    let Ok(ConnectionState::EncodeTlsData(state)) = status.state else {
                        break;
                    };
                    encode(state, outgoing)?;
                }
                return Err(Broken::Wrong(error));
            }
        }
        rest.discard(discard);
        if needs_more {
            let room = &mut rest.incoming[rest.used..];
            if room.is_empty() {
                return Err(Broken::Wrong(rustls::Error::PeerSentOversizedRecord));
            }
            match receive(transport, room, until)? {
                0 => return Err(Broken::Lost(io::ErrorKind::UnexpectedEof.into())),
                n => rest.used += n,
            }
        }
    }
}

fn encode<D>(mut state: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Result<(), Broken> {
    let at = outgoing.len();
    let mut into = |room: usize| {
        outgoing.resize(at + room, 0);
        state.encode(&mut outgoing[at..])
    };
    let encoded = match into(0) {
        Err(EncodeError::InsufficientSize(error)) => into(error.required_size),
        other => other,
    };
    let length = encoded.map_err(|_| Broken::Wrong(rustls::Error::EncryptError))?;
    outgoing.truncate(at + length);
    Ok(())
}

impl Rest {
    fn discard(&mut self, bytes: usize) {
        self.incoming.copy_within(bytes..self.used, 0);
        self.used -= bytes;
    }
}

fn wait(transport: &Transport, events: PollFlags, until: Instant) -> Result<(), Broken> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Broken::Late);
    }
    let Some(socket) = transport.as_socket() else {
        return Err(Broken::Lost(io::ErrorKind::Unsupported.into()));
    };
    let mut fds = [PollFd::from_borrowed_fd(socket, events)];
    poll_for(&mut fds, Some(left)).map_err(Broken::Lost)
}

fn send_all(transport: &Transport, mut bytes: &[u8], until: Instant) -> Result<(), Broken> {
    while !bytes.is_empty() {
        match transport.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(transport, PollFlags::OUT, until)?;
            }
            Err(error) => return Err(Broken::Lost(error)),
        }
    }
    Ok(())
}

fn receive(transport: &Transport, room: &mut [u8], until: Instant) -> Result<usize, Broken> {
    loop {
        match transport.read(room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(transport, PollFlags::IN, until)?;
            }
            result => return result.map_err(Broken::Lost),
        }
    }
}

/// Sends the alert, and waits until the peer had a chance to read it: what it has sent meanwhile would otherwise make the
/// system send a reset, which overtakes the alert.
fn tell_why(alert: &[u8], transport: &Transport, until: Instant) {
    let until = until.min(Instant::now() + LINGER);
    let Some(socket) = transport.as_socket() else {
        return;
    };
    if alert.is_empty() || send_all(transport, alert, until).is_err() {
        return;
    }
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
    let mut scrap = [0; 4096];
    while Instant::now() < until && receive(transport, &mut scrap, until).is_ok_and(|n| n > 0) {}
}

fn lost(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection (its log says why)".to_owned(),
        _ => error::reason(error),
    }
}

/// What went wrong between the two, for people. `fingerprint` is ours.
pub(super) fn explain(error: &rustls::Error, fingerprint: &str, endpoint: &str) -> NetError {
    let refused = |reason: String| NetError::Refused {
        endpoint: endpoint.to_owned(),
        reason,
    };
    let protocol = |reason: String| NetError::Protocol {
        endpoint: endpoint.to_owned(),
        reason,
    };
    match error {
        rustls::Error::AlertReceived(alert) => {
            let why = match alert {
                AlertDescription::AccessDenied => {
                    format!(
                        "it is not among those allowed there (--peer {fingerprint}, or its name)"
                    )
                }
                AlertDescription::UnknownCA => {
                    format!(
                        "none of its authorities signed it (allow the key there: --peer {fingerprint})"
                    )
                }
                AlertDescription::CertificateExpired => {
                    "it has expired, or is not valid yet (renew it, or look at both clocks)"
                        .to_owned()
                }
                AlertDescription::CertificateRevoked => "it was revoked".to_owned(),
                AlertDescription::CertificateRequired => "it got none".to_owned(),
                AlertDescription::UnsupportedCertificate => {
                    "it was not made for this end (its extended key usage)".to_owned()
                }
                AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::DecryptError => "its log says why".to_owned(),
                AlertDescription::NoApplicationProtocol => return protocol(NOT_OURS.to_owned()),
                AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
                    return protocol("does not speak TLS 1.3 with us".to_owned());
                }
                other => {
                    return protocol(format!("broke off the TLS connection ({other:?})"));
                }
            };
            refused(format!("refused our certificate: {why}"))
        }
        rustls::Error::NoCertificatesPresented => {
            refused("showed no certificate (both ends need one)".to_owned())
        }
        rustls::Error::InvalidCertificate(error) => {
            refused(format!("shows a certificate that is not accepted: {error}"))
        }
        rustls::Error::PeerIncompatible(_) => {
            protocol(format!("does not speak TLS 1.3 with us ({error})"))
        }
        rustls::Error::NoApplicationProtocol => protocol(NOT_OURS.to_owned()),
        rustls::Error::DecryptError | rustls::Error::PeerSentOversizedRecord => {
            protocol("sent bytes that were changed on the way, or that no TLS sends".to_owned())
        }
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => {
            protocol("does not speak TLS (is the other end plain tcp:?)".to_owned())
        }
        other => protocol(format!("broke the rules of TLS: {other}")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::x509::{self, Key, Made};
    use super::*;
    use rustls::ServerConnection;

    /// An end that lets in nobody but itself.
    pub(in super::super) fn narcissus() -> Tls {
        let key = Key::new();
        let certificate = x509::certificate(&Made::default(), &key, "someone", &key);
        let pins = vec![super::super::fingerprint(&certificate).unwrap()];
        Tls::new(&certificate, &key.pem, None, None, pins, vec![], None).unwrap()
    }

    /// rustls's own end, with its own records.
    pub(in super::super) fn reference(tls: &Tls) -> ServerConnection {
        let trust = tls.trust(None);
        let config = tls.server_config(&trust).unwrap();
        ServerConnection::new(Arc::new(config)).unwrap()
    }

    #[test]
    fn aes_128_comes_first_where_the_processor_has_it() {
        let suites = provider().cipher_suites;
        assert_eq!(suites.len(), 3);
        let has_aes = std::fs::read_to_string("/proc/cpuinfo")
            .is_ok_and(|text| text.split_whitespace().any(|flag| flag == "aes"));
        let first = format!("{:?}", suites[0].suite());
        assert_eq!(first.contains("AES_128"), has_aes, "{first}");
    }
}
