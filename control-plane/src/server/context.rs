//! What all services share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::watch;
use tonic::{Code, Status};

use crate::ca::Ca;
use crate::model::{FieldError, Key};
use crate::server::fleet::Fleet;
use crate::server::objects::WriteError;
use crate::source::{Store, StoreError};
use crate::translate::Mesh;

/// Counters of this process.
#[derive(Debug, Default)]
pub struct Counters {
    pub pushes: AtomicU64,
    pub acks: AtomicU64,
    pub nacks: AtomicU64,
    pub streams: AtomicU64,
    pub writes: AtomicU64,
    pub writes_failed: AtomicU64,
    pub tokens_refused: AtomicU64,
    pub leases_expired: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Shared by every service; cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub store: Arc<Store>,
    pub ca: Arc<Ca>,
    pub mesh: watch::Receiver<Arc<Mesh>>,
    pub fleet: Arc<Fleet>,
    pub counters: Arc<Counters>,
    pub started: SystemTime,
    /// True once the process is asked to stop.
    pub stopping: watch::Receiver<bool>,
}

impl Context {
    pub fn mesh(&self) -> Arc<Mesh> {
        self.mesh.borrow().clone()
    }

    /// Runs work that blocks on the disk.
    pub async fn blocking<T, E>(&self, work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static) -> Result<T, Status>
    where
        T: Send + 'static,
        E: Into<Refusal> + Send + 'static,
    {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(e.into().0),
            Err(e) => Err(Status::internal(format!("the write was not finished: {e}"))),
        }
    }
}

/// Waits until the process is asked to stop.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender lives as long as the process.
    drop(stopping.wait_for(|stop| *stop).await);
}

/// An error as a client gets it.
pub struct Refusal(pub Status);

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Refusal {
        let code = match &e {
            StoreError::Conflict { .. } => Code::Aborted,
            StoreError::Exists { .. } => Code::AlreadyExists,
            StoreError::Missing { .. } => Code::NotFound,
            StoreError::Compacted { .. } => Code::OutOfRange,
            StoreError::TooLarge { .. } | StoreError::DiskFull { .. } => Code::ResourceExhausted,
            _ => Code::Unavailable,
        };
        Refusal(Status::new(code, e.to_string()))
    }
}

impl From<WriteError> for Refusal {
    fn from(e: WriteError) -> Refusal {
        match e {
            WriteError::Store(e) => e.into(),
            WriteError::Internal(reason) => Refusal(Status::internal(reason)),
            WriteError::Invalid(ref key, ref errors) => Refusal(invalid(Some(key), errors, &e.to_string())),
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal(status)
    }
}

/// INVALID_ARGUMENT with every path, in words and as data.
pub fn invalid(key: Option<&Key>, errors: &[FieldError], text: &str) -> Status {
    use prost::Message;
    use sidemesh_proto::sidemesh::admin::v1alpha1 as api;
    let list = api::FieldErrors {
        r#ref: key.map(crate::server::admin::object_ref),
        errors: errors.iter().map(crate::server::admin::field_error).collect(),
    };
    let any = sidemesh_proto::google::Any {
        type_url: "type.googleapis.com/sidemesh.admin.v1alpha1.FieldErrors".into(),
        value: list.encode_to_vec(),
    };
    let details = sidemesh_proto::rpc::Status {
        code: Code::InvalidArgument as i32,
        message: text.to_owned(),
        details: vec![any],
    };
    Status::with_details(Code::InvalidArgument, text, details.encode_to_vec().into())
}

/// A protobuf time.
pub fn time(at: SystemTime) -> Option<sidemesh_proto::google::Timestamp> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Some(sidemesh_proto::google::Timestamp { seconds, nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0) })
}

/// A protobuf duration.
pub fn span(duration: std::time::Duration) -> Option<sidemesh_proto::google::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Some(sidemesh_proto::google::Duration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0) })
}

/// A duration from a request; negative ones are refused.
pub fn span_of(
    field: &str,
    duration: Option<sidemesh_proto::google::Duration>,
) -> Result<Option<std::time::Duration>, Status> {
    let Some(duration) = duration else { return Ok(None) };
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(duration.seconds), u32::try_from(duration.nanos)) else {
        return Err(Status::invalid_argument(format!("{field}: a duration must not be negative")));
    };
    Ok(Some(std::time::Duration::new(seconds, nanos.min(999_999_999))))
}
