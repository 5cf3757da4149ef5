//! The access logs of a listener: one line per connection, served or not.
use std::rc::Rc;

use crate::connection::ConnectionInfo;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::stream_info::{LogContext, Moment, StreamInfo};
use crate::tls;
use crate::worker::Worker;

/// Why a connection was not served.
pub(super) enum Unserved<'a> {
    /// No chain took it, for this reason.
    Unrouted(&'static str),
    Handshake(&'a tls::Error),
}

/// A connection that was served: `session` is what its filters know of it.
pub(super) fn log_served(worker: &Worker, info: &Rc<ConnectionInfo>, session: Option<Box<StreamInfo>>) {
    match session {
        Some(mut session) if !info.listener.access_logs.is_empty() => {
            session.moment = Moment::Connection;
            write(worker, info, &session);
        }
        Some(_) => {}
        None => log_connection(worker, info, None),
    }
}

/// The listener's own access logs: one line per connection.
pub(super) fn log_connection(worker: &Worker, info: &Rc<ConnectionInfo>, unserved: Option<Unserved<'_>>) {
    if !info.listener.access_logs.is_empty() {
        let mut stream = StreamInfo::new(info.clone(), None, info.start, info.start_time);
        stream.moment = Moment::Connection;
        let passed = info.passed.get();
        (stream.request_body_bytes, stream.response_body_bytes) = (passed.received, passed.sent);
        stream.protocol = passed.protocol;
        match unserved {
            Some(Unserved::Unrouted(details)) => {
                stream.flags = ResponseFlags::NO_ROUTE_FOUND;
                stream.details = details.into();
            }
            Some(Unserved::Handshake(error)) => stream.transport_failure = Some(error.to_string().into()),
            None => {}
        }
        write(worker, info, &stream);
    }
}

fn write(worker: &Worker, info: &ConnectionInfo, stream: &StreamInfo) {
    let context = LogContext::of(stream, worker.local.clock.now());
    let random = worker.local.random.next_u64();
    worker.log.log(&info.listener.access_logs, &context, &worker.config().runtime, random);
}
