//! Two ends of a connection.

use pagewire_core::frame::SessionFrame;
use pagewire_core::net::{
    Accepted, Address, Link, ListenOptions, Listener, NetError, PREAMBLE_LEN, Tls, accept, connect,
};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver as Inbox};
use std::thread;
use std::time::Duration;

/// Long enough for any machine; a test that waits for it has failed.
pub const LONG: Duration = Duration::from_secs(60);

/// What must be late is late after this.
pub const SHORT: Duration = Duration::from_millis(200);

pub const PREAMBLE: [u8; PREAMBLE_LEN] = {
    let mut bytes = [0; PREAMBLE_LEN];
    bytes[0] = 0xF3;
    bytes[1] = b'P';
    bytes[2] = b'W';
    bytes[3] = b'P';
    bytes[4] = 1;
    bytes[5] = 1;
    bytes[8] = 0xAB;
    bytes
};

pub fn options() -> ListenOptions {
    ListenOptions {
        mode: 0o600,
        uid: None,
        gid: None,
        preamble: true,
        max_pending: 16,
        timeout: LONG,
    }
}

/// A folder for a socket, which goes when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let name = format!("pagewire-net-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Accept = dyn Fn(Accepted) + Send + Sync;
type Refuse = dyn Fn(String, String) + Send + Sync;

/// A listener, what it gives out, and whom it refused.
pub struct Door {
    pub listener: Listener,
    pub accepted: Inbox<Accepted>,
    pub refused: Inbox<(String, String)>,
}

impl Door {
    pub fn new(address: &Address, options: ListenOptions) -> Door {
        Door::with(|accept, refuse| Listener::bind(address, options, accept, refuse))
    }

    /// At a socket that listens already.
    pub fn inherit(socket: OwnedFd, options: ListenOptions) -> Door {
        Door::with(|accept, refuse| Listener::inherit(socket, options, accept, refuse))
    }

    fn with(listen: impl FnOnce(Box<Accept>, Box<Refuse>) -> Result<Listener, NetError>) -> Door {
        let (accept, accepted) = mpsc::channel();
        let (refuse, refused) = mpsc::channel();
        let listener = listen(
            Box::new(move |connection| accept.send(connection).unwrap()),
            Box::new(move |peer, reason| refuse.send((peer, reason)).unwrap()),
        )
        .unwrap();
        Door {
            listener,
            accepted,
            refused,
        }
    }

    pub fn tcp(host: &str) -> Door {
        let host = host.to_owned();
        Door::new(&Address::Tcp { host, port: 0 }, options())
    }

    pub fn next(&self) -> Accepted {
        self.accepted.recv_timeout(LONG).unwrap()
    }

    pub fn refusal(&self) -> String {
        self.refused.recv_timeout(LONG).unwrap().1
    }

    pub fn port(&self) -> u16 {
        match self.listener.address() {
            Address::Tcp { port, .. } => *port,
            Address::Unix(_) => panic!("no port"),
        }
    }

    /// A connection of no pagewire.
    pub fn stranger(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }
}

/// Both ends of a handshake.
pub fn shake(
    host: &str,
    source: &Tls,
    destination: &Tls,
) -> (Result<Link, NetError>, Result<Link, NetError>) {
    let door = Door::tcp("127.0.0.1");
    let host = host.to_owned();
    let address = Address::Tcp {
        host,
        port: door.port(),
    };
    thread::scope(|scope| {
        let accepting = scope.spawn(move || {
            let link = accept(door.next().socket, Some(destination), LONG)?;
            link.receive_frame(LONG)?;
            link.send_frame(SessionFrame::Welcome, b"welcome", LONG)?;
            Ok(link)
        });
        let link = connect(&address, &PREAMBLE, Some(source), LONG);
        // What the destination thinks of it comes with the first read.
        let link = link.and_then(|link| {
            let spoke = link.send_frame(SessionFrame::Hello, b"hello", LONG);
            spoke.and_then(|()| link.receive_frame(LONG)).map(|_| link)
        });
        (link, accepting.join().unwrap())
    })
}

/// Both get in.
pub fn both(host: &str, source: &Tls, destination: &Tls) -> (Link, Link) {
    let (source, destination) = shake(host, source, destination);
    (source.unwrap(), destination.unwrap())
}

/// Neither gets in; what each of them says.
pub fn neither(host: &str, source: &Tls, destination: &Tls) -> (NetError, NetError) {
    let (source, destination) = shake(host, source, destination);
    let (source, destination) = (source.err().unwrap(), destination.err().unwrap());
    (source, destination)
}

pub fn says(error: &NetError, code: &str, words: &[&str]) {
    assert_eq!(error.code(), code, "{error}");
    for words in words {
        assert!(
            error.to_string().contains(words),
            "{words:?} is not in {error}"
        );
    }
}

/// A relay to `port` in between: its own port, and a handle that ends both connections when it is dropped. The TLS record
/// of type 23 (application data) from the connecting end that has this number, counted behind the handshake's one, is
/// passed on with its last bit changed.
pub fn relay(port: u16, change: Option<usize>) -> (u16, impl Drop) {
    struct Cut(Option<mpsc::Receiver<TcpStream>>);
    impl Drop for Cut {
        fn drop(&mut self) {
            for stream in self.0.take().unwrap().iter().take(2) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
        for stream in [&near, &far] {
            tell.send(stream.try_clone().unwrap()).unwrap();
        }
        let (mut back_from, mut back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut back_from, &mut back_to));
        let _ = pass_records(near, far, change);
    });
    (own, Cut(Some(told)))
}

fn pass_records(mut from: TcpStream, mut to: TcpStream, change: Option<usize>) -> io::Result<()> {
    let mut preamble = [0; PREAMBLE_LEN];
    from.read_exact(&mut preamble)?;
    to.write_all(&preamble)?;
    // The client's certificate, its signature and its Finished come in records of this type, too.
    let mut seen = 0;
    loop {
        let mut header = [0; 5];
        from.read_exact(&mut header)?;
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        from.read_exact(&mut body)?;
        if header[0] == 23 {
            seen += 1;
            if Some(seen) == change.map(|number| number + HANDSHAKE_RECORDS) {
                *body.last_mut().unwrap() ^= 1;
            }
        }
        to.write_all(&header)?;
        to.write_all(&body)?;
    }
}

/// Encrypted records that the connecting end needs for its handshake: rustls puts all three messages into one.
const HANDSHAKE_RECORDS: usize = 1;
