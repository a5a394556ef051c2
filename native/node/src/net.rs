//! Connections. What waits runs on a thread of its own, never on one of libuv's, which others may have filled.

use napi::bindgen_prelude::{Buffer, FnArgs, Object, ToNapiValue, Uint8Array};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Error, JsError, Result, Status};
use napi_derive::napi;
use pagewire_core::frame::{FrameType, MAX_CONTROL, SessionFrame};
use pagewire_core::net::{self, Address, Link, NetError, PREAMBLE_LEN, Tls};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::flow::owned;

type Failure = Error<String>;

fn failure(code: &str, message: impl ToString) -> Failure {
    Error::new(code.to_owned(), message.to_string())
}

/// An error with a stable name for programs.
pub(crate) trait Coded: std::fmt::Display {
    fn code(&self) -> &'static str;
}

impl Coded for NetError {
    fn code(&self) -> &'static str {
        NetError::code(self)
    }
}

fn coded(error: &impl Coded) -> Failure {
    failure(error.code(), error)
}

/// Runs `work` on a thread of its own; the promise gets what `finish` makes of the result on JavaScript's.
pub(crate) fn promise<W, T, E>(
    env: Env,
    work: impl FnOnce() -> std::result::Result<W, E> + Send + 'static,
    finish: impl FnOnce(W) -> T + Send + 'static,
) -> Result<Object<'static>>
where
    W: Send + 'static,
    T: ToNapiValue + 'static,
    E: Coded + Send + 'static,
{
    let (deferred, promise) = env.create_deferred::<T, _>()?;
    // The same object, without the borrow of `env`: it goes to JavaScript before the scope that it was made in ends.
    let promise = Object::from_raw(env.raw(), napi::JsValue::raw(&promise));
    thread::Builder::new()
        .name("connection".to_owned())
        .spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            deferred.resolve(move |env| {
                let failed = match result {
                    Ok(Ok(value)) => return Ok(finish(value)),
                    Ok(Err(error)) => coded(&error),
                    Err(_) => failure(
                        "INTERNAL",
                        "a fault in pagewire itself (see standard error)",
                    ),
                };
                // An error made by JavaScript keeps its code on its way into the promise.
                Err(JsError::from(failed).into_unknown(env).into())
            });
        })
        .map_err(|error| Error::from_reason(format!("cannot start a thread: {error}")))?;
    Ok(promise)
}

fn milliseconds(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

/// See `NativeAddress` in src/native.ts; `fd` only to listen.
#[napi(object)]
pub struct NativeAddress {
    pub kind: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub fd: Option<i32>,
}

impl TryFrom<NativeAddress> for Address {
    type Error = Failure;

    fn try_from(address: NativeAddress) -> std::result::Result<Self, Failure> {
        match (address.path, address.host, address.port) {
            (Some(path), None, None) => Ok(Address::Unix(PathBuf::from(path))),
            (None, Some(host), Some(port)) => Ok(Address::Tcp { host, port }),
            _ => Err(failure(
                "BAD_OPTION",
                "an address is a path, or a host and a port",
            )),
        }
    }
}

impl From<&Address> for NativeAddress {
    fn from(address: &Address) -> Self {
        let mut result = NativeAddress {
            kind: None,
            path: None,
            host: None,
            port: None,
            fd: None,
        };
        match address {
            Address::Unix(path) => {
                result.kind = Some("unix".to_owned());
                result.path = Some(path.display().to_string());
            }
            Address::Tcp { host, port } => {
                result.kind = Some("tcp".to_owned());
                (result.host, result.port) = (Some(host.clone()), Some(*port));
            }
        }
        result
    }
}

/// See `NativeTls` in src/native.ts.
#[napi(object)]
pub struct NativeTls {
    pub certificate: String,
    pub key: String,
    pub authorities: Option<String>,
    pub revocations: Option<String>,
    pub pins: Vec<String>,
    pub names: Vec<String>,
    pub server_name: Option<String>,
}

impl TryFrom<NativeTls> for Tls {
    type Error = NetError;

    fn try_from(tls: NativeTls) -> std::result::Result<Self, NetError> {
        Tls::new(
            &tls.certificate,
            &tls.key,
            tls.authorities.as_deref(),
            tls.revocations.as_deref(),
            tls.pins,
            tls.names,
            tls.server_name,
        )
    }
}

/// See `NativePeer` in src/native.ts.
#[napi(object)]
pub struct NativePeer {
    pub address: String,
    pub fingerprint: Option<String>,
    pub names: Vec<String>,
}

/// A session frame.
#[napi(object)]
pub struct NativeFrame {
    #[napi(js_name = "type")]
    pub kind: u8,
    pub payload: Buffer,
}

/// A connection that stands.
#[napi]
pub struct NativeLink {
    link: Arc<Link>,
}

impl NativeLink {
    /// The link itself, for the session that takes it.
    pub(crate) fn link(&self) -> Result<Arc<Link>, String> {
        Ok(Arc::clone(&self.link))
    }

    fn new(link: Link) -> NativeLink {
        NativeLink {
            link: Arc::new(link),
        }
    }
}

#[napi]
impl NativeLink {
    /// Who is at the other end.
    #[napi]
    pub fn peer(&self) -> NativePeer {
        let peer = self.link.peer().clone();
        NativePeer {
            address: peer.address,
            fingerprint: peer.fingerprint,
            names: peer.names,
        }
    }

    /// Sends a whole session frame.
    #[napi]
    pub fn send(
        &self,
        env: Env,
        kind: u8,
        payload: Uint8Array,
        timeout_ms: u32,
    ) -> Result<Object<'static>> {
        let (link, payload) = (Arc::clone(&self.link), payload.to_vec());
        let kind = session_frame(kind)?;
        if payload.len() > MAX_CONTROL {
            return Err(Error::new(
                Status::InvalidArg,
                "the payload of a session frame is too long",
            ));
        }
        promise(
            env,
            move || link.send_frame(kind, &payload, milliseconds(timeout_ms)),
            |()| (),
        )
    }

    /// Receives a whole session frame.
    #[napi]
    pub fn receive(&self, env: Env, timeout_ms: u32) -> Result<Object<'static>> {
        let link = Arc::clone(&self.link);
        promise(
            env,
            move || link.receive_frame(milliseconds(timeout_ms)),
            |(kind, payload)| NativeFrame {
                kind: FrameType::Session(kind).to_byte(),
                payload: payload.into(),
            },
        )
    }

    /// Sends the routing preamble.
    #[napi]
    pub fn send_preamble(
        &self,
        env: Env,
        preamble: Uint8Array,
        timeout_ms: u32,
    ) -> Result<Object<'static>> {
        let (link, preamble) = (Arc::clone(&self.link), whole(&preamble)?);
        promise(
            env,
            move || link.send_preamble(&preamble, milliseconds(timeout_ms)),
            |()| (),
        )
    }

    /// Receives the routing preamble.
    #[napi]
    pub fn receive_preamble(&self, env: Env, timeout_ms: u32) -> Result<Object<'static>> {
        let link = Arc::clone(&self.link);
        promise(
            env,
            move || link.receive_preamble(milliseconds(timeout_ms)),
            |preamble| Buffer::from(preamble.to_vec()),
        )
    }

    /// Ends the connection.
    #[napi]
    pub fn close(&self) {
        self.link.shutdown();
    }
}

fn session_frame(kind: u8) -> Result<SessionFrame> {
    match FrameType::from_byte(kind) {
        FrameType::Session(kind) => Ok(kind),
        _ => Err(Error::new(
            Status::InvalidArg,
            format!("{kind:#04x} is not the type of a session frame"),
        )),
    }
}

fn whole(preamble: &Uint8Array) -> Result<[u8; PREAMBLE_LEN]> {
    preamble.as_ref().try_into().map_err(|_| {
        Error::new(
            Status::InvalidArg,
            format!("a preamble has {PREAMBLE_LEN} bytes"),
        )
    })
}

/// Connects to another pagewire.
#[napi]
pub fn connect_link(
    env: Env,
    address: NativeAddress,
    preamble: Uint8Array,
    tls: Option<NativeTls>,
    timeout_ms: u32,
) -> Result<Object<'static>> {
    let preamble = whole(&preamble)?;
    let address = Address::try_from(address);
    promise(
        env,
        move || {
            let address = address.map_err(|error| NetError::Descriptor(error.reason.clone()))?;
            let tls = tls.map(Tls::try_from).transpose()?;
            net::connect(&address, &preamble, tls.as_ref(), milliseconds(timeout_ms))
        },
        NativeLink::new,
    )
}

/// Takes over a connection whose preamble has been read.
#[napi]
pub fn accept_link(
    env: Env,
    fd: i32,
    tls: Option<NativeTls>,
    timeout_ms: u32,
) -> Result<Object<'static>> {
    let socket = taken(fd);
    promise(
        env,
        move || {
            let socket = socket?;
            let tls = tls.map(Tls::try_from).transpose()?;
            net::accept(socket, tls.as_ref(), milliseconds(timeout_ms))
        },
        NativeLink::new,
    )
}

/// A descriptor that JavaScript gives away.
fn taken(fd: i32) -> std::result::Result<OwnedFd, NetError> {
    // The duplicate proves that it is open.
    let proof = owned(fd).map_err(|error| NetError::Descriptor(error.reason.clone()))?;
    drop(proof);
    // SAFETY: it is open, and by the contract of `acceptLink` it is ours from now on.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A plain link over a socket, given twice, or two pipes.
#[napi]
pub fn pipe_link(read_fd: i32, write_fd: i32, peer: String) -> Result<NativeLink, String> {
    let (read, write) = (owned(read_fd)?, owned(write_fd)?);
    Link::plain_named(read, write, peer)
        .map(NativeLink::new)
        .map_err(|error| failure("BAD_DESCRIPTOR", error))
}

/// Connects to a QEMU, or to a libvirt daemon.
#[napi]
pub fn connect_socket(
    env: Env,
    address: NativeAddress,
    libvirt: bool,
    timeout_ms: u32,
) -> Result<Object<'static>> {
    let address = Address::try_from(address);
    promise(
        env,
        move || {
            let address = address.map_err(|error| NetError::Descriptor(error.reason.clone()))?;
            net::connect_socket(&address, libvirt, milliseconds(timeout_ms))
        },
        IntoRawFd::into_raw_fd,
    )
}

type AcceptedArgs = FnArgs<(i32, Option<Buffer>, String, Option<String>)>;
type AcceptedFunction = ThreadsafeFunction<AcceptedArgs, (), AcceptedArgs, Status, false>;
type RefusedFunction =
    ThreadsafeFunction<FnArgs<(String, String)>, (), FnArgs<(String, String)>, Status, false>;

/// See `NativeListenOptions` in src/native.ts.
#[napi(object)]
pub struct NativeListenOptions {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub preamble: bool,
    pub max_pending: u32,
    pub timeout_ms: u32,
}

/// Takes connections.
#[napi]
pub struct NativeListener {
    listener: net::Listener,
}

#[napi]
impl NativeListener {
    /// Listens on an address, or on a socket that listens already.
    #[napi(factory)]
    pub fn listen(
        address: NativeAddress,
        options: NativeListenOptions,
        accepted: AcceptedFunction,
        refused: Option<RefusedFunction>,
    ) -> Result<Self, String> {
        let core = net::ListenOptions {
            mode: options.mode.unwrap_or(0o600),
            uid: options.uid,
            gid: options.gid,
            preamble: options.preamble,
            max_pending: options.max_pending as usize,
            timeout: milliseconds(options.timeout_ms),
        };
        let accepted = move |connection: net::Accepted| {
            let preamble = connection.preamble.map(|bytes| bytes.to_vec().into());
            let network = connection.network.map(|network| network.to_string());
            let fd = connection.socket.into_raw_fd();
            hand_over(fd, |fd| {
                let args = (fd, preamble, connection.peer, network);
                accepted.call(args.into(), ThreadsafeFunctionCallMode::NonBlocking)
            });
        };
        let refused = move |peer: String, reason: String| {
            if let Some(refused) = &refused {
                refused.call(
                    (peer, reason).into(),
                    ThreadsafeFunctionCallMode::NonBlocking,
                );
            }
        };
        match address.fd {
            Some(fd) => net::Listener::inherit(owned(fd)?, core, accepted, refused),
            None => net::Listener::bind(&Address::try_from(address)?, core, accepted, refused),
        }
        .map(|listener| NativeListener { listener })
        .map_err(|error| coded(&error))
    }

    /// Where connections are taken.
    #[napi]
    pub fn address(&self) -> NativeAddress {
        self.listener.address().into()
    }

    /// Takes no more connections.
    #[napi]
    pub fn close(&mut self) {
        self.listener.close();
    }
}

/// From now on every internet connection that this process makes carries this mark; 0: none.
#[napi]
pub fn set_mark(mark: u32) -> Result<(), String> {
    net::set_mark(mark).map_err(|error| coded(&error))
}

/// Where a connection was going before it was redirected to us.
#[napi]
pub fn original_destination(fd: i32) -> Result<Option<NativeAddress>, String> {
    let socket = owned(fd)?;
    Ok(net::original_destination(socket.as_fd()).map(|original| {
        NativeAddress::from(&Address::Tcp {
            host: original.ip().to_string(),
            port: original.port(),
        })
    }))
}

/// Gives a descriptor to JavaScript, or closes it if JavaScript is no more.
fn hand_over(fd: i32, call: impl FnOnce(i32) -> Status) {
    if call(fd) != Status::Ok {
        // SAFETY: the call did not take place, so it is still ours alone.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// Sends a descriptor to another process.
#[napi]
pub fn send_descriptor(control_fd: i32, fd: i32, message: Uint8Array) -> Result<(), String> {
    let (control, fd) = (owned(control_fd)?, owned(fd)?);
    net::send_descriptor(control.as_fd(), fd.as_fd(), &message).map_err(|error| coded(&error))
}

type ReceivedFunction =
    ThreadsafeFunction<FnArgs<(i32, Buffer)>, (), FnArgs<(i32, Buffer)>, Status, false>;

/// Receives descriptors from another process.
#[napi]
pub struct NativeReceiver {
    receiver: net::Receiver,
}

#[napi]
impl NativeReceiver {
    /// The descriptor is duplicated and stays the caller's.
    #[napi(constructor)]
    pub fn new(control_fd: i32, received: ReceivedFunction) -> Result<Self, String> {
        let received = move |message: Option<(OwnedFd, Vec<u8>)>| {
            let mode = ThreadsafeFunctionCallMode::NonBlocking;
            match message {
                Some((fd, message)) => hand_over(fd.into_raw_fd(), |fd| {
                    received.call((fd, message.into()).into(), mode)
                }),
                None => {
                    received.call((-1, Vec::new().into()).into(), mode);
                }
            }
        };
        net::Receiver::new(owned(control_fd)?, received)
            .map(|receiver| NativeReceiver { receiver })
            .map_err(|error| coded(&error))
    }

    /// Receives no more.
    #[napi]
    pub fn close(&mut self) {
        self.receiver.close();
    }
}

/// Two ends of a local connection that keeps messages apart.
#[napi]
pub fn socket_pair() -> Result<Vec<i32>> {
    let (one, other) = net::socket_pair()?;
    Ok(vec![one.into_raw_fd(), other.into_raw_fd()])
}

/// Two ends of a local byte stream.
#[napi]
pub fn stream_pair() -> Result<Vec<i32>> {
    let (one, other) = net::stream_pair()?;
    Ok(vec![one.into_raw_fd(), other.into_raw_fd()])
}

/// See `NativeKey` in src/native.ts.
#[napi(object)]
pub struct NativeKey {
    pub key: String,
    pub certificate: String,
    pub fingerprint: String,
}

/// Makes a key and a certificate that it signs itself, for an end whose peers pin it. The certificate has no end that
/// matters: who pins a key asks for nothing else.
#[napi]
pub fn keygen(name: String) -> Result<NativeKey, String> {
    let made = || -> std::result::Result<(KeyPair, rcgen::Certificate), rcgen::Error> {
        // ECDSA on P-256: every TLS library has it.
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![name.clone()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.self_signed(&key)?;
        Ok((key, certificate))
    };
    let (key, certificate) = made()
        .map_err(|error| failure("BAD_OPTION", format!("cannot make a certificate: {error}")))?;
    let certificate = certificate.pem();
    Ok(NativeKey {
        key: key.serialize_pem(),
        fingerprint: net::fingerprint(&certificate).map_err(|error| coded(&error))?,
        certificate,
    })
}

/// The fingerprint of a certificate's public key.
#[napi]
pub fn fingerprint_of(certificate_pem: String) -> Result<String, String> {
    net::fingerprint(&certificate_pem).map_err(|error| coded(&error))
}

/// Tells the service manager that listens at `path` how we are.
#[napi]
pub fn notify(path: String, state: String) -> Result<()> {
    Ok(net::notify(&path, &state)?)
}

/// The other end of a connected socket, for people.
#[napi]
pub fn peer_of_socket(fd: i32) -> Result<String, String> {
    Ok(net::peer_of(owned(fd)?.as_fd(), false))
}

/// Where a socket is: of one that listens, where it takes connections.
#[napi]
pub fn address_of_socket(fd: i32) -> Result<NativeAddress, String> {
    let address = net::address_of(owned(fd)?.as_fd()).map_err(|error| coded(&error))?;
    Ok(NativeAddress::from(&address))
}

/// Whether connections can be accepted from this descriptor.
#[napi]
pub fn is_listening(fd: i32) -> Result<bool, String> {
    Ok(net::is_listening(owned(fd)?.as_fd()))
}
