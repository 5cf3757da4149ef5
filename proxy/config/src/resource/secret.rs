//! Secrets (`tls.v3.Secret`), by name.

mod parse;

use std::sync::Arc;

pub use parse::parse;

use crate::resource::tls::{TlsCertificate, ValidationContext};
use crate::value::{DataSource, Name};

#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    pub name: Name,
    pub value: SecretValue,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SecretValue {
    Certificate(Arc<TlsCertificate>),
    Validation(Arc<ValidationContext>),
    /// `session_ticket_keys`: 80-byte keys, the first encrypts.
    TicketKeys(Vec<DataSource>),
    Generic(DataSource),
}
