//! Texts for filters, matchers and logs (`set_filter_state.v3.Config`).

use sidemesh_config::resource::http_connection_manager::BodyFormatKind;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::set_filter_state::SetFilterState;
use sidemesh_config::value::{StateValue, name};

use super::{Exchange, Flow};
use crate::http::handler;
use crate::telemetry::format;

/// The filter's own values, then the route's.
pub fn on_request(own: &SetFilterState, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
    let of_route = match over {
        Some(FilterOverride::SetFilterState(config)) => Some(&**config),
        _ => None,
    };
    let mut clear = false;
    for config in std::iter::once(own).chain(of_route) {
        for entry in &config.entries {
            let mut text = String::new();
            match &entry.format.kind {
                BodyFormatKind::Text(format) => {
                    let absent = if entry.format.omit_empty { "" } else { "-" };
                    format::render(format, &x.log_context(), absent, &mut text);
                }
                BodyFormatKind::Json(json) => {
                    format::render_json(json, &x.log_context(), entry.format.omit_empty, &mut text);
                    text.push('\n');
                }
            }
            if !(text.is_empty() && entry.skip_if_empty) {
                let value = StateValue { text: name(&text), hashable: entry.hashable };
                x.info.filter_state.set(entry.key.clone(), value);
            }
        }
        clear |= config.clear_route_cache;
    }
    if clear {
        handler::select_route(x);
    }
    Flow::Continue
}
