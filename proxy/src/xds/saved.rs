//! The last good configuration on disk (`--state-dir`): what management servers sent, kept over a restart of this process.
//!
//! It is used where no server answers: when the connection to it fails, or CDS or LDS does not come within
//! `initial_fetch_timeout`. From there on the server is asked as after any lost stream, with the versions that are held, so that its
//! first answer replaces what is out of date. Resources with a time to live are not kept.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message as _;
use sidemesh_config::resource::ResourceKind;
use sidemesh_config::value::Name;
use sidemesh_proto::google::Any;

use super::ORDER;
use super::cascade::Source;
use super::item::Item;
use super::manager::Manager;

const FILE: &str = "configuration.pb";
/// Of the file; another one is not read.
const FORMAT: u32 = 1;
/// Changes are written together: this long after the first of them.
const WRITE_AFTER: Duration = Duration::from_secs(1);
/// Listeners name scopes, scopes tables, tables nothing: so many rounds find all that is needed.
const MAX_ROUNDS: usize = 4;

#[derive(Clone, PartialEq, prost::Message)]
struct Content {
    #[prost(uint32, tag = "1")]
    format: u32,
    /// Of whom it is: another node's configuration is not used.
    #[prost(string, tag = "2")]
    node: String,
    #[prost(message, repeated, tag = "3")]
    resources: Vec<Kept>,
}

/// A resource as it came.
#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(message, required, tag = "3")]
    any: Any,
}

/// What was taken of the file for one subscription: names and versions.
pub(super) struct Restored {
    pub(super) kind: ResourceKind,
    pub(super) source: Source,
    pub(super) versions: Vec<(Name, String)>,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--state-dir: {}: {source}; check the path and its permissions", path.display())]
pub struct StateDirError {
    path: PathBuf,
    source: std::io::Error,
}

/// The file, and what of it is still to be used.
pub struct Saved {
    path: PathBuf,
    node: String,
    /// What an earlier run left, until it is used or a server has answered.
    left: Vec<Kept>,
    /// Kinds that the server has not answered for since the start.
    pub(super) unanswered: BTreeSet<ResourceKind>,
    save_at: Option<Instant>,
    serving: bool,
}

impl Saved {
    /// In `dir`, which is made (mode 0700) when it is missing. A file that cannot be used is told of and left alone until there is
    /// something better to write.
    pub fn open(dir: &Path, node: &str) -> Result<Saved, StateDirError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| StateDirError { path: dir.to_owned(), source })?;
        let path = dir.join(FILE);
        let left = match fs::read(&path) {
            Ok(bytes) => read(&bytes, node).unwrap_or_else(|reason| {
                tracing::warn!(path = %path.display(), reason, "the saved configuration is not used");
                Vec::new()
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(StateDirError { path, source }),
        };
        Ok(Saved { path, node: node.to_owned(), left, unanswered: BTreeSet::new(), save_at: None, serving: false })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.save_at
    }

    /// Written beside the old file and moved into place, mode 0600: there are keys in it.
    fn write(&self, resources: Vec<Kept>) -> std::io::Result<()> {
        let content = Content { format: FORMAT, node: self.node.clone(), resources };
        let temporary = self.path.with_extension("new");
        let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&content.encode_to_vec())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }
}

fn read(bytes: &[u8], node: &str) -> Result<Vec<Kept>, &'static str> {
    let content = Content::decode(bytes).map_err(|_| "it is damaged")?;
    match content {
        Content { format, .. } if format != FORMAT => Err("another release wrote it"),
        Content { node: of, .. } if of != node => Err("it belongs to another node"),
        Content { resources, .. } => Ok(resources),
    }
}

impl Manager {
    /// No server answers: what an earlier run left serves until one does.
    pub(super) fn fall_back(&mut self, now: Instant) {
        let Some(saved) = &mut self.saved else { return };
        let kinds = saved.unanswered.clone();
        let mut left = std::mem::take(&mut saved.left);
        if left.is_empty() || kinds.is_empty() {
            return;
        }
        tracing::warn!(
            resources = left.len(),
            "no management server answers: the saved configuration of an earlier run serves"
        );
        let mut held = Vec::new();
        for (kind, config) in self.roots() {
            if kinds.contains(&kind) {
                let of_kind = |k: &Kept, _: &Name| is_of(k, kind);
                held.push(self.take_left(&mut left, kind, &Source::of(&config, &Source::Ads), of_kind));
                self.answered.insert(kind);
            }
        }
        for _ in 0..MAX_ROUNDS {
            self.assembler.refresh(now);
            for wanted in self.assembler.wanted().to_vec() {
                let all = wanted.kind == ResourceKind::ScopedRoute;
                let is_wanted = |k: &Kept, name: &Name| is_of(k, wanted.kind) && (all || wanted.names.contains(name));
                held.push(self.take_left(&mut left, wanted.kind, &wanted.source, is_wanted));
                if all {
                    self.assembler.handle_settled(wanted.kind, "");
                }
            }
        }
        self.ask_anew(held);
        self.stats.control_plane.serving_saved_configuration.set(1);
        if let Some(saved) = &mut self.saved {
            saved.serving = true;
        }
        self.dirty = true;
    }

    /// Takes what fits out of `left`, as if `source` had sent it; returns what was taken.
    fn take_left(
        &mut self,
        left: &mut Vec<Kept>,
        kind: ResourceKind,
        source: &Source,
        fits: impl Fn(&Kept, &Name) -> bool,
    ) -> Restored {
        let item = |k: Kept| Item { name: k.name, version: k.version, any: Some(k.any), ttl: None };
        let items: Vec<_> = match source {
            // A file is there to be read itself.
            Source::Static | Source::Path { .. } => Vec::new(),
            Source::Ads | Source::Grpc(_) => {
                left.extract_if(.., |k| fits(k, &k.name.as_str().into())).map(item).collect()
            }
        };
        let taken = self.take(kind, source, items);
        for (name, reason) in &taken.rejected {
            tracing::warn!(%name, reason, "a saved resource is not used");
        }
        Restored { kind, source: source.clone(), versions: taken.accepted }
    }

    /// A server has answered for a kind.
    pub(super) fn note_answer(&mut self, kind: ResourceKind) {
        let Some(saved) = &mut self.saved else { return };
        saved.unanswered.remove(&kind);
        if saved.unanswered.is_empty() {
            saved.left = Vec::new();
            if std::mem::take(&mut saved.serving) {
                tracing::info!("a management server answers: its configuration replaces the saved one");
                self.stats.control_plane.serving_saved_configuration.set(0);
            }
        }
    }

    /// The configuration may have changed.
    pub(super) fn note_change(&mut self, now: Instant) {
        if let Some(saved) = &mut self.saved
            && saved.unanswered.is_empty()
        {
            saved.save_at.get_or_insert(now + WRITE_AFTER);
        }
    }

    /// Writes what has changed, when it is time.
    pub(super) fn save(&mut self, now: Instant) {
        let Some(saved) = self.saved.as_mut().filter(|s| s.save_at.is_some_and(|at| at <= now)) else { return };
        saved.save_at = None;
        let resources = self.resources.borrow();
        let mut kept = Vec::new();
        for kind in ORDER {
            let lasting = resources.of(kind).filter(|(name, _)| !self.expiries.contains_key(&(kind, (*name).clone())));
            kept.extend(lasting.filter_map(|(name, entry)| {
                let accepted = entry.accepted.as_ref().filter(|a| !a.is_static)?;
                Some(Kept { name: name.to_string(), version: accepted.version.clone(), any: accepted.raw.clone() })
            }));
        }
        if let Err(error) = saved.write(kept) {
            tracing::error!(path = %saved.path.display(), %error, "the configuration cannot be saved");
        }
    }
}

fn is_of(kept: &Kept, kind: ResourceKind) -> bool {
    ResourceKind::from_type_url(&kept.any.type_url) == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str) -> Kept {
        let any = Any { type_url: ResourceKind::Cluster.type_url().to_owned(), value: vec![1, 2] };
        Kept { name: name.to_owned(), version: "7".to_owned(), any }
    }

    #[test]
    fn what_is_written_comes_back_to_the_same_node_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().join("state");
        let saved = Saved::open(&at, "node-1").expect("a new directory");
        assert_eq!(saved.left, []);
        saved.write(vec![kept("a"), kept("b")]).expect("written");
        let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).expect("there")) & 0o777;
        assert_eq!((mode(&at), mode(&at.join(FILE))), (0o700, 0o600));
        assert_eq!(Saved::open(&at, "node-1").expect("again").left, [kept("a"), kept("b")]);
        assert_eq!(Saved::open(&at, "node-2").expect("another").left, []);
    }

    #[test]
    fn a_damaged_file_is_no_reason_not_to_start() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE), b"\xff\xff").expect("written");
        assert_eq!(Saved::open(dir.path(), "n").expect("usable").left, []);
        fs::write(dir.path().join(FILE), Content { format: FORMAT + 1, ..Content::default() }.encode_to_vec())
            .expect("written");
        assert_eq!(Saved::open(dir.path(), "").expect("usable").left, []);
    }
}
