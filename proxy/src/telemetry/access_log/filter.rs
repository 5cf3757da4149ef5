//! Access-log filters (`accesslog.v3.AccessLogFilter`): pure decisions over the finished request.

use sidemesh_config::matcher::RequestView;
use sidemesh_config::resource::access_log::{AccessLogFilter, Comparison};
use sidemesh_config::value::{Name, Runtime};

use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stream_info::{LogContext, request_number};

/// Whether the filter lets the request into the log.
pub fn admits(filter: &AccessLogFilter, ctx: &LogContext<'_>, runtime: &Runtime, random: u64) -> bool {
    let info = ctx.info;
    match filter {
        AccessLogFilter::StatusCode { op, value, runtime_key } => {
            compare(*op, u64::from(info.status), threshold(*value, runtime_key.as_ref(), runtime))
        }
        AccessLogFilter::Duration { op, value, runtime_key } => {
            let end = info.timing.downstream_tx_end.unwrap_or(ctx.now);
            let millis = end.saturating_duration_since(info.start).as_millis() as u64;
            compare(*op, millis, threshold(*value, runtime_key.as_ref(), runtime))
        }
        AccessLogFilter::NotHealthCheck => !info.health_check,
        AccessLogFilter::Traceable => info.trace.sampled,
        AccessLogFilter::Runtime { fraction, independent } => {
            let of_request = if *independent { None } else { ctx.request.and_then(|r| request_number(r.headers)) };
            fraction.value(runtime).hit(of_request.unwrap_or(random))
        }
        AccessLogFilter::And(all) => all.iter().all(|f| admits(f, ctx, runtime, random)),
        AccessLogFilter::Or(any) => any.iter().any(|f| admits(f, ctx, runtime, random)),
        AccessLogFilter::Header(matcher) => ctx.request.is_some_and(|r| {
            matcher.matches(&RequestView {
                method: r.method,
                scheme: r.scheme,
                authority: r.authority,
                path: r.path,
                headers: r.headers,
                tls: info.connection.tls.is_some(),
                metadata: Some(&info.metadata),
                filter_state: Some(&info.filter_state),
                peer_certificate: Default::default(),
                runtime,
                random,
            })
        }),
        AccessLogFilter::ResponseFlag(flags) if flags.is_empty() => !info.flags.is_empty(),
        AccessLogFilter::ResponseFlag(flags) => {
            flags.iter().any(|f| ResponseFlags::parse(f).is_some_and(|f| info.flags.has(f)))
        }
        AccessLogFilter::GrpcStatus { statuses, exclude } => {
            let code = crate::telemetry::format::grpc_code(ctx).unwrap_or_else(|| crate::grpc::from_http(info.status));
            statuses.contains(&code) != *exclude
        }
        AccessLogFilter::Metadata { matcher, match_if_missing } => {
            match info.metadata.get(&matcher.filter, &matcher.path) {
                None => *match_if_missing,
                Some(_) => matcher.matches(Some(&info.metadata)),
            }
        }
        AccessLogFilter::LogType { types, exclude } => {
            types.contains(&(if info.protocol.is_some() { DOWNSTREAM_END } else { TCP_CONNECTION_END })) != *exclude
        }
    }
}

/// `data.accesslog.v3.AccessLogType`.
const TCP_CONNECTION_END: i32 = 3;
const DOWNSTREAM_END: i32 = 6;

fn threshold(default: u32, key: Option<&Name>, runtime: &Runtime) -> u64 {
    key.and_then(|k| runtime.number(k)).map_or(u64::from(default), |n| n.max(0.0) as u64)
}

fn compare(op: Comparison, value: u64, against: u64) -> bool {
    match op {
        Comparison::Eq => value == against,
        Comparison::Ne => value != against,
        Comparison::Ge => value >= against,
        Comparison::Le => value <= against,
    }
}
