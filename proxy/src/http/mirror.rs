//! Request mirroring (`request_mirror_policies`): a copy goes to a shadow cluster, its answer goes nowhere.
//!
//! A mirrored request is a task of its own on the worker, the one place on the request path that spawns: it must neither hold up nor
//! outlive-by-cancel the request it copies. Bodies are copied whole, up to the buffer limit; longer ones are not mirrored.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use sidemesh_config::resource::http_filter::header_mutation::Mutation;
use sidemesh_config::resource::route::{Forward, MirrorPolicy, Priority};

use super::exchange::Exchange;
use super::names::*;
use super::normalize::split_port;
use super::upload::Upload;
use super::{filter, forwarded, headers, route};
use crate::body::Body;
use crate::codec::SendOptions;
use crate::telemetry::stream_info::TraceContext;
use crate::telemetry::trace;
use crate::upstream::{AttemptInfo, AttemptOptions, Cluster, PickContext};

/// How long a shadow may take when the route has no timeout.
const LONGEST: Duration = Duration::from_secs(60);

/// Whether a policy may copy the request.
pub fn wanted(x: &Exchange, forward: &Forward) -> bool {
    !policies(x, forward).is_empty()
}

/// The route's policies, else the virtual host's, else the table's.
fn policies<'a>(x: &'a Exchange, forward: &'a Forward) -> &'a [MirrorPolicy] {
    if !forward.mirrors.is_empty() {
        return &forward.mirrors;
    }
    let Some(selected) = &x.selected else { return &[] };
    match &selected.vhost {
        Some(vhost) if !vhost.request_mirrors.is_empty() => &vhost.request_mirrors,
        _ => &selected.table.request_mirrors,
    }
}

/// Starts the copies that are drawn.
pub fn launch(x: &Exchange, forward: &Forward) {
    for policy in policies(x, forward) {
        if x.upgrade.is_some()
            || !policy.fraction.value(&x.config.runtime).hit(x.manager.worker.local.random.next_u64())
        {
            continue;
        }
        let name = route::leaf_name(&policy.cluster, |name| x.header(name));
        let Some(cluster) = name.and_then(|n| x.manager.upstream.cluster(&x.config, &n)) else { continue };
        let head = head(x, policy);
        let limit = forward.timeout.unwrap_or(LONGEST);
        let timers = x.manager.worker.local.timers.clone();
        let upload = x.upload.clone();
        tokio::task::spawn_local(async move {
            let _ = timers.timeout(limit, send(cluster, head, upload)).await;
        });
    }
}

/// The copy's head: marked as internal, its host told apart.
fn head(x: &Exchange, policy: &MirrorPolicy) -> http::request::Parts {
    let mut head = x.parts.clone();
    head.headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    forwarded::append_self(&mut head.headers);
    if let Some(sampled) = policy.trace_sampled
        && x.info.trace.trace_id != 0
    {
        let context = TraceContext { sampled, ..x.info.trace };
        let provider = x.manager.config.tracing.as_ref().and_then(|t| t.provider.as_deref());
        trace::inject(provider, &context, x.trace_state.as_ref(), &mut head.headers);
    }
    for step in &policy.request_headers {
        match step {
            Mutation::Set(edit) => {
                let change = headers::evaluate_one(edit, &head.headers, &x.log_context());
                headers::apply(change.into_iter().collect(), &mut head.headers);
            }
            step => filter::remove_by(&mut head.headers, step),
        }
    }
    let host = match &policy.host_rewrite {
        Some(host) => host.to_string(),
        None if policy.disable_shadow_host_suffix => return head,
        None => match split_port(x.authority()) {
            (name, Some(port)) => format!("{name}-shadow:{port}"),
            (name, None) => format!("{name}-shadow"),
        },
    };
    if let Ok(host) = HeaderValue::try_from(host) {
        head.headers.insert(HOST, host);
    }
    head
}

async fn send(cluster: Rc<Cluster>, head: http::request::Parts, upload: Option<Rc<Upload>>) {
    let body = match upload {
        None => Body::empty(),
        Some(upload) => match poll_fn(|cx| upload.poll_whole(cx)).await {
            Some((bytes, None)) => Body::full(bytes),
            Some((bytes, Some(trailers))) => Body::full_with_trailers(bytes, trailers),
            None => {
                cluster.stats().retry_or_shadow_abandoned.inc();
                return;
            }
        },
    };
    let Ok(host) = cluster.pick(&PickContext::default()) else { return };
    let options = AttemptOptions {
        priority: Priority::Default,
        send: SendOptions::default(),
        downstream: None,
        protocol: Some(crate::codec::Protocol::Http11),
        connection: None,
    };
    let info = AttemptInfo::default();
    if let Ok(response) = cluster.request(&host, &head, body, options, &info).await {
        let status = response.status().as_u16();
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.next().await {}
        cluster.charge_own(status, None);
    }
}
