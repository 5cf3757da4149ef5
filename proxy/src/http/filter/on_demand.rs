//! `on_demand.v3.OnDemand`: a request that no virtual host of its table is for asks the management server for one (VHDS), waits until
//! it comes or is known to be absent, and is routed again. How long that may take is the manager's `initial_fetch_timeout`.

use std::sync::Arc;

use sidemesh_config::resource::route::RouteConfig;
use sidemesh_config::value::Name;

use super::Flow;
use crate::http::exchange::Exchange;
use crate::http::handler;

pub(super) fn on_request(x: &mut Exchange) -> Flow {
    match wanted(x) {
        Some((_, name)) if !x.config.absent_hosts.contains(&name) => Flow::Wait,
        _ => Flow::Continue,
    }
}

/// The table, and the name of the host that is missing in it.
fn wanted(x: &Exchange) -> Option<(Arc<RouteConfig>, Name)> {
    let selected = x.selected.as_ref().filter(|s| s.vhost.is_none() && s.table.vhds.is_some())?;
    let host = x.view().authority.to_ascii_lowercase();
    Some((selected.table.clone(), Name::from(format!("{}/{host}", selected.table.name))))
}

pub(super) async fn wait(x: &mut Exchange) -> Flow {
    let Some((table, name)) = wanted(x) else { return Flow::Continue };
    let worker = x.manager.worker.clone();
    let mut changes = worker.shared.live.subscribe();
    worker.shared.live.demand(&name);
    loop {
        let config = worker.config();
        let there = config.route_config(&table.name).is_none_or(|t| t.virtual_host(x.view().authority).is_some());
        if there || config.absent_hosts.contains(&name) || changes.changed().await.is_err() {
            x.config = config;
            handler::select_route(x);
            return Flow::Continue;
        }
    }
}
