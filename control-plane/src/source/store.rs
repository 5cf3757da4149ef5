//! The embedded store over redb.

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::broadcast;

use super::{Change, Commit, Expect, RawKey, StoreError, Stored, Version, Write, verify};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const HISTORY: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("history");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const USED_TOKENS: TableDefinition<'_, &str, u64> = TableDefinition::new("used_tokens");

/// Join tokens that a node shows again on each stream, and which node that is.
const NODE_TOKENS: TableDefinition<'_, &str, &str> = TableDefinition::new("node_tokens");

const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// Raised when the tables change their meaning.
const FORMAT_VERSION: u64 = 1;

/// Versions kept of each object.
pub const HISTORY_LIMIT: usize = 32;
/// Transactions kept in memory for watchers that resume, and queued for each that is connected.
pub const WATCH_QUEUE: usize = 4096;
/// One object, as JSON: etcd's request limit, which Kubernetes has too.
const OBJECT_LIMIT_BYTES: usize = 1_500_000;
const CACHE_BYTES: usize = 8 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct HistoryRecord {
    at_unix_ms: u64,
    actor: String,
    body: Option<Value>,
}

/// The store. Writes block on the disk: call them off the runtime's threads.
pub struct Store {
    /// `None`: it failed and could not be opened again yet.
    db: RwLock<Option<Database>>,
    path: PathBuf,
    /// Held for the length of a write: one at a time.
    writer: Mutex<Writer>,
    /// Held for moments; never while the disk works.
    recent: Mutex<Recent>,
    announce: broadcast::Sender<Arc<Commit>>,
    /// Held for as long as the store is open; the kernel lets go of it when the process dies.
    _lock: File,
}

#[derive(Default)]
struct Writer {
    /// A write failed: redb wants the file opened again before the next.
    broken: bool,
}

struct Recent {
    revision: u64,
    commits: VecDeque<Arc<Commit>>,
    /// Changes after this revision are in `commits`.
    since: u64,
}

impl Store {
    /// Opens the file, making it when it is absent.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let lock = lock(path)?;
        verify::verify(path)?;
        let (db, revision) = open(path)?;
        let recent = Recent { revision, commits: VecDeque::new(), since: revision };
        let (announce, _) = broadcast::channel(WATCH_QUEUE);
        let (db, path) = (RwLock::new(Some(db)), path.to_owned());
        Ok(Store { db, path, writer: Mutex::default(), recent: Mutex::new(recent), announce, _lock: lock })
    }

    /// The revision of the last acknowledged write.
    pub fn revision(&self) -> u64 {
        self.recent().revision
    }

    pub fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.read(|txn| {
            let table = txn.open_table(OBJECTS)?;
            Ok(table.get(key)?.map(|guard| (key.to_owned(), guard.value().to_vec())))
        })?
        .map(|(key, bytes)| self.decode(key, &bytes))
        .transpose()
    }

    /// All objects whose key starts with `prefix`, and the revision at which that is true.
    pub fn list(&self, prefix: &str) -> Result<(Vec<Stored>, u64), StoreError> {
        let (rows, revision) = self.read(|txn| {
            let table = txn.open_table(OBJECTS)?;
            let mut rows = Vec::new();
            for row in table.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            let revision = txn.open_table(META)?.get(REVISION)?.map_or(0, |r| r.value());
            Ok((rows, revision))
        })?;
        let objects = rows.into_iter().map(|(key, bytes)| self.decode(key, &bytes)).collect::<Result<_, _>>()?;
        Ok((objects, revision))
    }

    /// The kept versions of one object, newest first.
    pub fn history(&self, key: &str) -> Result<Vec<Version>, StoreError> {
        let rows = self.read(|txn| {
            let table = txn.open_table(HISTORY)?;
            let mut rows = Vec::new();
            for row in table.range((key, 0)..=(key, u64::MAX))?.rev() {
                let (row_key, value) = row?;
                rows.push((row_key.value().1, value.value().to_vec()));
            }
            Ok(rows)
        })?;
        rows.into_iter()
            .map(|(revision, bytes)| {
                let record: HistoryRecord = serde_json::from_slice(&bytes).map_err(|e| self.corrupt(key, &e))?;
                Ok(Version { revision, at_unix_ms: record.at_unix_ms, actor: record.actor, body: record.body })
            })
            .collect()
    }

    /// Writes all or nothing. Returns after the disk has it.
    pub fn commit(&self, writes: Vec<Write>, actor: &str) -> Result<Arc<Commit>, StoreError> {
        let mut writer = self.begin()?;
        let revision = self.revision() + 1;
        let at = SystemTime::now();
        let changes = self.transact(&mut writer, |txn| {
            let mut changes = Vec::with_capacity(writes.len());
            for write in writes {
                changes.push(self.put(txn, write, revision, at, actor)?);
            }
            let mut meta = txn.open_table(META).map_err(|e| self.failed(&e.into()))?;
            meta.insert(REVISION, revision).map_err(|e| self.failed(&e.into()))?;
            Ok(changes)
        })?;

        let commit = Arc::new(Commit { revision, at, changes });
        let mut recent = self.recent();
        recent.revision = revision;
        if recent.commits.len() == WATCH_QUEUE
            && let Some(oldest) = recent.commits.pop_front()
        {
            recent.since = oldest.revision;
        }
        recent.commits.push_back(commit.clone());
        // No receiver is no error; sent under the lock so that watchers see revisions in order.
        let _receivers = self.announce.send(commit.clone());
        Ok(commit)
    }

    /// Waits for the turn to write; after a failed write, opens the file again first.
    fn begin(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.broken {
            let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
            // Closed before it is opened: redb locks the file.
            *db = None;
            let (fresh, revision) = open(&self.path)?;
            *db = Some(fresh);
            writer.broken = false;
            let mut recent = self.recent();
            if recent.revision != revision {
                // The failed write had reached the disk after all. Watchers see the gap in the revisions.
                recent.revision = revision;
                recent.since = revision;
                recent.commits.clear();
            }
        }
        Ok(writer)
    }

    fn transact<T>(
        &self,
        writer: &mut Writer,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or_else(|| self.closed())?;
        let result = db.begin_write().map_err(|e| self.failed(&e.into())).and_then(|txn| {
            let value = work(&txn)?;
            txn.commit().map_err(|e| self.failed(&e.into()))?;
            Ok(value)
        });
        writer.broken |= result.as_ref().is_err_and(StoreError::is_storage);
        result
    }

    fn closed(&self) -> StoreError {
        let reason = "it failed and could not be opened again".to_owned();
        StoreError::Failed { path: self.path.display().to_string(), reason }
    }

    /// Changes after `from`, then all later ones through the receiver, without a gap.
    pub fn watch(&self, from: u64) -> Result<(Vec<Arc<Commit>>, broadcast::Receiver<Arc<Commit>>), StoreError> {
        let recent = self.recent();
        if from < recent.since {
            return Err(StoreError::Compacted { from, oldest: recent.since });
        }
        let missed = recent.commits.iter().filter(|c| c.revision > from).cloned().collect();
        Ok((missed, self.announce.subscribe()))
    }

    /// When the write of `revision` was acknowledged; `None` when that is no longer known.
    pub fn written_at(&self, revision: u64) -> Option<SystemTime> {
        self.recent().commits.iter().rev().find(|c| c.revision == revision).map(|c| c.at)
    }

    /// Notes that a token was used. False: it was used before. Forgets the ids of tokens that have expired.
    pub fn use_token(&self, id: &str, expires_unix_s: u64, now_unix_s: u64) -> Result<bool, StoreError> {
        let mut writer = self.begin()?;
        let wrap = |e: redb::Error| self.failed(&e);
        self.transact(&mut writer, |txn| {
            let mut table = txn.open_table(USED_TOKENS).map_err(|e| wrap(e.into()))?;
            table.retain(|_, expires| expires >= now_unix_s).map_err(|e| wrap(e.into()))?;
            Ok(table.insert(id, expires_unix_s).map_err(|e| wrap(e.into()))?.is_none())
        })
    }

    /// Notes that a token belongs to one node from now on. False: it was used before, by another.
    pub fn bind_token(&self, id: &str, node: &str, expires_unix_s: u64) -> Result<bool, StoreError> {
        let mut writer = self.begin()?;
        let wrap = |e: redb::Error| self.failed(&e);
        self.transact(&mut writer, |txn| {
            let mut table = txn.open_table(NODE_TOKENS).map_err(|e| wrap(e.into()))?;
            let owner = table.get(id).map_err(|e| wrap(e.into()))?.map(|guard| guard.value().to_owned());
            if let Some(owner) = owner {
                return Ok(owner == node);
            }
            let mut used = txn.open_table(USED_TOKENS).map_err(|e| wrap(e.into()))?;
            let fresh = used.insert(id, expires_unix_s).map_err(|e| wrap(e.into()))?.is_none();
            if fresh {
                table.insert(id, node).map_err(|e| wrap(e.into()))?;
            }
            Ok(fresh)
        })
    }

    /// Is this token bound to this node already?
    pub fn is_bound(&self, id: &str, node: &str) -> Result<bool, StoreError> {
        self.read(|txn| {
            let table = txn.open_table(NODE_TOKENS)?;
            Ok(table.get(id)?.is_some_and(|guard| guard.value() == node))
        })
    }

    fn put(
        &self,
        txn: &redb::WriteTransaction,
        write: Write,
        revision: u64,
        at: SystemTime,
        actor: &str,
    ) -> Result<Change, StoreError> {
        let Write { key, mut body, expect, history } = write;
        let wrap = |e: redb::Error| self.failed(&e);
        let mut table = txn.open_table(OBJECTS).map_err(|e| wrap(e.into()))?;
        let before = table.get(key.as_str()).map_err(|e| wrap(e.into()))?.map(|guard| guard.value().to_vec());
        let before = before.map(|bytes| self.decode(key.clone(), &bytes)).transpose()?;
        check(&key, expect, before.as_ref(), body.is_none())?;

        match &mut body {
            Some(body) => {
                body["metadata"]["resourceVersion"] = Value::String(revision.to_string());
                let bytes = body.to_string().into_bytes();
                if bytes.len() > OBJECT_LIMIT_BYTES {
                    return Err(StoreError::TooLarge { key, size: bytes.len(), limit: OBJECT_LIMIT_BYTES });
                }
                table.insert(key.as_str(), bytes.as_slice()).map_err(|e| wrap(e.into()))?;
            }
            None => {
                table.remove(key.as_str()).map_err(|e| wrap(e.into()))?;
            }
        }
        drop(table);
        if history {
            let record = HistoryRecord { at_unix_ms: unix_ms(at), actor: actor.to_owned(), body: body.clone() };
            add_history(txn, &key, revision, &record).map_err(wrap)?;
        }
        Ok(Change { key, now: body.map(Arc::new), before: before.map(|b| b.body) })
    }

    fn read<T>(&self, work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or_else(|| self.closed())?;
        let txn = db.begin_read().map_err(|e| self.failed(&e.into()))?;
        work(&txn).map_err(|e| self.failed(&e))
    }

    fn decode(&self, key: RawKey, bytes: &[u8]) -> Result<Stored, StoreError> {
        let body: Value = serde_json::from_slice(bytes).map_err(|e| self.corrupt(&key, &e))?;
        let revision = body["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0);
        Ok(Stored { key, revision, body: Arc::new(body) })
    }

    fn corrupt(&self, key: &str, e: &serde_json::Error) -> StoreError {
        StoreError::Corrupt { path: self.path.display().to_string(), reason: format!("object {key}: {e}") }
    }

    fn failed(&self, e: &redb::Error) -> StoreError {
        failed(&self.path, e)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Nothing below panics half way through a change of `Recent`.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a second process away before it so much as reads the file.
fn lock(path: &Path) -> Result<File, StoreError> {
    let name = path.display().to_string();
    let unusable = |e: std::io::Error| {
        if is_full(&e) {
            StoreError::DiskFull { path: name.clone() }
        } else {
            StoreError::Unusable { path: name.clone(), reason: e.to_string() }
        }
    };
    let file = File::options().create(true).truncate(false).write(true).open(path.with_extension("lock"));
    let file = file.map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: name }),
        Err(TryLockError::Error(e)) => Err(unusable(e)),
    }
}

/// Opens the file and makes its tables; with the revision that it is at.
fn open(path: &Path) -> Result<(Database, u64), StoreError> {
    let name = path.display().to_string();
    let db = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|e| match e {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Locked { path: name.clone() },
        redb::DatabaseError::Storage(redb::StorageError::Io(e)) if is_full(&e) => {
            StoreError::DiskFull { path: name.clone() }
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(e)) => {
            StoreError::Unusable { path: name.clone(), reason: e.to_string() }
        }
        other => StoreError::Corrupt { path: name.clone(), reason: other.to_string() },
    })?;
    let (revision, format) = prepare(&db).map_err(|e| failed(path, &e))?;
    if format != FORMAT_VERSION {
        let reason = format!("it has format {format}, this program reads {FORMAT_VERSION}");
        return Err(StoreError::Corrupt { path: name, reason });
    }
    Ok((db, revision))
}

fn prepare(db: &Database) -> Result<(u64, u64), redb::Error> {
    let txn = db.begin_write()?;
    let found = {
        txn.open_table(OBJECTS)?;
        txn.open_table(HISTORY)?;
        txn.open_table(USED_TOKENS)?;
        txn.open_table(NODE_TOKENS)?;
        let mut meta = txn.open_table(META)?;
        let revision = meta.get(REVISION)?.map_or(0, |r| r.value());
        let format = meta.get(FORMAT)?.map(|f| f.value());
        if format.is_none() {
            meta.insert(FORMAT, FORMAT_VERSION)?;
        }
        (revision, format.unwrap_or(FORMAT_VERSION))
    };
    txn.commit()?;
    Ok(found)
}

fn check(key: &str, expect: Expect, before: Option<&Stored>, delete: bool) -> Result<(), StoreError> {
    let key = || key.to_owned();
    match (expect, before) {
        (Expect::Absent, Some(b)) => Err(StoreError::Exists { key: key(), actual: b.revision }),
        (Expect::Exists | Expect::Revision(_), None) => Err(StoreError::Missing { key: key() }),
        (_, None) if delete => Err(StoreError::Missing { key: key() }),
        (Expect::Revision(expected), Some(b)) if b.revision != expected => {
            Err(StoreError::Conflict { key: key(), expected, actual: b.revision })
        }
        _ => Ok(()),
    }
}

fn add_history(
    txn: &redb::WriteTransaction,
    key: &str,
    revision: u64,
    record: &HistoryRecord,
) -> Result<(), redb::Error> {
    let mut table = txn.open_table(HISTORY)?;
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    table.insert((key, revision), bytes.as_slice())?;
    let mut kept = Vec::new();
    for row in table.range((key, 0)..=(key, u64::MAX))? {
        kept.push(row?.0.value().1);
    }
    for old in kept.iter().take(kept.len().saturating_sub(HISTORY_LIMIT)) {
        table.remove((key, *old))?;
    }
    Ok(())
}

fn failed(path: &Path, e: &redb::Error) -> StoreError {
    let path = path.display().to_string();
    match e {
        redb::Error::Io(io) if is_full(io) => StoreError::DiskFull { path },
        redb::Error::Corrupted(reason) => StoreError::Corrupt { path, reason: reason.clone() },
        other => StoreError::Failed { path, reason: other.to_string() },
    }
}

fn is_full(e: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

fn unix_ms(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
