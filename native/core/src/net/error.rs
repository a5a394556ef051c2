use std::io;
use thiserror::Error;

/// Why a connection could not be made, or was not let in. Each names the endpoint, what was being done, the reason, and
/// where there is one the remedy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// There is no connection.
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect {
        /// As the user writes it.
        endpoint: String,
        /// With its remedy.
        reason: String,
    },
    /// Connections cannot be taken there.
    #[error("cannot listen on {endpoint}: {reason}")]
    Listen {
        /// As the user writes it.
        endpoint: String,
        /// With its remedy.
        reason: String,
    },
    /// One end did not take the other for the one it should be.
    #[error("{endpoint} {reason}")]
    Refused {
        /// The other end.
        endpoint: String,
        /// A predicate: `shows a certificate for …`, `refused our certificate …`.
        reason: String,
    },
    /// The other end speaks something else.
    #[error("{endpoint} {reason}")]
    Protocol {
        /// The other end.
        endpoint: String,
        /// A predicate: `does not answer with TLS …`.
        reason: String,
    },
    /// It took too long.
    #[error("{endpoint} did not {operation} in time ({remedy})")]
    TimedOut {
        /// The other end.
        endpoint: String,
        /// What it should have done.
        operation: &'static str,
        /// What to look at.
        remedy: &'static str,
    },
    /// The connection broke before it was a session's.
    #[error("lost the connection to {endpoint} while {operation}: {reason}")]
    Lost {
        /// The other end.
        endpoint: String,
        /// What was going on.
        operation: &'static str,
        /// With its remedy.
        reason: String,
    },
    /// Our own certificate, key or list of authorities cannot be used.
    #[error("{0}")]
    Identity(String),
    /// A descriptor that cannot be used for what it was given for.
    #[error("{0}")]
    Descriptor(String),
    /// Something that the system should always be able to do.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was being done.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl NetError {
    /// The error's stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            NetError::Connect { .. } => "CONNECT_FAILED",
            NetError::Listen { .. } => "LISTEN_FAILED",
            NetError::Refused { .. } => "PEER_REFUSED",
            NetError::Protocol { .. } => "PROTOCOL_ERROR",
            NetError::TimedOut { .. } => "TIMED_OUT",
            NetError::Lost { .. } => "CONNECTION_LOST",
            NetError::Identity(_) => "BAD_IDENTITY",
            NetError::Descriptor(_) => "BAD_DESCRIPTOR",
            NetError::System { .. } => "INTERNAL",
        }
    }

    pub(crate) fn system(operation: &'static str) -> impl FnOnce(io::Error) -> NetError {
        move |source| NetError::System { operation, source }
    }
}

/// The system's words for an error, without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => text.to_owned(),
    }
}
