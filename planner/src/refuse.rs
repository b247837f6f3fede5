//! Refusals.

use keystone_protocol::message::{Refusal, RefusalKind};

/// A refusal that says what to do.
pub(super) fn refuse(
    kind: RefusalKind,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Refusal {
    Refusal { kind, message: message.into(), hint: Some(hint.into()) }
}

/// A refusal whose sentence is an error with its causes.
pub(super) fn caused(kind: RefusalKind, error: &dyn std::error::Error) -> Refusal {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    Refusal { kind, message, hint: None }
}
