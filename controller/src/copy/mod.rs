//! A closure into a store below a directory of a machine, without an installation.
//!
//! A connection that breaks is made anew, again and again with growing pauses, as long as the
//! copy gets on between two breaks; the machine says what it has, and only the rest is sent.

use crate::closure::ClosureSource;
use crate::install::{InstallError, Line, Link, LinkOptions};
use crate::operator::Operator;
use crate::stop::Stop;
use keystone_protocol::manifest::Manifest;
use keystone_protocol::message::{Copied, CopyRequest};
use std::sync::Arc;

/// What to copy where.
pub struct CopyOptions {
    /// The machine and how to reach it.
    pub link: LinkOptions,
    /// The closure.
    pub manifest: Manifest,
    /// Where its contents come from.
    pub source: Arc<dyn ClosureSource>,
    /// Whether the machine is to fetch itself what it can.
    pub on_target: bool,
    /// The directory on the machine.
    pub root: String,
}

/// Copies.
///
/// # Errors
/// The machine can't be reached, or stays away for longer than the link's patience; the copy
/// fails.
pub async fn copy<O: Operator>(
    options: &CopyOptions,
    operator: &mut O,
    stop: &Stop,
) -> Result<Copied, InstallError> {
    let mut line = Line::to(&options.link);
    loop {
        let (error, got_on) = match line.open(operator, stop).await {
            Ok(link) => match over(link, options, operator, stop).await {
                Ok(copied) => return Ok(copied),
                Err(broken) => broken,
            },
            Err(error) => (error, false),
        };
        if !line.broke(&error, got_on, operator, stop).await {
            return Err(error);
        }
    }
}

/// Over one connection; where it fails, also whether something of the closure came through.
async fn over<O: Operator>(
    mut link: Link,
    options: &CopyOptions,
    operator: &mut O,
    stop: &Stop,
) -> Result<Copied, (InstallError, bool)> {
    let request = CopyRequest { root: options.root.clone(), manifest: options.manifest.clone() };
    let source = Arc::clone(&options.source);
    let done = link.conversation.copy(request, source, options.on_target, operator, stop).await;
    let log = link.conversation.log().lines().map(str::to_owned).collect();
    let got_on = link.conversation.received() > 0;
    let done = done.map_err(|error| InstallError::Copy { error: Box::new(error), log });
    link.end(done.as_ref().err()).await;
    done.map_err(|error| (error, got_on))
}
