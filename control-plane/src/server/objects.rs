//! Writing objects: from a document to an acknowledged revision. Used by the admin API and by the registry.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use crate::model::document::Document;
use crate::model::{FieldError, Key, Kind, Model, Typed, admit, status, typed};
use crate::source::{Expect, Store, StoreError, Stored, Write};

/// A write that lost a race is tried again this often.
const ATTEMPTS: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{}", list(.0, .1))]
    Invalid(Key, Vec<FieldError>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("internal: {0}")]
    Internal(String),
}

fn list(key: &Key, errors: &[FieldError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    format!("{key} is not valid:\n{}", lines.join("\n"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    CreateOrReplace,
    Create,
    Replace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Configured,
    Unchanged,
}

#[derive(Debug)]
pub struct Applied {
    pub key: Key,
    pub body: Arc<Value>,
    pub outcome: Outcome,
    pub revision: u64,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub mode: Mode,
    pub dry_run: bool,
    pub actor: String,
}

/// Checks and writes one object. Blocks on the disk.
pub fn apply(store: &Store, document: &Document, options: &Options) -> Result<Applied, WriteError> {
    let invalid = |errors| WriteError::Invalid(document.key.clone(), errors);
    typed(&document.key, &document.body).map_err(invalid)?;
    let raw = document.key.raw();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let before = store.get(&raw)?;
        check_mode(&raw, options.mode, document.resource_version, before.as_ref())?;
        let old = before.as_ref().map(|b| &*b.body);
        let Some(body) = admit::admit(old, &document.body, SystemTime::now()) else {
            // `None` only when there is an equal object.
            let Some(before) = before else { return Err(WriteError::Internal(format!("{raw}: nothing to write"))) };
            return Ok(applied(document, before.body, Outcome::Unchanged, before.revision));
        };
        let outcome = if before.is_some() { Outcome::Configured } else { Outcome::Created };
        let expect = before.as_ref().map_or(Expect::Absent, |b| Expect::Revision(b.revision));
        if options.dry_run {
            let revision = before.map_or(0, |b| b.revision);
            return Ok(applied(document, Arc::new(body), outcome, revision));
        }
        let write = Write { key: raw.clone(), body: Some(body), expect, history: true };
        match store.commit(vec![write], &options.actor) {
            Ok(commit) => {
                let written = commit.changes.first().and_then(|c| c.now.clone()).unwrap_or_default();
                return Ok(applied(document, written, outcome, commit.revision));
            }
            Err(StoreError::Conflict { .. } | StoreError::Exists { .. } | StoreError::Missing { .. })
                if attempt < ATTEMPTS => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn applied(document: &Document, body: Arc<Value>, outcome: Outcome, revision: u64) -> Applied {
    Applied { key: document.key.clone(), body, outcome, revision }
}

fn check_mode(raw: &str, mode: Mode, version: Option<u64>, before: Option<&Stored>) -> Result<(), StoreError> {
    let key = || raw.to_owned();
    match (mode, version, before) {
        (Mode::Create, _, Some(b)) => Err(StoreError::Exists { key: key(), actual: b.revision }),
        (Mode::Replace, _, None) | (_, Some(_), None) => Err(StoreError::Missing { key: key() }),
        (_, Some(expected), Some(b)) if expected != b.revision => {
            Err(StoreError::Conflict { key: key(), expected, actual: b.revision })
        }
        _ => Ok(()),
    }
}

/// Deletes one object; gives it back as it was.
pub fn delete(
    store: &Store,
    key: &Key,
    expected: Option<u64>,
    dry_run: bool,
    actor: &str,
) -> Result<(Stored, u64), WriteError> {
    let raw = key.raw();
    let Some(before) = store.get(&raw)? else { return Err(StoreError::Missing { key: raw }.into()) };
    let expect = expected.map_or(Expect::Exists, Expect::Revision);
    if let (Expect::Revision(expected), actual) = (expect, before.revision)
        && expected != actual
    {
        return Err(StoreError::Conflict { key: raw, expected, actual }.into());
    }
    if dry_run {
        let revision = before.revision;
        return Ok((before, revision));
    }
    let commit = store.commit(vec![Write { key: raw, body: None, expect, history: true }], actor)?;
    Ok((before, commit.revision))
}

/// What is accepted but will not work as written.
pub fn warnings(model: &Model, key: &Key, body: &Value) -> Vec<FieldError> {
    let Ok(Typed::Route(route)) = typed(key, body) else { return Vec::new() };
    let mut list = Vec::new();
    for (i, parent) in route.parents.iter().enumerate() {
        if let Some((_, message)) = status::unaccepted(model, &route, parent) {
            list.push(FieldError { path: format!("spec.parentRefs[{i}]"), message });
        }
    }
    for (path, unresolved) in status::unresolved(model, &route) {
        let fate =
            if route.kind == Kind::TcpRoute { "connections for it are closed" } else { "requests for it get 500" };
        let message = format!("{} ({}): {fate}", unresolved.message, unresolved.reason);
        list.push(FieldError { path, message });
    }
    if route.has_hostnames {
        let message = "has no effect on a route of a Service (GAMMA): requests of every host match".into();
        list.push(FieldError { path: "spec.hostnames".into(), message });
    }
    list
}
