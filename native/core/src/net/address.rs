use std::fmt;
use std::path::PathBuf;

/// Where a connection goes, or where connections are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A name or a number (an IPv6 one without brackets), and a port.
    Tcp {
        /// Name or number.
        host: String,
        /// 0, to listen: the system chooses.
        port: u16,
    },
}

impl Address {
    /// The endpoint as a user writes it; `tls` in the place of `tcp` where it is one.
    pub fn endpoint(&self, tls: bool) -> String {
        let scheme = if tls { "tls" } else { "tcp" };
        match self {
            Address::Unix(path) => format!("unix:{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => {
                format!("{scheme}:[{host}]:{port}")
            }
            Address::Tcp { host, port } => format!("{scheme}:{host}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint(false))
    }
}
