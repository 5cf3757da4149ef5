//! What our control plane writes where the user wrote nothing. Written out in every resource, so that any xDS client
//! acts the same; `docs/operations.md` lists these values.

use std::time::Duration;

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Envoy's and Istio's route timeout.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
pub const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
pub const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// A client that sends its headers more slowly than this is cut off.
pub const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(10);

pub const MAX_CONNECTIONS: u32 = 1024;
pub const MAX_PENDING_REQUESTS: u32 = 1024;
pub const MAX_REQUESTS: u32 = 4096;

pub const RETRIES: u32 = 2;
/// How often a retry draws again when it drew a host that was tried already.
pub const HOST_SELECTION_ATTEMPTS: i64 = 5;
pub const RETRY_BUDGET_PERCENT: f64 = 20.0;
pub const RETRY_BUDGET_MIN_CONCURRENCY: u32 = 3;
pub const RETRY_BACKOFF_BASE: Duration = Duration::from_millis(25);
pub const RETRY_BACKOFF_MAX: Duration = Duration::from_millis(250);
/// For methods that may be repeated (RFC 9110, section 9.2.2).
pub const RETRY_ON_IDEMPOTENT: &str = "connect-failure,refused-stream,reset-before-request,reset,gateway-error";
/// The same where a rule names the codes itself.
pub const RETRY_ON_NO_ANSWER: &str = "connect-failure,refused-stream,reset-before-request,reset";
/// For all others: only what certainly was never handled.
pub const RETRY_ON_NEVER_SENT: &str = "connect-failure,refused-stream,reset-before-request";
pub const IDEMPOTENT_METHODS: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

pub const CONSECUTIVE_5XX: u32 = 5;
pub const EJECTION_INTERVAL: Duration = Duration::from_secs(10);
pub const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
/// A host is ejected while the share that is out stays below this: half of them, and one of two.
pub const MAX_EJECTION_PERCENT: u32 = 51;
/// Below this share of healthy endpoints all are used again.
pub const PANIC_THRESHOLD_PERCENT: u32 = 50;

/// HTTP/2 between sidecars and from the application.
pub const MAX_CONCURRENT_STREAMS: u32 = 1000;
