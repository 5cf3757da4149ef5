//! gRPC call counts (`grpc_stats`): per cluster and, where configured, per service and method.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http::header::HeaderMap;
use http_body::{Frame, SizeHint};
use sidemesh_config::resource::http_filter::GrpcStats as Config;

use super::{Data, Exchange, Flow};
use crate::body::{Body, Error, HttpBody};
use crate::http::exchange::is_grpc;
use crate::http::names::GRPC_STATUS;
use crate::stats_group;
use crate::telemetry::stats::Scope;
use crate::worker::Worker;

stats_group! {
    /// `cluster.<name>.grpc.[<service>.<method>.]`
    pub struct CallStats {
        success: Counter,
        failure: Counter,
        total: Counter,
    }
}

/// Distinct calls counted apart; what comes after them is counted for the cluster alone.
const MAX_METHODS: usize = 500;

pub struct GrpcStats {
    config: Config,
    groups: RefCell<HashMap<String, Arc<CallStats>>>,
}

/// A call that is under way.
pub struct Call {
    method: Option<(String, String)>,
}

impl GrpcStats {
    pub fn new(config: &Config) -> Self {
        GrpcStats { config: config.clone(), groups: RefCell::default() }
    }

    pub fn on_request(&self, at: u16, x: &mut Exchange) -> Flow {
        if !x.is_grpc() {
            return Flow::Continue;
        }
        let path = x.view().path_only();
        let method = path.strip_prefix('/').and_then(|p| p.split_once('/')).filter(|(s, m)| self.counts(s, m));
        let method = method.map(|(s, m)| (s.replace('.', "_"), m.to_owned()));
        x.data.push((at, Data::GrpcStats(Call { method })));
        Flow::Continue
    }

    fn counts(&self, service: &str, method: &str) -> bool {
        self.config.stats_for_all_methods
            || self
                .config
                .services
                .iter()
                .any(|(s, methods)| **s == *service && (methods.is_empty() || methods.iter().any(|m| **m == *method)))
    }

    fn group(&self, worker: &Rc<Worker>, cluster: &str, call: &Call) -> Arc<CallStats> {
        let mut groups = self.groups.borrow_mut();
        let prefix = match &call.method {
            Some((service, method)) if groups.len() < MAX_METHODS => {
                format!("cluster.{cluster}.grpc.{service}.{method}")
            }
            _ => format!("cluster.{cluster}.grpc"),
        };
        let make = |prefix: &String| worker.stats().shard(Scope::Filter(prefix.as_str().into()));
        groups.entry(prefix.clone()).or_insert_with(|| make(&prefix)).clone()
    }

    pub fn on_response(&self, at: u16, x: &mut Exchange, response: &mut Response<Body>) {
        let Some(Data::GrpcStats(call)) = super::take(x, at) else { return };
        let Some(cluster) = x.info.cluster.clone() else { return };
        let group = self.group(&x.manager.worker, &cluster, &call);
        if response.body().is_end() || !is_grpc(response.headers()) {
            charge(&group, response.headers());
            return;
        }
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = Body::boxed(Counted { body, group });
    }
}

fn charge(group: &CallStats, headers: &HeaderMap) {
    group.total.inc();
    match headers.get(GRPC_STATUS).is_some_and(|s| s == "0") {
        true => group.success.inc(),
        false => group.failure.inc(),
    }
}

/// A body whose trailers say how the call went.
struct Counted {
    body: Body,
    group: Arc<CallStats>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = ready!(this.body.poll_next(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            charge(&this.group, trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.exact_len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
