//! Connections over real sockets: who gets in and who does not, that bytes and ends arrive as they were sent, and that
//! strangers cost little.

mod certificates;
mod ends;
mod hostile;
mod links;
mod listening;
mod passing;
mod who_gets_in;
mod x509;
